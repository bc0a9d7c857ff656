"""Confidence intervals, significance tests and agreement measures for tables and figures."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import minimize
from scipy.special import expit


def bootstrap_interval(values: ArrayLike, clusters: Sequence[str], resamples: int, seed: int) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the mean of `values`, one per case.

    Cases with the same name in `clusters` are not independent evidence, so they are drawn together.
    """
    places = _cluster_numbers(clusters)
    sums, sizes = np.bincount(places, weights=np.asarray(values, float)), np.bincount(places)
    means = sums / sizes
    if means.min() == means.max():
        return float(means[0]), float(means[0])
    result = stats.bootstrap(
        (sums, sizes),
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        paired=True,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
        batch=200,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def paired_t_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test.

    It is 1 if no pair differs or there is only one pair, and 0 if several pairs all differ by the same amount.
    """
    difference = np.subtract(first, second)
    if np.ptp(difference) == 0:
        return 0.0 if difference[0] and len(difference) > 1 else 1.0
    p = float(stats.ttest_1samp(difference, 0.0).pvalue)
    return 1.0 if math.isnan(p) else p


def mcnemar_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value of McNemar's exact test on paired outcomes of 0 and 1; 1 if no pair differs."""
    difference = np.subtract(first, second)
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: the lowest level at which each hypothesis is rejected when all are tested together."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, float)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted.tolist()


def bradley_terry(wins: np.ndarray) -> np.ndarray:
    """Log strengths (..., k) of mean 0 from games won (..., k, k), row against column; a tie is half a win for each.

    A difference of log strengths is the log odds of winning. One tie is added between every two methods, so that a
    method that always wins has a finite strength. The likelihood is maximised by minorisation (Hunter, 2004).
    """
    methods = wins.shape[-1]
    wins = wins + 0.5 * (1 - np.eye(methods))
    games = wins + wins.swapaxes(-1, -2)
    strength = np.ones(wins.shape[:-1])
    for _ in range(10_000):
        new = wins.sum(-1) / (games / (strength[..., :, None] + strength[..., None, :])).sum(-1)
        new /= np.exp(np.log(new).mean(-1, keepdims=True))
        done = np.allclose(new, strength, rtol=1e-10, atol=0)
        strength = new
        if done:
            break
    return np.log(strength)


def resampled_counts(clusters: Sequence[str], resamples: int, seed: int) -> np.ndarray:
    """How often each bootstrap sample draws each case, a cluster's cases always together: (resamples, cases)."""
    places = _cluster_numbers(clusters)
    count = places.max() + 1
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)[:, places]


def _cluster_numbers(clusters: Sequence[str]) -> np.ndarray:
    """Each case's cluster (cases,), numbered from 0 in order of first occurrence."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    return np.array([numbers[name] for name in clusters])


def cohen_kappa(first: ArrayLike, second: ArrayLike) -> float:
    """Agreement of two judges' verdicts (0 or 1) beyond chance; 1 if both always give the same single verdict."""
    a, b = np.asarray(first, float), np.asarray(second, float)
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return 1.0 if chance == 1 else float(((a == b).mean() - chance) / (1 - chance))


def length_controlled(wins: ArrayLike, differences: ArrayLike) -> float:
    """The share of wins (0 or 1 each) if both texts of every case were equally long.

    `differences` are the lengths of the text that should win minus those of the other.

    After AlpacaEval's length-controlled win rate (Dubois et al., 2024), for cases instead of instructions:

        P(win) = 1 / (1 + exp(-(a + b d / s)))    d the difference in length, s its standard deviation

    with a and b at the maximum of the likelihood; the result is P(win) at d = 0, which is 1 / (1 + exp(-a)). If all
    cases are won or lost, or all lengths are equal, it is the share of wins. It is NaN if a length separates the cases
    won from those lost, because then there is no maximum.
    """
    y, d = np.asarray(wins, float), np.asarray(differences, float)
    if y.min() == y.max() or not d.any():
        return float(y.mean())
    won, lost = d[y == 1], d[y == 0]
    if won.min() >= lost.max() or lost.min() >= won.max():
        return math.nan
    x = np.column_stack([np.ones_like(d), d / d.std()])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = x @ weights
        return float(np.mean(np.logaddexp(0, margin) - y * margin)), x.T @ (expit(margin) - y) / len(y)

    def curvature(weights: np.ndarray) -> np.ndarray:
        p = expit(x @ weights)
        return (x.T * (p * (1 - p))) @ x / len(y)

    fit = minimize(loss, np.zeros(2), jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-10})
    return float(expit(fit.x[0]))


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a proportion."""
    interval = stats.binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def calibration_error(confidence: ArrayLike, accuracy: ArrayLike, n: ArrayLike) -> float:
    """Expected calibration error in [0, 1]: the mean gap between confidence and accuracy over bins of `n` cases."""
    gaps = np.abs(np.subtract(accuracy, confidence))
    return float(np.average(gaps, weights=np.asarray(n)))
