"""The paper's findings on the embedded default, over three seeds: half an hour of two cores."""

import pytest
import seeds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def percent(trees):
    return {(row["method"], row["column"]): row for row in seeds.accuracies(trees).to_dicts()}


def test_no_description_is_chance(percent):
    row = percent["null", "alignx_test"]
    assert row["low"] <= 50 <= row["high"]


def test_raw_signals_are_well_below_the_golden_preference(percent):
    assert percent["signals", "alignx_test"]["high"] + 10 < percent["golden", "alignx_test"]["low"]


def test_cold_start_and_reinforcement_learning_each_help(percent):
    order = [percent[method, "alignx_test"]["percent"] for method in ("backbone", "no_rl", "alignxplore", "golden")]
    assert order == sorted(order) and len(set(order[:3])) == 3


def test_cold_start_helps_reinforcement_learning(percent):
    assert percent["alignxplore", "alignx_test"]["percent"] > percent["no_cold_start", "alignx_test"]["percent"]


def test_reward_rises(trees):
    first, last = seeds.reward_gain(trees, "alignxplore")
    assert last > first


def test_reversal_costs_little(percent):
    assert percent["alignxplore", "reversed"]["percent"] > percent["alignxplore", "alignx_test"]["percent"] - 5
