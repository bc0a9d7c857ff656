"""Faults while models train, generate and judge."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from test_data_stage import assert_completes, assert_no_traceback
from workshop import TABLE, copied, flip, outcome, processes, script, snakemake, started, wait_for

pytestmark = pytest.mark.slow

MODEL = "models/trained/alignxplore"
PREFERENCES = "results/preferences/alignxplore.parquet"
AFTER_TRAINING = (PREFERENCES, "results/judgements", "results/table2.*", "results/training/alignxplore.parquet", MODEL)


def training(work: Path, process) -> int:
    """The id of the training process, once it has saved a checkpoint."""
    checkpoints = work / "models/trained/.alignxplore.partial"
    wait_for(lambda: list(checkpoints.glob("checkpoint-*/.digest")))
    return processes(process.pid, "scripts/train_grpo.py")[-1]


def steps(work: Path) -> list[int]:
    """The steps that the last training job logged."""
    lines = (work / "logs/training/alignxplore.log").read_text().splitlines()
    return [int(line.split(" step ")[1].split()[0]) for line in lines if " step " in line and " of 6:" in line]


def test_a_training_killed(undisturbed, tmp_path):
    """It resumes from its last checkpoint."""
    work = copied(undisturbed, tmp_path / "work", *AFTER_TRAINING)
    with started(work, TABLE) as process:
        os.kill(training(work, process), signal.SIGKILL)
        assert process.wait(timeout=300) != 0
    assert "Error in rule grpo" in (work / "snakemake.log").read_text()
    first = steps(work)
    assert_completes(work, undisturbed, TABLE)
    assert steps(work)[0] <= first[-1] + 1 and steps(work)[0] > 1


@pytest.mark.parametrize("damage", ["flipped", "torn", "missing"])
def test_a_damaged_checkpoint(undisturbed, tmp_path, damage):
    work = copied(undisturbed, tmp_path / "work", *AFTER_TRAINING)
    checkpoints = work / "models/trained/.alignxplore.partial"
    with started(work, MODEL) as process:
        wait_for((checkpoints / "checkpoint-4/.digest").exists)
        os.killpg(process.pid, signal.SIGKILL)
    weights = checkpoints / "checkpoint-4/model.safetensors"
    if damage == "flipped":
        flip(weights)
    elif damage == "torn":
        os.truncate(weights, 1000)
    else:
        weights.unlink()
    shutil.rmtree(checkpoints / "checkpoint-6", ignore_errors=True)
    result = snakemake(work, MODEL)
    assert result.returncode == 0, result.stderr
    assert "checkpoint-4 is torn or damaged, and is removed" in result.stderr
    assert steps(work)[0] == 3
    assert outcome(work, MODEL) == outcome(undisturbed, MODEL)


def test_sigterm_with_grace(undisturbed, tmp_path):
    """As when Slurm ends a job: training saves its step, inference stops at once, and both resume from there."""
    work = copied(undisturbed, tmp_path / "work", *AFTER_TRAINING, "journal")
    with started(work, TABLE) as process:
        training(work, process)
        os.killpg(process.pid, signal.SIGTERM)
        wait_for(lambda: not processes(process.pid, "train_grpo"), seconds=60)
    said = (work / "logs/training/alignxplore.log").read_text()
    stopped = int(said.split("stopped after step ")[1].split(",")[0])
    assert f"stopped after step {stopped}, which is saved; run again to resume" in said and "Traceback" not in said
    with started(work, TABLE) as process:
        job = script(process, "preferences_model")
        assert steps(work)[0] == stopped + 1
        wait_for(lambda: answers(work))
        began = time.monotonic()
        os.kill(job, signal.SIGTERM)
        wait_for(lambda: job not in processes(process.pid))
        assert time.monotonic() - began < 5
    assert_completes(work, undisturbed, TABLE)


def answers(work: Path) -> list[str]:
    """Keys of the policy's completions in the journal; empty for a torn record."""
    lines = [line for path in (work / "journal").glob("*.jsonl") for line in path.read_bytes().splitlines()]
    found = []
    for line in lines:
        if line.startswith(b'{"key":') and b'"model":"models/trained/alignxplore","text"' in line:
            found.append(json.loads(line)["key"] if line.endswith(b"}}") else "")
    return found


@pytest.mark.parametrize("damage", [None, "torn", "flipped"])
def test_a_generation_killed(undisturbed, tmp_path, damage):
    """Answered prompts are not asked again, unless the record is torn or changed."""
    work = copied(undisturbed, tmp_path / "work", PREFERENCES, "results/judgements", TABLE, "journal")
    with started(work, TABLE) as process:
        job = script(process, "preferences_model")
        wait_for(lambda: len(answers(work)) >= 3)
        os.kill(job, signal.SIGKILL)
        assert process.wait(timeout=300) != 0
    before = answers(work)
    assert len(before) < 16
    (file,) = [p for p in (work / "journal").glob("*.jsonl") if b"models/trained/alignxplore" in p.read_bytes()]
    if damage == "torn":
        os.truncate(file, file.stat().st_size - 20)
    elif damage == "flipped":
        flip(file, 0.9)
    assert_completes(work, undisturbed, TABLE)
    if damage is None:
        assert len(answers(work)) == len(set(answers(work))) == 16
    said = (work / "logs/preferences/alignxplore.log").read_text()
    assert f"{len(before) - bool(damage)} from the journal" in said


def test_a_damaged_model(undisturbed, tmp_path):
    """The message names weights that cannot be read and says what to do."""
    work = copied(undisturbed, tmp_path / "work", PREFERENCES, "results/judgements", TABLE, "journal")
    os.truncate(work / MODEL / "model.safetensors", 5000)
    result = snakemake(work, TABLE)
    assert result.returncode != 0
    said = (work / "logs/preferences/alignxplore.log").read_text()
    assert f"model {MODEL} cannot be loaded" in said and "remove it and run again" in said
    assert_no_traceback(result.stderr, work)
    shutil.rmtree(work / MODEL)
    assert_completes(work, undisturbed, TABLE)


def test_killed_again_and_again(empty, undisturbed, tmp_path):
    """kill -9 of everything at four random moments of a whole run."""
    work = copied(empty, tmp_path / "work")
    rng = random.Random(7)
    for rule in ("demo_world", "teacher", "training", "judgements"):
        log = {"teacher": "teacher.log", "demo_world": "demo/world.log"}.get(rule, rule)
        with started(work, TABLE) as process:
            wait_for((work / "logs" / log).exists)
            time.sleep(rng.random() * 2)
            os.killpg(process.pid, signal.SIGKILL)
    assert_completes(work, undisturbed, TABLE)
