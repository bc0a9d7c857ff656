"""Several processes make the same update as one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_jobs import launched, train


def assert_same_update(model: Path, one: Path, two: Path, metrics: list[dict], tolerance: float) -> None:
    start, first, second = (load_file(path / "model.safetensors") for path in (model, one, two))
    for name, weight in first.items():
        moved = (weight - start[name]).abs().max()
        assert torch.allclose(weight, second[name], atol=tolerance * max(moved.item(), 1e-3)), name
    assert max((first[name] - start[name]).abs().max() for name in first) > 1e-3
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], rel=1e-4, abs=1e-6)
    assert metrics[0]["grad_norm"] == pytest.approx(metrics[1]["grad_norm"], rel=1e-3)


# GRPO has 6 rollouts per process, so the second of three groups of 4 is split between them.
@pytest.mark.parametrize(("stage", "batch"), [("sft", 4), ("grpo", 12)])
def test_two_processes_make_the_same_update_as_one(tiny_model, tmp_path, stage, batch):
    one = train(stage, tiny_model, tmp_path / "one", 1, batch, optim="sgd")
    two = train(stage, tiny_model, tmp_path / "two", 2, batch // 2, optim="sgd")
    assert_same_update(tiny_model, tmp_path / "one", tmp_path / "two", [one, two], 1e-3)
    assert one["completion_length"][0] > 0


def test_sigterm_to_one_process_stops_all_after_the_same_step(tiny_model, tmp_path, monkeypatch):
    """If they stopped at different steps, they would wait for each other."""
    monkeypatch.setenv("STOPPED", "1")
    stopped = launched("grpo", tiny_model, tmp_path / "two", 2, 6, optim="sgd", max_steps=3)
    assert stopped.returncode != 0
    for process in (0, 1):
        assert f"PROCESS {process}: " in stopped.stderr and "after step 1" in stopped.stderr
    assert list(tmp_path.rglob("checkpoint-1"))
