"""Intervals and tests for the tables."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def bootstrap_interval(values: Sequence[float], resamples: int, seed: int) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the mean, over cases."""
    sample = np.asarray(values, float)
    if sample.min() == sample.max():
        return sample[0], sample[0]
    result = stats.bootstrap(
        (sample,), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(seed), batch=200
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def paired_t_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test; 1 where no pair differs, 0 where all differ by the same amount."""
    difference = np.subtract(first, second)
    if np.ptp(difference) == 0:
        return 0.0 if difference[0] else 1.0
    p = float(stats.ttest_1samp(difference, 0.0).pvalue)
    return 1.0 if math.isnan(p) else p


def mcnemar_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value of McNemar's exact test on paired outcomes of 0 and 1; 1 where no pair differs."""
    difference = np.subtract(first, second)
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: the least level at which each hypothesis falls when all are tested together."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, float)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted.tolist()
