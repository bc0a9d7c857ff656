"""Offline rewards: how well a preference description guides a judge (Eq. 6) or a generator (Eq. 5)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from alignxplore.engines.base import Engine
from alignxplore.prompts import JUDGE_CHOICES, Templates

Kind = Literal["jud", "gen"]


def p_chosen(
    engine: Engine,
    templates: Templates,
    kind: Kind,
    cases: Sequence[Mapping[str, Any]],
    preferences: Sequence[str],
    length_normalised: bool = False,
) -> np.ndarray:
    """Probability of the chosen response, with the chosen one shown first and second: (cases, 2).

    A case has `prompt`, `chosen` and `rejected`. For kind "gen" the order of presentation does not exist and both
    columns hold the logistic function of Eq. 5's margin.
    """
    if kind == "jud":
        return _judged(engine, templates, cases, preferences)
    margin = _gain_margin(engine, templates, cases, preferences, length_normalised)
    return np.repeat(1 / (1 + np.exp(-margin))[:, None], 2, axis=1)


def is_correct(probabilities: np.ndarray) -> np.ndarray:
    """Whether the chosen response wins on average over both orders; a tie is not a win (Eq. 5, 6)."""
    return probabilities.mean(1) > 0.5


def position_flip(probabilities: np.ndarray) -> np.ndarray:
    """Whether the two orders disagree about the better response."""
    return (probabilities[:, 0] > 0.5) != (probabilities[:, 1] > 0.5)


def _judged(
    engine: Engine, templates: Templates, cases: Sequence[Mapping[str, Any]], preferences: Sequence[str]
) -> np.ndarray:
    prompts = []
    for case, preference in zip(cases, preferences, strict=True):
        prompts.append(templates.judge(case["prompt"], preference, case["chosen"], case["rejected"]))
        prompts.append(templates.judge(case["prompt"], preference, case["rejected"], case["chosen"]))
    logprobs = engine.choice_logprobs(prompts, JUDGE_CHOICES)
    first = 1 / (1 + np.exp(logprobs[:, 1] - logprobs[:, 0]))
    return np.stack([first[0::2], 1 - first[1::2]], axis=1)


def _gain_margin(
    engine: Engine,
    templates: Templates,
    cases: Sequence[Mapping[str, Any]],
    preferences: Sequence[str],
    length_normalised: bool,
) -> np.ndarray:
    """Eq. 5's difference of log-probability gains, in nats; a text asked for twice is scored once."""
    wanted: dict[tuple[str, str, str], int] = {}
    rows = []
    for case, preference in zip(cases, preferences, strict=True):
        keys = [(case["prompt"], d, case[side]) for side in ("chosen", "rejected") for d in (preference, "")]
        rows.append([wanted.setdefault(key, len(wanted)) for key in keys])
    scores = engine.loglikelihood(
        [templates.respond(post, d) for post, d, _ in wanted], [text for _, _, text in wanted]
    )
    values = np.array([total / max(tokens, 1) if length_normalised else total for total, tokens in scores])
    chosen_with, chosen_without, rejected_with, rejected_without = values[np.array(rows)].T
    return (chosen_with - chosen_without) - (rejected_with - rejected_without)
