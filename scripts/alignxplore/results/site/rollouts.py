"""The rollouts of a training that the site shows: those of some steps, and of some evaluations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from alignxplore import records

STEPS, EVALUATIONS = 12, 6
"""The most steps and evaluations shown of each training, evenly spaced from the first to the last."""
LONGEST_TEXT = 4_000
"""Characters of a text that are shown."""


def read_rollouts(path: Path) -> list[dict[str, Any]]:
    """What the page shows of a file of rollouts: steps and evaluations, in order, each with its rollouts."""
    table = records.read(path, records.ROLLOUT)
    held_out = pl.col("held_out")
    shown = [*_spaced(table.filter(~held_out), STEPS), *_spaced(table.filter(held_out), EVALUATIONS)]
    return sorted(shown, key=lambda part: (part["step"], part["held_out"]))


def _spaced(rollouts: pl.DataFrame, most: int) -> Iterator[dict[str, Any]]:
    """Yield the rollouts of at most so many steps; a long text is cut."""
    steps = rollouts["step"].unique().sort().to_list()
    count = min(most, len(steps))
    texts = pl.col("completion", "reasoning", "preference")
    for place in range(count):
        step = steps[place * (len(steps) - 1) // max(1, count - 1)]
        rows = rollouts.filter(pl.col("step") == step).with_columns(texts.str.slice(0, LONGEST_TEXT))
        yield {
            "step": step,
            "held_out": rows["held_out"][0],
            "reward": rows["reward"].mean(),
            "in_format": rows["format_ok"].sum(),
            "groups": [group.to_dicts() for group in rows.partition_by("example_id", maintain_order=True)],
        }
