"""Intervals and tests against scipy, statsmodels, and hand-worked examples."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from alignxplore.results.stats import (
    bootstrap_interval,
    bradley_terry,
    calibration_error,
    cohen_kappa,
    holm,
    length_controlled,
    mcnemar_test,
    paired_t_test,
    resampled_counts,
    wilson_interval,
)
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint


def test_bootstrap_interval_agrees_with_the_normal_one():
    values = np.random.default_rng(1).random(400) < 0.7
    cases = [str(index) for index in range(400)]
    low, high = bootstrap_interval(values, cases, 4000, seed=2)
    half = 1.96 * math.sqrt(values.mean() * (1 - values.mean()) / len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.006)
    assert high == pytest.approx(values.mean() + half, abs=0.006)
    assert bootstrap_interval(values, cases, 4000, seed=2) == (low, high)
    assert bootstrap_interval([1.0, 1.0], ["a", "b"], 100, seed=1) == (1.0, 1.0)


def test_clusters_of_one_case_are_drawn_as_cases():
    for values in (np.random.default_rng(1).normal(size=333), np.random.default_rng(1).random(50) < 0.3):
        found = bootstrap_interval(values, list(map(str, range(len(values)))), 700, seed=4)
        rng = np.random.default_rng(4)
        expected = stats.bootstrap((values,), np.mean, n_resamples=700, method="percentile", rng=rng, batch=200)
        assert found == tuple(expected.confidence_interval)


def clustered(rng, count):
    """Outcomes of clusters of one to six cases, equal within a cluster nine times in ten; 60% are right."""
    sizes = rng.integers(1, 7, count)
    base, own, alike = (rng.random(n) for n in (count, sizes.sum(), sizes.sum()))
    return np.where(alike < 0.9, np.repeat(base, sizes), own) < 0.6, np.repeat(np.arange(count), sizes)


def test_an_interval_over_clusters_equals_an_explicit_bootstrap():
    values, clusters = clustered(np.random.default_rng(6), 80)
    order = np.random.default_rng(7).permutation(len(values))
    found = bootstrap_interval(values[order], clusters[order].astype(str).tolist(), 20_000, seed=1)
    rng, means = np.random.default_rng(2), []
    members = [values[clusters == cluster] for cluster in range(80)]
    for _ in range(20_000):
        means.append(np.concatenate([members[drawn] for drawn in rng.integers(0, 80, 80)]).mean())
    assert found == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.004)
    counts = resampled_counts(clusters[order].astype(str).tolist(), 20_000, seed=1)
    means = counts @ values[order] / counts.sum(1)
    assert found == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.004)


def test_intervals_over_clusters_have_their_nominal_coverage():
    rng, held, held_by_case = np.random.default_rng(8), 0, 0
    for seed in range(300):
        values, clusters = clustered(rng, 60)
        low, high = bootstrap_interval(values, clusters.astype(str).tolist(), 300, seed)
        held += low <= 0.6 <= high
        low, high = bootstrap_interval(values, list(map(str, range(len(values)))), 300, seed)
        held_by_case += low <= 0.6 <= high
    assert 0.9 < held / 300 < 0.98
    assert held_by_case / 300 < 0.8, "so cases must not be drawn one by one"


def test_mirrored_pairs_have_no_interval():
    values = np.random.default_rng(1).random(50) < 0.5
    mirrored, pairs = np.concatenate([values, ~values]), [str(index) for index in range(50)] * 2
    assert bootstrap_interval(mirrored, pairs, 500, seed=1) == (0.5, 0.5)
    counts = resampled_counts(pairs, 100, seed=1)
    assert ((counts @ mirrored) == counts.sum(1) / 2).all()


def test_paired_t_test_equals_scipy_and_survives_constant_differences():
    rng = np.random.default_rng(5)
    first, second = rng.random(50), rng.random(50)
    assert paired_t_test(first, second) == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert paired_t_test([1, 0, 1], [1, 0, 1]) == 1.0
    assert paired_t_test([1, 1], [0, 0]) == 0.0
    assert paired_t_test([1], [0]) == 1.0, "one pair is no evidence"


def test_mcnemar_is_the_binomial_test_of_pairs_that_differ():
    first, second = [1, 1, 1, 1, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1, 1, 1, 0]
    # 5 to 1: twice the probability of at most 1 of 6 fair coins, (1 + 6) / 64.
    assert mcnemar_test(first, second) == pytest.approx(14 / 64)
    assert mcnemar_test(first, first) == 1.0


def test_holm_steps_down():
    # Hand-worked: sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, each no less than the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_mcnemar_and_holm_equal_statsmodels():
    rng = np.random.default_rng(11)
    for _ in range(20):
        first, second = rng.random((2, 60)) < rng.random((2, 1))
        table = [[np.sum(first & second), np.sum(first & ~second)], [np.sum(~first & second), np.sum(~first & ~second)]]
        assert mcnemar_test(first * 1.0, second * 1.0) == pytest.approx(mcnemar(table, exact=True).pvalue)
        p_values = rng.random(7) ** 3
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_bradley_terry_equals_a_logistic_regression_on_all_games():
    """Each game is a row with +1 for one method and -1 for the other; the added ties are weighted rows."""
    rng = np.random.default_rng(3)
    wins = rng.integers(0, 30, (4, 4)).astype(float)
    np.fill_diagonal(wins, 0)
    wins[0, 3] += 0.5
    wins[3, 0] += 0.5
    design, weights = [], []
    for winner in range(4):
        for loser in range(4):
            if winner != loser:
                design.append(np.eye(4)[winner] - np.eye(4)[loser])
                weights.append(wins[winner, loser] + 0.5)
    # Each row is a win of one method over the other, so the only outcome is 1.
    rows, outcomes = np.array(design)[:, 1:], np.ones(len(design))
    fit = sm.GLM(outcomes, rows, family=sm.families.Binomial(), var_weights=weights).fit(tol=1e-12)
    expected = np.concatenate([[0.0], fit.params])
    assert bradley_terry(wins) == pytest.approx(expected - expected.mean(), abs=1e-6)
    assert bradley_terry(np.stack([wins, wins.T])) == pytest.approx(
        np.stack([bradley_terry(wins), -bradley_terry(wins)])
    )


def test_a_method_that_always_wins_has_a_finite_strength():
    strong, weak = bradley_terry(np.array([[0.0, 9.0], [0.0, 0.0]]))
    assert strong - weak == pytest.approx(math.log(9.5 / 0.5))  # nine wins and a tie


def test_resampled_counts_draw_every_case_equally():
    counts = resampled_counts(list(map(str, range(50))), 4000, seed=1)
    assert counts.shape == (4000, 50) and set(counts.sum(1)) == {50}
    assert counts.mean(0) == pytest.approx(np.ones(50), abs=0.08)


def test_kappa_and_wilson_equal_statsmodels():
    rng = np.random.default_rng(5)
    first = rng.random(200) < 0.7
    second = np.where(rng.random(200) < 0.8, first, ~first)
    table = [[np.sum(first & second), np.sum(first & ~second)], [np.sum(~first & second), np.sum(~first & ~second)]]
    assert cohen_kappa(first, second) == pytest.approx(cohens_kappa(table).kappa)
    assert cohen_kappa([1, 1], [1, 1]) == 1.0
    for successes, n in ((0, 5), (7, 20), (30, 30)):
        assert wilson_interval(successes, n) == pytest.approx(proportion_confint(successes, n, method="wilson"))


def test_calibration_error_is_the_weighted_gap():
    # 10 cases at 0.6, half of them right, and 30 at 0.9, all right: (10 * 0.1 + 30 * 0.1) / 40.
    assert calibration_error([0.6, 0.9], [0.5, 1.0], [10, 30]) == pytest.approx(0.1)


@pytest.mark.parametrize("slope", [-1.5, 0.0, 0.4, 6.0])
def test_length_control_equals_statsmodels(slope):
    rng = np.random.default_rng(4)
    differences = rng.normal(30, 200, 300).round()
    wins = rng.random(300) < 1 / (1 + np.exp(-(0.7 + slope * differences / 200)))
    x = sm.add_constant(differences / differences.std())
    fit = sm.Logit(wins.astype(float), x).fit(disp=0, tol=1e-12)
    at_zero = fit.predict([[1.0, 0.0]])[0]
    assert length_controlled(wins, differences) == pytest.approx(at_zero, abs=1e-7)
    if slope:
        assert abs(at_zero - wins.mean()) > 0.005, "so length makes a difference"


def test_length_control_without_an_effect_to_estimate():
    assert length_controlled([1, 1, 1], [5, -3, 0]) == 1.0 and length_controlled([0, 0], [5, -3]) == 0.0
    assert length_controlled([1, 0, 1, 1], [0, 0, 0, 0]) == 0.75
    assert math.isnan(length_controlled([1, 1, 0], [7, 2, -3])), "the longer text always wins"
    assert math.isnan(length_controlled([1, 0, 0], [-7, 2, 2]))
    assert math.isnan(length_controlled([1, 0, 0], [9, 9, 9]))
