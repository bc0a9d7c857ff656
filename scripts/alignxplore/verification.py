"""Verification of the teacher's generations (paper 3.2): D_cold, those that a judge finds right (Eq. 7)."""

from typing import Any

import polars as pl

from alignxplore.formats import Parsed, render_completion
from alignxplore.rewards import Reward


def verify(reward: Reward, generations: pl.DataFrame, examples: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The generations with their `reward`, and D_cold: the examples whose generation earned 1, with `completion`.

    The completion is the canonical form of the teacher's r and d; D_cold's prompts will not mention the key
    dimensions (Eq. 8 conditions on the signals alone).
    """
    cases: dict[str, dict[str, Any]] = {row["example_id"]: row for row in examples.iter_rows(named=True)}
    rows = list(generations.iter_rows(named=True))
    parsed = [Parsed(row["reasoning"], row["preference"], row["format_ok"]) for row in rows]
    rewards = reward(parsed, [cases[row["example_id"]] for row in rows])
    scored = generations.with_columns(reward=pl.Series(rewards, dtype=pl.Float64))
    completion = pl.struct("reasoning", "preference").map_elements(
        lambda row: render_completion(row["reasoning"], row["preference"]), return_dtype=pl.String
    )
    kept = scored.filter(pl.col("reward") == 1).select("example_id", "generation", completion=completion)
    return scored, kept.join(examples, on="example_id", how="inner", maintain_order="left")
