"""Several processes evaluate held-out examples, and train over the steps of streams, as one does."""

import polars as pl
import pytest
from training_jobs import assert_same_update, launched, train


def test_two_processes_evaluate_each_held_out_example_once(tiny_model, tmp_path, monkeypatch):
    """Three examples do not divide by two processes, so the batch is filled up with one of them again."""
    monkeypatch.setenv("HELD_OUT", "3")
    settings = {"optim": "sgd", "eval_steps": 1, "eval_on_start": True}
    one = train("grpo", tiny_model, tmp_path / "one", 1, 12, **settings)
    two = train("grpo", tiny_model, tmp_path / "two", 2, 6, **settings)
    assert one["held_out_reward"][0] > 0 and one["held_out_reward"] == two["held_out_reward"]
    first, second = (pl.read_parquet(tmp_path / f"{name}.rollouts.parquet") for name in ("one", "two"))
    assert first["held_out"].to_list() == [True] * 3 + ([False] * 8 + [True] * 3) * 2
    assert first.drop("advantage").equals(second.drop("advantage"))
    assert (first["advantage"] - second["advantage"]).abs().max() < 1e-5


# With credit `own`, a group of 4 rollouts is split between two processes of 6, and one of the four streams is left out.
@pytest.mark.parametrize(("credit", "batch"), [("own", 12), ({"carried": 0.9, "others": 0.45}, 16)])
def test_two_processes_that_are_stopped_carry_the_descriptions_of_one(tiny_model, tmp_path, monkeypatch, credit, batch):
    settings = {"optim": "sgd", "credit": credit, "shuffle_dataset": False}
    one = train("streams", tiny_model, tmp_path / "one", 1, batch, **settings)
    monkeypatch.setenv("STOPPED", "1")
    stopped = launched("streams", tiny_model, tmp_path / "two", 2, batch // 2, **settings)
    assert "after step 1" in stopped.stderr
    monkeypatch.delenv("STOPPED")
    two = train("streams", tiny_model, tmp_path / "two", 2, batch // 2, **settings)
    assert one["reward"] == pytest.approx(two["reward"])
    assert_same_update(tiny_model, tmp_path / "one", tmp_path / "two", [one, two], 1e-3)


def test_several_processes_refuse_streams_that_would_be_divided(tiny_model, tmp_path):
    credit = {"carried": 0.9, "others": 0.45}
    refused = launched("streams", tiny_model, tmp_path / "two", 2, 12, credit=credit)
    assert "'credit': with several processes, streams must have equally many steps" in refused.stderr
