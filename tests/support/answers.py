"""What a backend answered, in the form that tests compare."""

from typing import Any

from alignxplore.engines import Choice, Completion, Likelihood, Refused


def in_order(batches: Any) -> list[Any]:
    """The answers in the order of their prompts; log-probabilities come without the number of tokens read."""
    answers = dict(pair for batch in batches for pair in batch)
    return [_bare(answers[index]) for index in range(len(answers))]


def _bare(answer: Choice | Likelihood | Completion | Refused) -> Any:
    match answer:
        case Choice():
            return list(answer.logprobs)
        case Likelihood():
            return answer.logprob, answer.tokens
    return answer
