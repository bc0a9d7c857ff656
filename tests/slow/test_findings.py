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


def test_cold_start_and_rl_raise_accuracy_in_every_run(trees):
    for run in seeds.by_run(trees).to_dicts():
        assert run["backbone"] < run["no_rl"] < run["alignxplore"] < run["golden"], run


def test_the_judge_finds_nearly_every_golden_preference(trees):
    assert seeds.by_run(trees)["golden"].min() >= 95


def test_cold_start_rl_and_rewards_by_the_judge_each_help(trees):
    effects = {row["effect"]: row for row in seeds.effects(trees).to_dicts()}
    for effect in ("no_rl - backbone", "alignxplore - no_rl", "alignxplore - no_cold_start"):
        assert effects[effect]["points"] >= 5 and effects[effect]["low"] > 0, effects[effect]
    assert effects["alignxplore - r_gen"]["points"] > 0


def test_reward_rises_during_rl(trees):
    first, last = seeds.reward_gain(trees, "alignxplore")
    assert last > first


def test_accuracy_drops_little_on_reversed_preferences(percent):
    assert percent["alignxplore", "reversed"]["percent"] > percent["alignxplore", "alignx_test"]["percent"] - 5
