"""The paper's findings hold in the default experiment, pooled over three seeds. Half an hour on two cores."""

import pytest
import seeds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def percent(trees):
    return {(row["method"], row["column"]): row for row in seeds.accuracies(trees).to_dicts()}


def test_accuracy_without_a_description_is_at_chance(percent):
    row = percent["null", "alignx_test"]
    assert row["low"] <= 50 <= row["high"]


def test_raw_signals_score_well_below_golden_preference(percent):
    assert percent["signals", "alignx_test"]["high"] + 10 < percent["golden", "alignx_test"]["low"]


def test_cold_start_and_rl_each_raise_accuracy(percent):
    order = [percent[method, "alignx_test"]["percent"] for method in ("backbone", "no_rl", "alignxplore", "golden")]
    assert order == sorted(order) and len(set(order[:3])) == 3


def test_rl_is_better_with_cold_start(percent):
    assert percent["alignxplore", "alignx_test"]["percent"] > percent["no_cold_start", "alignx_test"]["percent"]


def test_reward_rises_during_rl(trees):
    first, last = seeds.reward_gain(trees, "alignxplore")
    assert last > first


def test_accuracy_drops_little_on_reversed_preferences(percent):
    assert percent["alignxplore", "reversed"]["percent"] > percent["alignxplore", "alignx_test"]["percent"] - 5
