"""What training reports at every optimiser step, as a table; figures 2 and 4 read it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

SFT_METRICS = pl.Schema(
    {
        "step": pl.Int64(),
        "epoch": pl.Float64(),
        "loss": pl.Float64(),
        "completion_length": pl.Float64(),
        "entropy": pl.Float64(),
        "grad_norm": pl.Float64(),
        "learning_rate": pl.Float64(),
    }
)
"""Loss in nats a token (Eq. 8); completion_length in tokens, its end token included; entropy in nats."""

GRPO_METRICS = pl.Schema(
    {
        "step": pl.Int64(),
        "epoch": pl.Float64(),
        "reward": pl.Float64(),
        "reward_std": pl.Float64(),
        "frac_reward_zero_std": pl.Float64(),
        "format_ok": pl.Float64(),
        "synthesis": pl.Float64(),
        "completion_length": pl.Float64(),
        "clipped_ratio": pl.Float64(),
        "entropy": pl.Float64(),
        "grad_norm": pl.Float64(),
        "loss": pl.Float64(),
        "learning_rate": pl.Float64(),
    }
)
"""Means over the step's rollouts: reward and its standard deviation, share of rollouts in groups whose rewards are
all equal, share in the right format, share whose reasoning draws its observations together, tokens, share cut off at
the length limit, entropy in nats."""

TRL_NAMES = {"completion_length": "completions/mean_length", "clipped_ratio": "completions/clipped_ratio"}


def from_history(history: Sequence[Mapping[str, Any]], schema: pl.Schema) -> pl.DataFrame:
    """The rows of a trainer's `log_history` that report a step, with the columns of `schema`.

    A figure that the trainer did not report is NaN.
    """
    rows = [
        {name: _value(entry, name) for name in schema} for entry in history if "grad_norm" in entry and "step" in entry
    ]
    return pl.DataFrame(rows, schema=schema)


def _value(entry: Mapping[str, Any], name: str) -> float:
    value = entry.get(TRL_NAMES.get(name, name), entry.get(name))
    return math.nan if value is None else value
