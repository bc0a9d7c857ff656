"""What passes between the experiment and a language model: prompts in; completions, probabilities, likelihoods out."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from alignxplore.errors import UserError
from alignxplore.prompts import Prompt


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn (paper 4.1: temperature 0.9, top-p 0.95, top-k 10; 0 is greedy, top-k 0 is all).

    A completion ends at the model's own end of turn, or behind the first of the texts in `stop`.
    """

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """A completion without its end-of-turn token; `finish_reason` is "length" where it was cut off.

    Reasoning stands between think tags, whichever way the model marks it. `logprobs` are those of the completion's
    tokens, in nats, before temperature and truncation; empty where an endpoint does not tell them.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[float, ...] = ()


class PromptRefused(UserError):
    """A prompt that a model cannot be asked, by its index among those of the call."""

    def __init__(self, index: int, reason: str):
        super().__init__(f"prompt {index + 1} {reason}")
        self.index = index
        self.reason = reason


class Backend(Protocol):
    """One way of running a language model.

    Methods yield answers as they are found, each a batch of (index of the request, answer). A batch of which all
    are in `done` is left out; how the rest is batched depends on the requests alone, so that what a killed job had
    found and what it finds when run again are those of an undisturbed one. A prompt that the model cannot be asked is a
    PromptRefused before anything is computed.
    """

    def generate(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], sampling: Sampling, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Completion]]]:
        """One completion for each prompt, drawn by its own seed."""
        ...

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, list[float]]]]:
        """Log-probability, in nats, of each choice's first token after each prompt."""
        ...

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, tuple[float, int]]]]:
        """For each prompt, the log-likelihood of its continuation in nats, and the continuation's tokens."""
        ...


def choice_logprobs_from_top(top: Mapping[Any, float], choices: Sequence[Any]) -> list[float]:
    """Log-probabilities of `choices` where only those of the most probable tokens, `top`, are known.

    A choice that is not among them gets the least of theirs, an upper bound.
    """
    floor = min(top.values())
    return [top.get(choice, floor) for choice in choices]
