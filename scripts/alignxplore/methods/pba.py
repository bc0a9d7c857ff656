"""PBA: every signal is placed on predefined dimensions, and what the signals agree on is put into words.

Li et al. 2025, "From 1,000,000 Users to Every User: Scaling Up Personalized Preference for User-level Alignment", whose
preference-bridged alignment averages the directions 0, 0.5 and 1 of a user's signals. There they are annotations of
the data set; here a model finds them, as its probabilities that a signal shows the one pole, the other, or neither.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import polars as pl

from alignxplore.data.wording import Wording
from alignxplore.engines import Engine
from alignxplore.methods.preferences import worded_rows
from alignxplore.prompts import SCORE_CHOICES, Templates
from alignxplore.records import N_DIMENSIONS

_CASES_AT_ONCE = 100
"""Up to 72,000 prompts for four signals; those of a whole benchmark would fill the memory."""


def bridged_preferences(
    engine: Engine, templates: Templates, cases: pl.DataFrame, method: str, entry: Mapping[str, Any], wording: Wording
) -> pl.DataFrame:
    """PREFERENCE rows whose description words the directions of a case and whose reasoning lists its scores.

    `entry` has the thresholds `upper` and `lower` and may name AlignX `dimensions` by index; without, all 90 are
    scored. Tokens are not counted: nothing is generated.
    """
    dimensions = entry.get("dimensions", range(N_DIMENSIONS))
    poles = [(wording.phrase(str(index), 1), wording.phrase(str(index), -1)) for index in dimensions]
    rows = list(cases.iter_rows(named=True))
    texts: list[tuple[str, str]] = []
    for start in range(0, len(rows), _CASES_AT_ONCE):
        of_cases = [[*row["pairs"], *row["ugc"]] for row in rows[start : start + _CASES_AT_ONCE]]
        scores = iter(signal_scores(engine, templates, list(chain(*of_cases)), poles))
        for signals in of_cases:
            mean = np.mean(list(islice(scores, len(signals))), axis=0)
            direction = np.zeros(N_DIMENSIONS, dtype=int)
            direction[list(dimensions)] = directions(mean, entry["upper"], entry["lower"])
            listed = "\n".join(f"{score:.3f} {up} / {down}" for score, (up, down) in zip(mean, poles, strict=True))
            texts.append((listed, wording.describe(direction.tolist())))
    return worded_rows(rows, method, texts)


def signal_scores(
    engine: Engine, templates: Templates, signals: Sequence[Mapping[str, str]], poles: Sequence[tuple[str, str]]
) -> np.ndarray:
    """Where signals stand between a dimension's negative pole, 0, and its positive pole, 1: (signals, poles).

    That is the expected direction, P(positive) + P(neither) / 2, with the three answers' probabilities made to sum
    to 1. Both orders of the poles are averaged, so that a model's liking for an answer is worth nothing.
    """
    prompts = [
        templates.score_dimension(signal, *shown)
        for signal in signals
        for pair in poles
        for shown in (pair, pair[::-1])
    ]
    probabilities = np.exp(engine.choice_logprobs(prompts, SCORE_CHOICES))
    first, _, neither = (probabilities / probabilities.sum(1, keepdims=True)).T
    places = (first + neither / 2).reshape(len(signals), len(poles), 2)
    return (places[..., 0] + 1 - places[..., 1]) / 2


def directions(scores: np.ndarray, upper: float, lower: float) -> np.ndarray:
    """+1 for scores of `upper` or more, -1 for those of `lower` or less, 0 between: (dimensions,).

    Where all are between, the scores furthest from 0.5 give their direction nevertheless; all are 0 only if every
    score is 0.5.
    """
    found = np.where(scores >= upper, 1, np.where(scores <= lower, -1, 0))
    if found.any():
        return found
    away = np.abs(scores - 0.5)
    return np.where(np.isclose(away, away.max()), np.sign(scores - 0.5), 0).astype(int)
