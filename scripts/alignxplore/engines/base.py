"""What passes between the experiment and a model: prompts in; completions, probabilities and likelihoods out."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from alignxplore.prompts import Prompt

OPENAI_URL = "https://api.openai.com/v1"
"""Where an entry of the engine openai without `base_url` is served."""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn; temperature 0 is greedy, `top_k` 0 keeps all tokens.

    Paper 4.1 uses temperature 0.9, top-p 0.95, top-k 10. A completion ends at the model's end of turn, or right after
    the first of the `stop` texts.
    """

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """A completion without its end-of-turn token; `finish_reason` is "length" if it was cut off, or "refused".

    Reasoning is in think tags, however the model marks it. `logprobs` are the token log-probabilities in nats, before
    temperature and truncation; empty if an endpoint does not return them.
    """

    text: str
    finish_reason: Literal["stop", "length", "refused"]
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Choice:
    """Log-probabilities, in nats, of the tokens by which choices differ after a prompt, and the tokens that it took."""

    logprobs: tuple[float, ...]
    prompt_tokens: int
    completion_tokens: int = 0


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihood of a prompt's continuation, in nats, its number of `tokens`, and the tokens that it took.

    `prompt_tokens` counts the prompt with its continuation.
    """

    logprob: float
    tokens: int
    prompt_tokens: int
    completion_tokens: int = 0


@dataclass(frozen=True)
class Refused:
    """Why a prompt has no answer: it is too long, or the server filters or declines it. It costs that prompt alone."""

    reason: str


class Backend(Protocol):
    """One way to run a language model.

    Each method yields answers as they are found, in batches of (index of the request, answer). `done` holds indices
    that need no answer: a batch is skipped if all of it is done. Batches must depend on the requests alone, not on
    `done`, because an answer can depend on the other prompts in its batch. So a killed job that runs again gives the
    answers of an undisturbed one. The answer to a prompt that the model cannot be asked is Refused.
    """

    def generate(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], sampling: Sampling, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Completion | Refused]]]:
        """One completion per prompt, drawn with the prompt's own seed; `sampling.seed` is not used."""
        ...

    def choice_logprobs(
        self, prompts: Sequence[Prompt], choices: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Choice | Refused]]]:
        """For each prompt, the log-probabilities of the tokens by which the choices differ after it."""
        ...

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Likelihood | Refused]]]:
        """For each prompt, the log-likelihood of its continuation."""
        ...
