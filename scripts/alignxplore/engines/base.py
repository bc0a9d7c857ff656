"""What every engine offers: completions, probabilities of choices, and log-likelihoods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from alignxplore.prompts import Prompt


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn (paper 4.1: temperature 0.9, top-p 0.95, top-k 10)."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Completion:
    """A completion without its end-of-turn token; `finish_reason` is "length" where it was cut off."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


class Engine(Protocol):
    """A language model; all methods answer in the order of their prompts."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """One sampled completion for each prompt."""
        ...

    def choice_logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> np.ndarray:
        """Log-probability, in nats, of each choice's first token after each prompt: (prompts, choices)."""
        ...

    def loglikelihood(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[tuple[float, int]]:
        """For each prompt, the log-likelihood of its continuation in nats, and the continuation's tokens."""
        ...


def choice_logprobs_from_top(top: Mapping[Any, float], choices: Sequence[Any]) -> list[float]:
    """Log-probabilities of `choices` where only those of the most probable tokens, `top`, are known.

    A choice that is not among them gets the least of theirs, an upper bound.
    """
    floor = min(top.values())
    return [top.get(choice, floor) for choice in choices]
