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
