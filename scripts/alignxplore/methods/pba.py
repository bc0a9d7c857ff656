"""PBA: score every signal on predefined dimensions, then put into words what the signals agree on.

Li et al. 2025, "From 1,000,000 Users to Every User: Scaling Up Personalized Preference for User-level Alignment". Its
preference-bridged alignment averages a user's annotated directions (0, 0.5 or 1): `annotated_preferences`. A model may
take the place of the annotations: its probabilities say whether a signal shows one pole, the other, or neither.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import polars as pl

from alignxplore.data.benchmarks import check_signals
from alignxplore.data.wording import Wording
from alignxplore.engines import Engine
from alignxplore.errors import UserError
from alignxplore.methods.descriptions import unwritten_rows
from alignxplore.prompts import SCORE_CHOICES, Templates
from alignxplore.records import N_DIMENSIONS

_CASES_AT_ONCE = 100
"""72,000 prompts for four signals per case and all dimensions; a whole benchmark would not fit in memory."""


def bridged_preferences(
    engine: Engine, templates: Templates, cases: pl.DataFrame, method: str, entry: Mapping[str, Any], wording: Wording
) -> pl.DataFrame:
    """PREFERENCE rows whose description words a case's directions and whose reasoning lists its scores.

    `entry` holds the thresholds `upper` and `lower`, and optionally the indices of the AlignX `dimensions` to score
    (default: all 90). Token counts are 0, since nothing is generated. A score whose prompt the model refuses is left
    out of its dimension's mean; a case without any score is refused. Raises UserError for cases whose signals are a
    rendered prompt.
    """
    check_signals(cases, f"methods.{method}")
    poles = _poles(entry, wording)
    rows = list(cases.iter_rows(named=True))
    texts: list[tuple[str, str] | None] = []
    for start in range(0, len(rows), _CASES_AT_ONCE):
        signals_of_cases = [[*row["pairs"], *row["ugc"]] for row in rows[start : start + _CASES_AT_ONCE]]
        scores = iter(signal_scores(engine, templates, list(chain(*signals_of_cases)), poles))
        for signals in signals_of_cases:
            mean = np.ma.masked_invalid(list(islice(scores, len(signals)))).mean(axis=0).filled(np.nan)
            if np.isnan(mean).all():
                texts.append(None)
                continue
            texts.append(_in_words(mean, entry, poles, wording))
    return unwritten_rows(rows, method, texts)


def annotated_preferences(cases: pl.DataFrame, method: str, entry: Mapping[str, Any], wording: Wording) -> pl.DataFrame:
    """PREFERENCE rows as `bridged_preferences` gives, but from the annotated directions of the signals.

    A case with a profile is described by it. Raises UserError for a case with neither.
    """
    poles = _poles(entry, wording)
    rows = list(cases.iter_rows(named=True))
    texts: list[tuple[str, str] | None] = []
    for row in rows:
        annotated = [signal["direction"] for signal in (*row["pairs"], *row["ugc"])]
        if row["profile"]:
            texts.append(("", row["profile"]))
        elif annotated and all(len(direction) == N_DIMENSIONS for direction in annotated):
            mean = (np.array(annotated).mean(axis=0) + 1) / 2
            texts.append(_in_words(mean[_dimensions(entry)], entry, poles, wording))
        else:
            raise UserError(
                f"methods.{method} needs annotated signals or a profile, but case {row['case_id']} of"
                f" {row['benchmark']!r} has neither: leave the benchmark out of the method's benchmarks"
            )
    return unwritten_rows(rows, method, texts)


def _dimensions(entry: Mapping[str, Any]) -> list[int]:
    return list(entry.get("dimensions", range(N_DIMENSIONS)))


def _poles(entry: Mapping[str, Any], wording: Wording) -> list[tuple[str, str]]:
    return [(wording.phrase(str(index), 1), wording.phrase(str(index), -1)) for index in _dimensions(entry)]


def _in_words(
    mean: np.ndarray, entry: Mapping[str, Any], poles: Sequence[tuple[str, str]], wording: Wording
) -> tuple[str, str]:
    """The mean scores of the dimensions as a list, and the description of those that reach a threshold."""
    direction = np.zeros(N_DIMENSIONS, dtype=int)
    direction[_dimensions(entry)] = directions(mean, entry["upper"], entry["lower"])
    listed = "\n".join(f"{score:.3f} {up} / {down}" for score, (up, down) in zip(mean, poles, strict=True))
    return listed, wording.describe(direction.tolist())


def signal_scores(
    engine: Engine, templates: Templates, signals: Sequence[Mapping[str, str]], poles: Sequence[tuple[str, str]]
) -> np.ndarray:
    """Where signals lie between each dimension's negative pole (0) and positive pole (1): (signals, poles).

    A score is the expected direction P(positive) + P(neither) / 2, after the probabilities of the three answers are
    normalised. It averages both orders of the poles, which cancels a model's bias towards an answer. It is NaN if the
    model refuses a prompt of either order.
    """
    prompts = [
        templates.score_dimension(signal, *shown)
        for signal in signals
        for pair in poles
        for shown in (pair, pair[::-1])
    ]
    probabilities = np.exp(engine.choice_logprobs(prompts, SCORE_CHOICES))
    first, _, neither = (probabilities / probabilities.sum(1, keepdims=True)).T
    towards_first = (first + neither / 2).reshape(len(signals), len(poles), 2)
    return (towards_first[..., 0] + 1 - towards_first[..., 1]) / 2


def directions(scores: np.ndarray, upper: float, lower: float) -> np.ndarray:
    """+1 for scores of at least `upper`, -1 for scores of at most `lower`, 0 in between: (dimensions,).

    If all are in between, the scores furthest from 0.5 get a direction anyway; all are 0 only if every score is 0.5.
    A score that is NaN has direction 0; not all may be.
    """
    found = np.where(scores >= upper, 1, np.where(scores <= lower, -1, 0))
    if found.any():
        return found
    distance = np.abs(scores - 0.5)
    return np.where(np.isclose(distance, np.nanmax(distance)), np.sign(scores - 0.5), 0).astype(int)
