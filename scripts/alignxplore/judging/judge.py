"""Judges: how well a preference description guides a model that selects (R_jud, Eq. 6) or writes (R_gen, Eq. 5)."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignxplore import engines
from alignxplore.engines import Engine, Sampling
from alignxplore.judging.verdicts import exact_selection, parse_selection
from alignxplore.prompts import JUDGE_CHOICES, Prompt, Templates

Cases = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Judge:
    """One model that scores responses; `kind` is "jud" (R_jud, Eq. 6), "gen" (R_gen, Eq. 5) or another of KINDS.

    "published" is R_jud as the authors' figures measure it: sampled once, in one order.

    R_jud reads the model's probabilities at the selection. With `sampling`, the model instead writes its answer,
    after reasoning if it can, and the selection is parsed. `length_normalised` divides the log-likelihoods of R_gen by
    the number of response tokens.
    """

    kind: str
    engine: Engine
    templates: Templates
    sampling: Sampling | None = None
    length_normalised: bool = False

    def p_chosen(self, cases: Cases, preferences: Sequence[str]) -> np.ndarray:
        """Probability of the chosen response when it is shown first, and when it is shown second: (cases, 2).

        A case has `prompt`, `chosen` and `rejected`. NaN marks an order without a verdict: the answer selects neither
        response, or the model refused the prompt.
        """
        return KINDS[self.kind](self, cases, preferences)


def p_chosen_unless_refused(judge: Judge, cases: Cases, preferences: Sequence[str], refused: np.ndarray) -> np.ndarray:
    """`Judge.p_chosen`, but the judge is not asked about a `refused` case (cases,): both of its orders are NaN."""
    probabilities = np.full((len(cases), 2), np.nan)
    asked = np.flatnonzero(~refused).tolist()
    if asked:
        probabilities[asked] = judge.p_chosen([cases[i] for i in asked], [preferences[i] for i in asked])
    return probabilities


def _selects(judge: Judge, cases: Cases, preferences: Sequence[str]) -> np.ndarray:
    """R_jud: the probability that the judge selects the chosen response."""
    written = judge.sampling is not None
    prompts = [
        judge.templates.judge(case["prompt"], preference, case[first], case[second], written=written)
        for case, preference in zip(cases, preferences, strict=True)
        for first, second in (("chosen", "rejected"), ("rejected", "chosen"))
    ]
    p_first = _p_first(judge.engine, prompts, judge.sampling)
    return np.stack([p_first[0::2], 1 - p_first[1::2]], axis=1)


def _p_first(engine: Engine, prompts: Sequence[Prompt], sampling: Sampling | None) -> np.ndarray:
    """Probability of the response shown first, read or, with `sampling`, parsed in two attempts: (prompts,)."""
    if sampling is None:
        logprobs = engine.choice_logprobs(prompts, JUDGE_CHOICES)
        return 1 / (1 + np.exp(logprobs[:, 1] - logprobs[:, 0]))
    selected: list[str | None] = [None] * len(prompts)
    asked = list(range(len(prompts)))
    for attempt in range(2):
        reseeded = replace(sampling, seed=sampling.seed + attempt)
        completions = dict(zip(asked, engine.generate([prompts[index] for index in asked], reseeded), strict=True))
        for index, completion in completions.items():
            if completion.finish_reason == "stop":
                selected[index] = parse_selection(completion.text)
        # A refused prompt would be refused again.
        asked = [i for i in asked if selected[i] is None and completions[i].finish_reason != "refused"]
    return np.array([{"A": 1.0, "B": 0.0, None: np.nan}[choice] for choice in selected])


def _samples_once(judge: Judge, cases: Cases, preferences: Sequence[str]) -> np.ndarray:
    """The published protocol: one sampled selection in one order, matched exactly; it stands for both orders."""
    assert judge.sampling is not None
    orders = [_order(case) for case in cases]
    prompts = [
        judge.templates.judge(case["prompt"], preference, case[first], case[second], written=True)
        for case, preference, (first, second) in zip(cases, preferences, orders, strict=True)
    ]
    completions = judge.engine.generate(prompts, judge.sampling)
    p_chosen = []
    for completion, (first, second) in zip(completions, orders, strict=True):
        selected = {"A": first, "B": second, None: None}[exact_selection(completion.text)]
        p_chosen.append({"chosen": 1.0, "rejected": 0.0, None: np.nan}[selected])
    return np.stack([p_chosen, p_chosen], axis=1)


def _order(case: Mapping[str, Any]) -> tuple[str, str]:
    """Which of a case's responses is shown first and which second.

    A coin decides that depends on the post and the two texts alone: it is the same for all methods, judges and seeds,
    and if the case is reversed.
    """
    texts = sorted((case["chosen"], case["rejected"]))
    coin = hashlib.sha256(json.dumps([case["prompt"], *texts]).encode()).digest()[0] % 2
    return ("chosen", "rejected") if case["chosen"] == texts[coin] else ("rejected", "chosen")


def _gains(judge: Judge, cases: Cases, preferences: Sequence[str]) -> np.ndarray:
    """R_gen: the logistic function of Eq. 5's difference of log-probability gains, in nats."""
    prompts, texts = [], []
    for case, preference in zip(cases, preferences, strict=True):
        for side in ("chosen", "rejected"):
            for description in (preference, ""):
                prompts.append(judge.templates.respond(case["prompt"], description))
                texts.append(case[side])
    scores = judge.engine.loglikelihood(prompts, texts)
    values = np.array([total / max(tokens, 1) if judge.length_normalised else total for total, tokens in scores])
    chosen_with, chosen_without, rejected_with, rejected_without = values.reshape(-1, 4).T
    return both_orders((chosen_with - chosen_without) - (rejected_with - rejected_without))


def both_orders(margin: np.ndarray) -> np.ndarray:
    """Probabilities (cases, 2) from log-odds of the chosen response, for a kind of judge that sees no order."""
    return np.repeat(1 / (1 + np.exp(-margin))[:, None], 2, axis=1)


KINDS: dict[str, Callable[[Judge, Cases, Sequence[str]], np.ndarray]] = {
    "jud": _selects,
    "gen": _gains,
    "published": _samples_once,
}
"""What each kind of judge computes: probabilities as `Judge.p_chosen` returns them."""


def judge_entry(tracked: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A judge's entry, from what a rule tracks of it in its params and the config's `run` options of its model."""
    return {**tracked, "model": engines.model_entry(tracked["model"], config)}


def load_judge(entry: Mapping[str, Any], templates: Templates, journal: str) -> Judge:
    """The judge of an entry from `judge_entry`, whose `model` is a model's entry; `seed` is needed for `sampling`."""
    sampling = Sampling(**entry["sampling"], seed=entry["seed"]) if "sampling" in entry else None
    engine = engines.load(entry["model"], journal)
    return Judge(entry["kind"], engine, templates, sampling, entry.get("length_normalised", False))


def is_correct(probabilities: np.ndarray) -> np.ndarray:
    """Whether the chosen response wins on average over both orders (Eq. 5, 6); a tie is not a win, NaN is a half."""
    return np.nan_to_num(probabilities, nan=0.5).mean(1) > 0.5


def position_flip(probabilities: np.ndarray) -> np.ndarray:
    """Whether the two orders disagree about the better response; an order that is NaN never disagrees."""
    known = ~np.isnan(probabilities).any(1)
    return known & ((probabilities[:, 0] > 0.5) != (probabilities[:, 1] > 0.5))
