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
        "held_out_reward": pl.Float64(),
        "held_out_format_ok": pl.Float64(),
        "held_out_length": pl.Float64(),
        "ratio": pl.Float64(),
        "ratio_min": pl.Float64(),
        "ratio_max": pl.Float64(),
        "clip_share": pl.Float64(),
        "kl": pl.Float64(),
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
entropy in nats.

The held_out columns are means over the held-out examples, after the step; they are null if none were evaluated then. A
row of step 0 has nothing else: it is the model that training starts from.

ratio is the mean of q over the tokens, p(token) / p_old(token) (Eq. 9), ratio_min and ratio_max are its extremes, and
clip_share is the share of tokens that its limits keep from the gradient. kl is the estimated divergence from the
reference model, in nats per token, and NaN without one (beta 0).

With TRL's correction for vLLM, sampling_difference is how far vLLM's log-probabilities are from the policy's, in nats,
and sampling_ratio the mean weight that corrects for it; without, both are NaN."""

OF_UPDATES = ("ratio", "ratio_min", "ratio_max", "clip_share", "kl")
"""Columns that say how far an update may go, and nothing about the model that it leads to."""

TRL_NAMES = {
    "completion_length": "completions/mean_length",
    "clip_share": "clip_ratio/region_mean",
    "held_out_reward": "eval_reward",
    "held_out_format_ok": "eval_format_ok",
    "held_out_length": "eval_completions/mean_length",
    "sampling_difference": "sampling/sampling_logp_difference/mean",
    "sampling_ratio": "sampling/importance_sampling_ratio/mean",
}


def from_history(history: Sequence[Mapping[str, Any]], schema: pl.Schema) -> pl.DataFrame:
    """One row per step in a trainer's `log_history`, with the columns of `schema`.

    What a step did not report is NaN, and the held_out columns are null unless an evaluation followed it.
    """
    steps = {entry["step"]: entry for entry in history if "grad_norm" in entry}
    evaluated = {entry["step"]: entry for entry in history if "eval_reward" in entry}
    rows = [
        {name: entry.get(TRL_NAMES[name]) if name.startswith("held_out") else _value(entry, name) for name in schema}
        for step in sorted(steps.keys() | evaluated.keys())
        for entry in [{**evaluated.get(step, {}), **steps.get(step, {})}]
    ]
    return pl.DataFrame(rows, schema=schema)


def _value(entry: Mapping[str, Any], name: str) -> float:
    value = entry.get(TRL_NAMES.get(name, name), entry.get(name))
    return math.nan if value is None else value
