"""The metrics of every optimiser step, as a table. Figures 2 and 4 read it."""

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
"""Loss in nats per token (Eq. 8); completion_length in tokens, with the end token; entropy in nats."""

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
        "sampling_difference": pl.Float64(),
        "sampling_ratio": pl.Float64(),
        "grad_norm": pl.Float64(),
        "loss": pl.Float64(),
        "learning_rate": pl.Float64(),
    }
)
"""Means over the step's rollouts. reward_std is the rewards' standard deviation, frac_reward_zero_std the share of
rollouts in groups whose rewards are all equal, format_ok the share in format, synthesis the share whose reasoning draws
its observations together, completion_length is in tokens, clipped_ratio the share cut off at the length limit, and
entropy in nats. With TRL's correction for vLLM, sampling_difference is how far vLLM's log-probabilities are from the
policy's, in nats, and sampling_ratio the mean weight that corrects for it; without, both are NaN."""

TRL_NAMES = {
    "completion_length": "completions/mean_length",
    "sampling_difference": "sampling/sampling_logp_difference/mean",
    "sampling_ratio": "sampling/importance_sampling_ratio/mean",
}


def from_history(history: Sequence[Mapping[str, Any]], schema: pl.Schema) -> pl.DataFrame:
    """One row per step in a trainer's `log_history`, with the columns of `schema`; what it did not report is NaN."""
    rows = [
        {name: _value(entry, name) for name in schema} for entry in history if "grad_norm" in entry and "step" in entry
    ]
    return pl.DataFrame(rows, schema=schema)


def _value(entry: Mapping[str, Any], name: str) -> float:
    value = entry.get(TRL_NAMES.get(name, name), entry.get(name))
    return math.nan if value is None else value
