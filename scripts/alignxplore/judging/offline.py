"""Offline evaluation: a judge decides the target pair of each case, given a preference description."""

import hashlib
import json

import numpy as np
import polars as pl

from alignxplore.errors import UserError
from alignxplore.judging.judge import Judge, is_correct, p_chosen_unless_refused, position_flip


def judge_preferences(judge: Judge, name: str, cases: pl.DataFrame, preferences: pl.DataFrame) -> pl.DataFrame:
    """JUDGEMENT rows of `preferences`, under the judge name `name`; joined with `cases` on benchmark and case_id.

    A preference whose completion was refused is no description, so it is not judged: both orders are unparsed. Raises
    UserError if a case has no preference.
    """
    key = ["benchmark", "case_id"]
    check_described(cases, preferences)
    joined = preferences.join(cases.select(*key, "prompt", "chosen", "rejected", "stream"), on=key, how="inner")
    rows = list(joined.iter_rows(named=True))
    refused = (joined["finish_reason"] == "refused").to_numpy()
    probabilities = p_chosen_unless_refused(judge, rows, [row["preference"] for row in rows], refused)
    return judgement_rows(joined, name, probabilities)


def check_described(cases: pl.DataFrame, preferences: pl.DataFrame) -> None:
    """Raise UserError if a case has no PREFERENCE: methods describe only cases that a result shows."""
    lacking = cases.join(preferences, on=["benchmark", "case_id"], how="anti")
    if lacking.height:
        case, benchmark = lacking.select("case_id", "benchmark").row(0)
        raise UserError(
            f"{lacking.height} of {cases.height} cases are not described, first {case} of {benchmark!r}: methods"
            " describe only what a table, figure or the case study shows; name the method in a table that shows them"
        )


def judgement_rows(judged: pl.DataFrame, name: str, probabilities: np.ndarray) -> pl.DataFrame:
    """JUDGEMENT rows of `judged`, under the judge name `name`.

    `judged` has case_id, benchmark, stream, method, format_ok, completion_tokens and the target's prompt, chosen and
    rejected.
    `probabilities` (rows, 2) are those of the chosen response, shown first and second; NaN if unknown.
    """
    unparsed = np.isnan(probabilities)
    known = np.where(unparsed, 0.5, probabilities)
    return judged.select("case_id", "benchmark", "method", "format_ok", "completion_tokens").with_columns(
        judge=pl.lit(name),
        p_chosen_ab=pl.Series(known[:, 0], dtype=pl.Float64),
        p_chosen_ba=pl.Series(known[:, 1], dtype=pl.Float64),
        correct=pl.Series(is_correct(known)),
        position_flip=pl.Series(position_flip(probabilities)),
        unparsed=pl.Series(unparsed.sum(1), dtype=pl.Int8),
        target=target_ids(judged),
    )


def target_ids(cases: pl.DataFrame) -> pl.Series:
    """A stable id of each case's target: its post and two responses, regardless of which was chosen.

    Cases share a target if P-SOUPS uses it under opposite preferences, or if one benchmark is made from another. The
    steps of a stream are one user's and not independent, so they share the id of one of their targets.
    """
    targets = cases.select("prompt", "chosen", "rejected").iter_rows()
    own = pl.Series("target", [_target_id(*target) for target in targets], dtype=pl.String)
    of_stream = pl.when(pl.col("stream") != "").then(pl.col("target").min().over("stream")).otherwise("target")
    return cases.select("stream").with_columns(own).select(of_stream.alias("target"))["target"]


def _target_id(prompt: str, chosen: str, rejected: str) -> str:
    text = json.dumps([prompt, *sorted((chosen, rejected))])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
