"""The programs that check and train, each in its own process as in a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from alignxplore import records
from alignxplore.training.metrics import GRPO_METRICS
from configs import merged, write_config
from demonstrations import write_demonstrations, write_examples
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer
from trees import copy_workflow, snakemake

ROOT = Path(__file__).parents[2]
NAMES = ("preference", "concise", "update", "judge", "respond")
PROMPTS = {name: str(ROOT / f"resources/prompts/{name}.jinja") for name in NAMES}
SFT = {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "num_train_epochs": 1, "seed": 3}
GRPO = {
    "per_device_train_batch_size": 12, "num_generations": 4, "max_completion_length": 6, "learning_rate": 1e-2,
    "temperature": 0.9, "top_p": 0.95, "top_k": 10, "max_steps": 1, "seed": 5, "lr_scheduler_type": "constant",
}  # fmt: skip


@pytest.fixture
def demonstrations(tmp_path) -> Path:
    return write_demonstrations(tmp_path / "cold.parquet")


def test_sft_writes_a_model_and_metrics_with_the_same_bytes_again(tiny_model, demonstrations, tmp_path):
    outputs = []
    for run in ("a", "b"):
        output, metrics = tmp_path / run, tmp_path / f"{run}.parquet"
        command = [sys.executable, ROOT / "scripts/train_sft.py", "--settings", json.dumps(SFT), "--model",
                   tiny_model, "--data", demonstrations, "--prompts", json.dumps(PROMPTS), "--output", output,
                   "--metrics", metrics, "--log", tmp_path / f"{run}.log"]  # fmt: skip
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        outputs.append((output, metrics))
    (first, first_metrics), (second, second_metrics) = outputs
    assert first_metrics.read_bytes() == second_metrics.read_bytes()
    names = sorted(path.name for path in first.iterdir() if path.name != "README.md")  # its title is the model's name
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= {
        *names
    }
    assert not [name for name in names if name.endswith(".bin")]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    assert not list(tmp_path.glob(".*")), "nothing half-written stays"
    start = AutoModelForCausalLM.from_pretrained(tiny_model)
    trained = AutoModelForCausalLM.from_pretrained(first)
    assert not torch.equal(start.model.embed_tokens.weight, trained.model.embed_tokens.weight)
    assert trained.generation_config.eos_token_id == start.generation_config.eos_token_id
    frame = pl.read_parquet(first_metrics)
    assert frame["step"].to_list() == [1, 2] and frame.null_count().sum_horizontal().item() == 0
    assert frame["loss"][1] < frame["loss"][0]


def test_grpo_trains_with_a_judge_in_process(tiny_model, tmp_path):
    examples = records.read(write_examples(tmp_path / "rl.parquet"), records.EXAMPLE)
    apart = {name: pl.format("{} held out", name) for name in ("example_id", "user_id", "prompt")}
    records.write(examples.with_columns(**apart), tmp_path / "held_out.parquet", records.EXAMPLE)
    settings = GRPO | {"report_to": "tensorboard", "eval_steps": 1, "eval_on_start": True}
    output, metrics = tmp_path / "model", tmp_path / "metrics.parquet"
    judge = {"kind": "jud", "model": {"engine": "transformers", "path": str(tiny_model)}}
    command = [
        sys.executable, ROOT / "scripts/train_grpo.py", "--settings", json.dumps(settings), "--model", tiny_model,
        "--data", tmp_path / "rl.parquet", "--held_out", tmp_path / "held_out.parquet",
        "--rollouts", tmp_path / "rollouts.parquet", "--prompts", json.dumps(PROMPTS), "--judge", json.dumps(judge),
        "--journal", tmp_path / "journal", "--output", output, "--metrics", metrics, "--log", tmp_path / "policy.log",
    ]  # fmt: skip
    variables = {name: value for name, value in os.environ.items() if name != "TENSORBOARD_LOGGING_DIR"}
    done = subprocess.run([str(part) for part in command], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert AutoModelForCausalLM.from_pretrained(output) and AutoTokenizer.from_pretrained(output).chat_template
    steps = records.read(metrics, GRPO_METRICS)
    assert steps["step"].to_list() == [0, 1] and steps["held_out_reward"].null_count() == 0
    assert records.read(tmp_path / "rollouts.parquet", records.ROLLOUT)["step"].to_list() == [0] * 3 + [1] * 11
    text = (tmp_path / "policy.log").read_text()
    assert "step 1 of 1: reward" in text and "held out after step 0: reward" in text
    # The directory of TensorBoard's files is the log's name without its ending.
    events = EventAccumulator(str(tmp_path / "policy/tensorboard"))
    events.Reload()
    for tag, column, first in (("train/reward", "reward", 1), ("eval/reward", "held_out_reward", 0)):
        found = {event.step: event.value for event in events.Scalars(tag)}
        assert found == pytest.approx(dict(steps.select("step", column)[first:].iter_rows()))
    command[command.index("--held_out") + 1] = tmp_path / "rl.parquet"
    leak = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert leak.returncode == 1 and "rl.parquet is not held out: it shares 1 user, 1 target post" in leak.stderr
    command[command.index("--model") + 1] = tmp_path / "missing"
    del command[command.index("--held_out") : command.index("--held_out") + 2]
    command[command.index("--settings") + 1] = json.dumps(GRPO)
    failed = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert failed.returncode == 1 and "missing cannot be loaded" in failed.stderr and "Traceback" not in failed.stderr


def test_grpo_trains_over_steps(tiny_model, tmp_path):
    (example, *_) = records.read(write_examples(tmp_path / "rl.parquet"), records.EXAMPLE).to_dicts()
    rows = [
        {
            **example,
            "example_id": f"{name}{count}",
            "stream": name,
            "pairs": example["pairs"] * count,
            "chunks": [1] * count,
        }
        for name in "abc"
        for count in (1, 2)
    ]
    records.write(pl.DataFrame(rows, schema=records.EXAMPLE), tmp_path / "rl.parquet", records.EXAMPLE)
    judge = {"kind": "jud", "model": {"engine": "transformers", "path": str(tiny_model)}}
    settings = {**GRPO, "per_device_train_batch_size": 8, "max_steps": 2, "credit": {"carried": 0.9, "others": 0.45}}
    command = [
        sys.executable, ROOT / "scripts/train_grpo.py", "--settings", json.dumps(settings), "--model", tiny_model,
        "--data", tmp_path / "rl.parquet", "--prompts", json.dumps(PROMPTS), "--judge", json.dumps(judge),
        "--journal", tmp_path / "journal", "--output", tmp_path / "model", "--metrics", tmp_path / "metrics.parquet",
        "--rollouts", tmp_path / "rollouts.parquet",
    ]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(tmp_path / "metrics.parquet")["step"].to_list() == [1, 2]
    rollouts = pl.read_parquet(tmp_path / "rollouts.parquet")
    assert rollouts["step"].unique().to_list() == [1, 2] and rollouts["reward"].max() <= 1, "the step's own reward"


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        (
            "sft",
            {"lerning_rate": 1e-6},
            "training.sft: training setting 'lerning_rate' is unknown to SFTConfig; did you",
        ),
        (
            "grpo",
            {"per_device_train_batch_size": 12, "num_generations": 7},
            "(12) must be divisible by num_generations",
        ),
    ],
)
def test_a_training_that_cannot_start_stops_the_run_before_any_job(tmp_path, stage, settings, message):
    tree = copy_workflow(tmp_path / "tree")
    config = merged()
    config["training"][stage].update(settings)
    path = write_config(tree / "untrained.yaml", config)
    arguments = ("--cores", "1", "--forceall", "--configfile", str(path))
    stopped = snakemake(tree, "models/trained/alignxplore", *arguments)
    output = stopped.stdout + stopped.stderr
    assert stopped.returncode != 0 and message in output
    assert "Traceback" not in output and "jobid" not in output
    # A run that trains nothing goes on and finds no lock. Its jobs' own processes check nothing.
    result = snakemake(tree, "data/cold/dimensions.parquet", *arguments)
    assert result.returncode == 0, result.stderr
