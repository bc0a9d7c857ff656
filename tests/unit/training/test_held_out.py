"""What is watched while GRPO trains: rewards on held-out examples, the best checkpoint, rollouts and ratios."""

import os
import signal

import polars as pl
import pytest
from alignxplore import records
from alignxplore.digests import directory_digest
from alignxplore.errors import UserError
from alignxplore.training.checkpoints import partial_directory
from small_training import HELD_OUT, QUESTIONS, STEPS, letters, metrics_of, outcome, rollouts_of, train

EVALUATED = {"held_out": 7, "eval_steps": 3}
HELD_OUT_COLUMNS = ["held_out_reward", "held_out_format_ok", "held_out_length"]


class Recorded:
    """The reward `letters`, which remembers what it was asked; the judge is down the `failing`-th time."""

    def __init__(self, failing: int = 0):
        self.failing, self.calls = failing, []

    def __call__(self, parsed, cases):
        self.calls.append([(case["example_id"], item) for case, item in zip(cases, parsed, strict=True)])
        if len(self.calls) == self.failing:
            raise UserError("the judge is down")
        return letters(parsed, cases)

    def evaluations(self) -> list[list]:
        """The calls about held-out examples."""
        return [call for call in self.calls if call[0][0] in HELD_OUT]


@pytest.fixture(scope="module")
def evaluated(ending_model, tmp_path_factory):
    """A finished training with evaluation: its output, and the recorded reward."""
    output, reward = tmp_path_factory.mktemp("evaluated") / "policy", Recorded()
    train(ending_model, output, reward, **EVALUATED)
    return output, reward


def test_held_out_reward_is_the_mean_over_held_out_examples_alone(evaluated):
    output, reward = evaluated
    frame = pl.read_parquet(metrics_of(output))
    assert frame["step"].to_list() == list(range(1, STEPS + 1))
    shown = frame.filter(pl.col("held_out_reward").is_not_null())
    assert shown["step"].to_list() == [3, 6, 9, 12]
    expected = []
    for call in reward.evaluations():
        assert [example for example, _ in call] == HELD_OUT[:7], "each of them once, in every evaluation"
        expected.append(sum(letters([item for _, item in call], [])) / 7)
    assert shown["held_out_reward"].to_list() == pytest.approx(expected)
    assert shown["held_out_length"].is_between(1, 6).all()
    assert {example for call in reward.calls for example, _ in call} - set(HELD_OUT) == set(QUESTIONS)


def test_evaluation_leaves_no_trace_in_the_training(ending_model, evaluated, tmp_path):
    plain = tmp_path / "plain"
    train(ending_model, plain)
    more = tmp_path / "more"
    train(ending_model, more, held_out=5, eval_steps=2, eval_on_start=True)
    columns = [name for name in pl.read_parquet(metrics_of(plain)).columns if name not in HELD_OUT_COLUMNS]
    for output in (evaluated[0], more):
        assert directory_digest(output) == directory_digest(plain)
        trained = pl.read_parquet(metrics_of(output)).filter(pl.col("step") > 0)
        assert trained.select(columns).equals(pl.read_parquet(metrics_of(plain)).select(columns))
    first = pl.read_parquet(metrics_of(more)).row(0, named=True)
    assert first["step"] == 0 and first["held_out_reward"] is not None


def test_a_mean_over_batches_of_different_sizes_counts_each_example_once(ending_model, tmp_path):
    # 12 rollouts at once: 25 examples are batches of 12, 12 and 1.
    output, reward = tmp_path / "policy", Recorded()
    train(ending_model, output, reward, held_out=25, eval_steps=1, max_steps=1)
    asked = reward.evaluations()
    assert [len(call) for call in asked] == [12, 12, 1]
    parsed = [item for call in asked for _, item in call]
    found = pl.read_parquet(metrics_of(output)).row(0, named=True)
    assert found["held_out_reward"] == pytest.approx(sum(letters(parsed, [])) / 25)


def test_several_rollouts_of_each_held_out_example(ending_model, tmp_path):
    output, reward = tmp_path / "policy", Recorded()
    settings = {"num_generations_eval": 5, "max_held_out": 3, "eval_steps": 1, "max_steps": 1}
    train(ending_model, output, reward, held_out=7, **settings)
    asked = [example for call in reward.evaluations() for example, _ in call]
    assert sorted(asked) == sorted(HELD_OUT[:3] * 5)


@pytest.mark.parametrize("failing", [4, 5, 11])
def test_a_resumed_training_ends_with_the_same_evaluations_and_rollouts(ending_model, evaluated, tmp_path, failing):
    """The judge is asked 4 times for each 3 steps: the fourth time in the evaluation."""
    output = tmp_path / "policy"
    with pytest.raises(UserError, match="the judge is down"):
        train(ending_model, output, Recorded(failing), **EVALUATED)
    train(ending_model, output, **EVALUATED)
    assert outcome(output) == outcome(evaluated[0])


def test_a_training_stopped_by_sigterm_evaluates_its_start_only_once(ending_model, tmp_path):
    def stopping(parsed, cases):
        asked.append(cases)
        if len(asked) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return letters(parsed, cases)

    settings = {**EVALUATED, "eval_on_start": True}
    whole, output, asked = tmp_path / "whole", tmp_path / "policy", []
    train(ending_model, whole, **settings)
    with pytest.raises(UserError, match="stopped after step 4"):
        train(ending_model, output, stopping, **settings)
    train(ending_model, output, **settings)
    assert outcome(output) == outcome(whole)


def falling(parsed, cases):
    """A held-out reward that is highest in the second evaluation, and a training reward that teaches something."""
    if cases[0]["example_id"] not in HELD_OUT:
        return letters(parsed, cases)
    falling.evaluations += 1
    return [[0.1, 0.7, 0.3, 0.2][falling.evaluations - 1]] * len(parsed)


def test_the_model_is_the_best_by_held_out_reward(ending_model, evaluated, tmp_path):
    falling.evaluations = 0
    output, shorter = tmp_path / "policy", tmp_path / "shorter"
    settings = {"lr_scheduler_type": "constant", **EVALUATED}
    train(ending_model, output, falling, load_best_model_at_end=True, **settings)
    train(ending_model, shorter, max_steps=6, **settings)
    assert (output / "model.safetensors").read_bytes() == (shorter / "model.safetensors").read_bytes()
    card = (output / "README.md").read_text()
    assert "12 steps" in card
    assert "the weights after step 6, the best by evaluation: its held-out reward is 0.7" in card
    assert "weights after" not in (evaluated[0] / "README.md").read_text()


def test_a_damaged_best_checkpoint_is_not_what_a_resumed_run_ends_with(ending_model, tmp_path):
    settings = {"load_best_model_at_end": True, **EVALUATED}

    def train_falling(output, failing):
        falling.evaluations, recorded = 0, Recorded(failing)
        train(
            ending_model, output, lambda parsed, cases: recorded(parsed, cases) and falling(parsed, cases), **settings
        )

    whole, output = tmp_path / "whole", tmp_path / "policy"
    train_falling(whole, 0)
    with pytest.raises(UserError, match="the judge is down"):
        train_falling(output, 14)
    weights = partial_directory(output) / "checkpoint-6/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    train_falling(output, 0)
    assert outcome(output) == outcome(whole)


def test_rollouts_of_each_step_and_evaluation_are_kept(evaluated):
    output, reward = evaluated
    rollouts = records.read(rollouts_of(output), records.ROLLOUT)
    trained, held_out = rollouts.filter(~pl.col("held_out")), rollouts.filter("held_out")
    assert trained.group_by("step").len().sort("step").rows() == [(step, 8) for step in range(1, STEPS + 1)]
    assert held_out.group_by("step").len().sort("step").rows() == [(step, 7) for step in (3, 6, 9, 12)]
    assert rollouts["step"].is_sorted()
    asked = [call for call in reward.calls if call[0][0] in QUESTIONS]
    for step, rows in enumerate(trained.partition_by("step", maintain_order=True)):
        expected = [(example, item.preference, item.format_ok) for example, item in asked[step][:8]]
        assert rows.select("example_id", "preference", "format_ok").rows() == expected
        assert rows["reward"].to_list() == letters([item for _, item in asked[step][:8]], [])
    groups = trained.with_row_index().group_by(pl.col("index") // 8 * 3 + pl.col("index") % 8 // 3)
    whole = groups.agg(pl.col("advantage"), pl.col("reward")).filter(pl.col("reward").list.len() == 3)
    assert whole["advantage"].list.sum().abs().max() < 1e-5
    assert ((whole["advantage"].list.max() > 0) == (whole["reward"].list.n_unique() == 2)).all()
    assert held_out["advantage"].is_null().all()


def test_no_rollouts_are_kept_if_none_are_wanted(ending_model, tmp_path):
    train(ending_model, tmp_path / "policy", log_rollouts=0, max_steps=1, **EVALUATED)
    assert records.read(rollouts_of(tmp_path / "policy"), records.ROLLOUT).is_empty()


def test_ratios_move_with_the_policy_if_rollouts_are_used_again(ending_model, evaluated, tmp_path):
    once = pl.read_parquet(metrics_of(evaluated[0]))
    assert set(once.select("ratio", "ratio_min", "ratio_max").rows()) == {(1.0, 1.0, 1.0)}
    assert set(once["clip_share"]) == {0.0} and once["kl"].is_nan().all()
    train(ending_model, tmp_path / "policy", num_iterations=2, beta=0.1, max_steps=4)
    frame = pl.read_parquet(metrics_of(tmp_path / "policy"))
    # Steps 2 and 4 use the rollouts of the steps before.
    assert frame["ratio_max"].to_list()[::2] == pytest.approx([1, 1], abs=1e-4)
    again = frame[1::2]
    assert (again["ratio_min"] < 0.9).all() and (again["ratio_max"] > 1.1).all()
    assert (again["ratio"] > again["ratio_min"]).all() and (again["ratio"] < again["ratio_max"]).all()
    assert (again["clip_share"] > 0).all()
    assert frame["kl"][0] == pytest.approx(0, abs=1e-6) and frame["kl"][3] > 1e-3


@pytest.mark.parametrize(
    ("held_out", "settings", "message"),
    [
        (0, {"eval_steps": 3}, "'eval_steps' needs held_out"),
        (0, {"load_best_model_at_end": True}, "'load_best_model_at_end' needs held_out"),
        (3, {"save_strategy": "no", "load_best_model_at_end": True}, "training settings: .*save and eval strategy"),
        (3, {"per_device_eval_batch_size": 2}, "samples as many rollouts at once as a step does"),
        (5, {"num_generations_eval": 13}, "'num_generations_eval' must be from 1 to 12, .* not 13"),
        (5, {"load_best_model_at_end": True, "save_total_limit": 1}, "'save_total_limit' must be at least 2"),
    ],
)
def test_settings_of_evaluation_that_make_no_sense_are_named(ending_model, tmp_path, held_out, settings, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        train(ending_model, tmp_path / "policy", held_out=held_out, **settings)
