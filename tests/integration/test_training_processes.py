"""Several processes make the same update as one."""

import os
import subprocess

import pytest
from alignxplore.training.checkpoints import SEAL
from processes import unused_port
from training_jobs import (
    ACCELERATE,
    assert_same_update,
    command_of,
    environment,
    launched,
    run_on_two_nodes,
    stop_at_second_step,
    train,
)


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


def test_damage_in_one_process_share_of_a_checkpoint_is_found_by_all(tiny_model, tmp_path, monkeypatch):
    """Each process reads every second file. The damage leaves size and time as they were."""
    monkeypatch.setenv("STOPPED", "0")
    launched("grpo", tiny_model, tmp_path / "two", 2, 6, optim="sgd", max_steps=2)
    (checkpoint,) = tmp_path.rglob("checkpoint-1")
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    status = files[1].stat()
    content = bytearray(files[1].read_bytes())
    content[-1] ^= 1
    files[1].write_bytes(content)
    os.utime(files[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    monkeypatch.delenv("STOPPED")
    again = launched("grpo", tiny_model, tmp_path / "two", 2, 6, optim="sgd", max_steps=2)
    assert again.returncode == 0, again.stderr[-4000:]
    assert again.stderr.count("checkpoint-1 is torn or damaged, and is removed") == 2


TWO_PROCESSES = ["--multi_gpu", "--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"]


def test_accelerate_lets_a_slow_step_end_after_sigterm(tiny_model, tmp_path):
    """torch's launcher kills its processes half a minute after SIGTERM, or later if a variable says so."""

    def trained(name: str, seen: str, patience: int, is_stopped: bool) -> str:
        """The messages of a training whose second step is slow; it leaves files in `seen` when that begins."""
        variables = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(patience), "SLOW": str(tmp_path / seen)}
        command = command_of("grpo", tiny_model, tmp_path / name, 6, optim="adamw_torch", max_steps=3, save_steps=50)
        launcher = [*ACCELERATE, *TWO_PROCESSES, "--num_machines", "1", "--main_process_port", str(unused_port())]
        if is_stopped:
            return stop_at_second_step([*launcher, *command], tmp_path / seen, **variables)
        (tmp_path / seen).mkdir()
        done = subprocess.run([*launcher, *command], env={**environment(), **variables}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "after step 2" not in trained("killed", "first", 1, True)
    assert not list(tmp_path.glob(".killed.partial/checkpoint-*"))
    assert "after step 2, which is saved" in trained("stopped", "second", 60, True)
    trained("stopped", "third", 60, False)
    trained("whole", "fourth", 60, False)
    assert not list((tmp_path / "third").iterdir()), "the second step was not made again"
    for file in ("{}/model.safetensors", "{}.parquet"):
        one, other = (tmp_path / file.format(name) for name in ("stopped", "whole"))
        assert one.read_bytes() == other.read_bytes()


def test_two_nodes_train_as_two_processes_of_one(tiny_model, tmp_path):
    run_on_two_nodes(tmp_path, [*TWO_PROCESSES, *command_of("sft", tiny_model, tmp_path / "nodes", 2)])
    train("sft", tiny_model, tmp_path / "one", 2, 2)
    for file in ("{}/model.safetensors", "{}.parquet"):
        one, other = (tmp_path / file.format(name) for name in ("nodes", "one"))
        assert one.read_bytes() == other.read_bytes()
