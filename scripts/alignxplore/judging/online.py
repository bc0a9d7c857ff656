"""Online evaluation: responses written under each method's description, compared two at a time (paper 4.1)."""

import hashlib
from collections.abc import Sequence

import numpy as np
import polars as pl

from alignxplore.engines import Engine, Sampling
from alignxplore.judging.judge import Judge, is_correct, position_flip
from alignxplore.judging.rows import target_ids
from alignxplore.prompts import Templates

KEY = ["benchmark", "case_id"]


def draw_cases(cases: pl.DataFrame, groups: Sequence[Sequence[str]], size: int, seed: int) -> pl.DataFrame:
    """At random `size` cases of each group of benchmarks, fewer where there are not as many.

    A case's place in the draw depends on itself and the seed alone, so a larger draw contains a smaller one.
    """

    def place(case: dict[str, str]) -> str:
        return hashlib.sha256(f"{seed} {case['benchmark']} {case['case_id']}".encode()).hexdigest()

    order = pl.Series("order", [place(case) for case in cases.select(KEY).iter_rows(named=True)], dtype=pl.String)
    ordered = cases.with_columns(order).sort("order")
    drawn = [ordered.filter(pl.col("benchmark").is_in(list(group))).head(size) for group in groups]
    return pl.concat(drawn).drop("order").unique(KEY, maintain_order=True)


def respond(
    engine: Engine, templates: Templates, cases: pl.DataFrame, preferences: pl.DataFrame, sampling: Sampling
) -> pl.DataFrame:
    """RESPONSE rows: an answer to every case's post under the description that a method gave of its user."""
    joined = cases.select(*KEY, "prompt").join(
        preferences.select(*KEY, "method", "preference"), on=KEY, how="inner", maintain_order="left"
    )
    prompts = [templates.respond(row["prompt"], row["preference"]) for row in joined.iter_rows(named=True)]
    texts = [completion.text.strip() for completion in engine.generate(prompts, sampling)]
    return joined.select("case_id", "benchmark", "method").with_columns(response=pl.Series(texts, dtype=pl.String))


def compare(judge: Judge, name: str, cases: pl.DataFrame, first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    """WIN rows: which of two methods' responses a judge that knows the golden preference selects, in both orders.

    Equal responses tie, as do probabilities that average to one half. Selections that cannot be parsed count as one
    half, and are counted; neither method gains by its position.
    """
    asked = cases.select(*KEY, "prompt", "golden_preference", target_ids(cases))
    joined = (
        first.rename({"method": "method_a", "response": "chosen"})
        .join(second.rename({"method": "method_b", "response": "rejected"}), on=KEY, how="inner", maintain_order="left")
        .join(asked, on=KEY, how="inner", maintain_order="left")
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
