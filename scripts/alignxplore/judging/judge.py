"""Judges: offline rewards: how well a preference description guides a judge (Eq. 6) or a generator (Eq. 5)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from alignxplore import engines
from alignxplore.engines import Engine, Sampling
from alignxplore.prompts import JUDGE_CHOICES, Prompt, Templates

Cases = Sequence[Mapping[str, Any]]

_SELECTION = re.compile(r"""["']?selection["']?\s*:\s*["']?\s*(?:response\s*)?([AB])\b""", re.IGNORECASE)
_MENTION = re.compile(r"\bresponse ([AB])\b", re.IGNORECASE)


@dataclass(frozen=True)
class Judge:
    """A reward by one model: of `kind` "jud" (R_jud, Eq. 6), "gen" (R_gen, Eq. 5), or another of KINDS.

    With `sampling`, the model of R_jud writes its answer, having thought if it can, and the selection is parsed;
    without, its probabilities at the selection are read. `length_normalised` divides log-likelihoods of R_gen by the
    tokens of the response.
    """

    kind: str
    engine: Engine
    templates: Templates
    sampling: Sampling | None = None
    length_normalised: bool = False

    def p_chosen(self, cases: Cases, preferences: Sequence[str]) -> np.ndarray:
        """Probability of the chosen response, with the chosen one shown first and second: (cases, 2).

        A case has `prompt`, `chosen` and `rejected`. NaN stands for a selection that could not be parsed.
        """
        return KINDS[self.kind](self, cases, preferences)

    def _p_first(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Probability of the response shown first: (prompts,)."""
        if self.sampling is None:
            logprobs = self.engine.choice_logprobs(prompts, JUDGE_CHOICES)
            return 1 / (1 + np.exp(logprobs[:, 1] - logprobs[:, 0]))
        selected: list[str | None] = [None] * len(prompts)
        for attempt in range(2):
            open_ = [index for index, choice in enumerate(selected) if choice is None]
            sampling = replace(self.sampling, seed=self.sampling.seed + attempt)
            completions = self.engine.generate([prompts[index] for index in open_], sampling)
            for index, completion in zip(open_, completions, strict=True):
                if completion.finish_reason == "stop":
                    selected[index] = parse_selection(completion.text)
        return np.array([{"A": 1.0, "B": 0.0, None: np.nan}[choice] for choice in selected])


def _selects(judge: Judge, cases: Cases, preferences: Sequence[str]) -> np.ndarray:
    """R_jud: the probability that the judge selects the chosen response."""
    prompts = []
    for case, preference in zip(cases, preferences, strict=True):
        for first, second in (("chosen", "rejected"), ("rejected", "chosen")):
            prompts.append(
                judge.templates.judge(
                    case["prompt"], preference, case[first], case[second], written=judge.sampling is not None
                )
            )
    p_first = judge._p_first(prompts)
    return np.stack([p_first[0::2], 1 - p_first[1::2]], axis=1)


def _gains(judge: Judge, cases: Cases, preferences: Sequence[str]) -> np.ndarray:
    """R_gen: the logistic function of Eq. 5's difference of log-probability gains, in nats."""
    posts, descriptions, texts = [], [], []
    for case, preference in zip(cases, preferences, strict=True):
        for side in ("chosen", "rejected"):
            for description in (preference, ""):
                posts.append(case["prompt"])
                descriptions.append(description)
                texts.append(case[side])
    prompts = [judge.templates.respond(post, d) for post, d in zip(posts, descriptions, strict=True)]
    scores = judge.engine.loglikelihood(prompts, texts)
    values = np.array([total / max(tokens, 1) if judge.length_normalised else total for total, tokens in scores])
    chosen_with, chosen_without, rejected_with, rejected_without = values.reshape(-1, 4).T
    return both_orders((chosen_with - chosen_without) - (rejected_with - rejected_without))


def both_orders(margin: np.ndarray) -> np.ndarray:
    """Probabilities of a kind to which the order of presentation is nothing, from log-odds of the chosen response."""
    return np.repeat(1 / (1 + np.exp(-margin))[:, None], 2, axis=1)


KINDS: dict[str, Callable[[Judge, Cases, Sequence[str]], np.ndarray]] = {
    "jud": _selects,
    "gen": _gains,
}
"""What a judge's `kind` computes: probabilities as `Judge.p_chosen` returns them."""


def load_judge(entry: Mapping[str, Any], templates: Templates, journal: str) -> Judge:
    """The judge of a config entry in which `model` is the model's own entry, and `seed` the run's."""
    sampling = Sampling(**entry["sampling"], seed=entry["seed"]) if "sampling" in entry else None
    engine = engines.load(entry["model"], journal)
    return Judge(entry["kind"], engine, templates, sampling, entry.get("length_normalised", False))


def judge_entry(tracked: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A judge's entry, from what a rule tracks of it and the `run` options that the config has for its model now."""
    return {**tracked, "model": engines.model_entry(tracked["model"], config)}


def is_correct(probabilities: np.ndarray) -> np.ndarray:
    """Whether the chosen response wins on average over both orders; a tie is not a win (Eq. 5, 6)."""
    return np.nan_to_num(probabilities, nan=0.5).mean(1) > 0.5


def position_flip(probabilities: np.ndarray) -> np.ndarray:
    """Whether the two orders disagree about the better response; one that is unknown (NaN) disagrees with none."""
    known = ~np.isnan(probabilities).any(1)
    return known & ((probabilities[:, 0] > 0.5) != (probabilities[:, 1] > 0.5))


def parse_selection(text: str) -> Literal["A", "B"] | None:
    """The response that a written judgement selects.

    That is the last selection behind its reasoning, or, where it has none, the only response that it names there.
    Reasoning that does not end selects nothing.
    """
    _, closed, answer = text.rpartition("</think>")
    if "<think>" in text and not closed:
        return None
    found = _SELECTION.findall(answer) or list(set(map(str.upper, _MENTION.findall(answer))))
    if not found or (len(found) > 1 and not _SELECTION.search(answer)):
        return None
    return "A" if found[-1].upper() == "A" else "B"
