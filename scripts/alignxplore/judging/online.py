"""Online evaluation (paper 4.1): write a response under each method's description, and compare methods in pairs."""

import hashlib
from collections.abc import Sequence
from itertools import compress

import numpy as np
import polars as pl

from alignxplore.data.benchmarks import check_golden
from alignxplore.engines import Completion, Engine, Sampling
from alignxplore.judging.judge import Judge, is_correct, p_chosen_unless_refused, position_flip
from alignxplore.judging.offline import check_described, target_ids
from alignxplore.prompts import Templates

_KEY = ["benchmark", "case_id"]


def draw_cases(cases: pl.DataFrame, groups: Sequence[Sequence[str]], size: int, seed: int) -> pl.DataFrame:
    """A random sample of `size` cases from each group of benchmarks, or all of them if there are fewer.

    A case's place in the order depends only on the case and the seed, so a larger sample contains a smaller one.
    """

    def place(case: dict[str, str]) -> str:
        return hashlib.sha256(f"{seed} {case['benchmark']} {case['case_id']}".encode()).hexdigest()

    order = pl.Series("order", [place(case) for case in cases.select(_KEY).iter_rows(named=True)], dtype=pl.String)
    ordered = cases.with_columns(order).sort("order")
    drawn = [ordered.filter(pl.col("benchmark").is_in(list(group))).head(size) for group in groups]
    return pl.concat(drawn).drop("order").unique(_KEY, maintain_order=True)


def respond(
    engine: Engine, templates: Templates, cases: pl.DataFrame, preferences: pl.DataFrame, sampling: Sampling
) -> pl.DataFrame:
    """RESPONSE rows: an answer to each case's post under a method's description of its user.

    A case whose description was refused is not asked about: its response counts as refused as well. Raises UserError if
    a case has no description.
    """
    check_described(cases, preferences)
    joined = cases.select(*_KEY, "prompt").join(
        preferences.select(*_KEY, "method", "preference", "finish_reason"), on=_KEY, how="inner", maintain_order="left"
    )
    rows = list(joined.iter_rows(named=True))
    described = [row["finish_reason"] != "refused" for row in rows]
    prompts = [templates.respond(row["prompt"], row["preference"]) for row in compress(rows, described)]
    completions = iter(engine.generate(prompts, sampling) if prompts else [])
    answers = [next(completions) if known else Completion("", "refused", 0, 0) for known in described]
    return joined.select("case_id", "benchmark", "method").with_columns(
        response=pl.Series([answer.text.strip() for answer in answers], dtype=pl.String),
        finish_reason=pl.Series([answer.finish_reason for answer in answers], dtype=pl.String),
    )


def compare(judge: Judge, name: str, cases: pl.DataFrame, first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    """WIN rows: which of two methods' responses a judge selects when told the golden preference, in both orders.

    Equal responses tie, and so do probabilities that average to one half. An order without a verdict has probability
    one half and is counted in `unparsed`. A case is not judged if one of its responses was refused, even if both were:
    it has no verdict in either order. Raises UserError if a case has no golden preference.
    """
    check_golden(cases.join(first, on=_KEY, how="semi"), "the judge of responses")
    asked = cases.select(*_KEY, "prompt", "golden_preference", target_ids(cases))
    joined = (
        first.rename({"method": "method_a", "response": "chosen"})
        .join(
            second.rename({"method": "method_b", "response": "rejected"}),
            on=_KEY,
            how="inner",
            maintain_order="left",
            suffix="_b",
        )
        .join(asked, on=_KEY, how="inner", maintain_order="left")
    )
    rows = list(joined.iter_rows(named=True))
    refused = ((joined["finish_reason"] == "refused") | (joined["finish_reason_b"] == "refused")).to_numpy()
    probabilities = p_chosen_unless_refused(judge, rows, [row["golden_preference"] for row in rows], refused)
    unparsed = np.isnan(probabilities)
    known = np.where(unparsed, 0.5, probabilities)
    same = (joined["chosen"] == joined["rejected"]).to_numpy()
    even = same | (known.mean(1) == 0.5)
    outcome = np.where(even, "tie", np.where(is_correct(probabilities), "a", "b"))
    return joined.select("case_id", "benchmark", "method_a", "method_b", "target").with_columns(
        judge=pl.lit(name),
        p_a_ab=pl.Series(known[:, 0], dtype=pl.Float64),
        p_a_ba=pl.Series(known[:, 1], dtype=pl.Float64),
        outcome=pl.Series(outcome.tolist(), dtype=pl.String),
        position_flip=pl.Series(position_flip(probabilities) & ~same),
        unparsed=pl.Series(unparsed.sum(1), dtype=pl.Int8),
    )
