"""Online evaluation (paper 4.1): write a response under each method's description, and compare methods in pairs."""

import hashlib
from collections.abc import Sequence

import numpy as np
import polars as pl

from alignxplore.engines import Engine, Sampling
from alignxplore.judging.judge import Judge, is_correct, position_flip
from alignxplore.judging.offline import target_ids
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
    """RESPONSE rows: an answer to each case's post under a method's description of its user."""
    joined = cases.select(*_KEY, "prompt").join(
        preferences.select(*_KEY, "method", "preference"), on=_KEY, how="inner", maintain_order="left"
    )
    prompts = [templates.respond(row["prompt"], row["preference"]) for row in joined.iter_rows(named=True)]
    texts = [completion.text.strip() for completion in engine.generate(prompts, sampling)]
    return joined.select("case_id", "benchmark", "method").with_columns(response=pl.Series(texts, dtype=pl.String))


def compare(judge: Judge, name: str, cases: pl.DataFrame, first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    """WIN rows: which of two methods' responses a judge selects when told the golden preference, in both orders.

    Equal responses tie, and so do probabilities that average to one half. An order whose selection cannot be parsed
    has probability one half and is counted in `unparsed`.
    """
    asked = cases.select(*_KEY, "prompt", "golden_preference", target_ids(cases))
    joined = (
        first.rename({"method": "method_a", "response": "chosen"})
        .join(
            second.rename({"method": "method_b", "response": "rejected"}), on=_KEY, how="inner", maintain_order="left"
        )
        .join(asked, on=_KEY, how="inner", maintain_order="left")
    )
    rows = list(joined.iter_rows(named=True))
    probabilities = judge.p_chosen(rows, [row["golden_preference"] for row in rows])
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
