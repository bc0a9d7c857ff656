"""Training with parameters sharded by DeepSpeed ZeRO-3, in two CPU processes: run by `make test-deepspeed`."""

import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from alignxplore.workflow.config_paths import located
from configs import merged
from conftest import WORDS
from demonstrations import write_demonstrations, write_examples
from processes import unused_port
from random_models import random_qwen2
from safetensors.torch import load_file
from training_jobs import (
    ACCELERATE,
    ZERO3,
    command_of,
    environment,
    run_on_two_nodes,
    stop_at_second_step,
    train,
)

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed (envs/requirements/deepspeed.txt)"
)


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory) -> Path:
    return random_qwen2(tmp_path_factory.mktemp("models") / "untied", WORDS, tied=False)


@pytest.mark.parametrize(("stage", "batch"), [("sft", 4), ("grpo", 12)])
def test_zero3_makes_the_same_update_as_one_process(tiny_model, tmp_path, stage, batch):
    one = train(stage, tiny_model, tmp_path / "one", 1, batch)
    two = train(stage, tiny_model, tmp_path / "two", 2, batch // 2, deepspeed=ZERO3)
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("stage", "batch"), [("sft", 4), ("grpo", 12)])
def test_processes_whose_data_differ_in_size_gather_alike(untied_model, tmp_path, monkeypatch, stage, batch):
    """By its own data, one process would fuse the output embedding with the loss, and the other would not."""
    one = train(stage, untied_model, tmp_path / "one", 1, batch)
    monkeypatch.setenv("MOST_LOGITS", json.dumps([0, 2**40]))
    two = train(stage, untied_model, tmp_path / "two", 2, batch // 2, deepspeed=ZERO3)
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("formatted_from", [0, 6], ids=["both processes ask", "one process asks"])
def test_a_judge_beside_a_sharded_policy_is_whole(tiny_model, tmp_path, monkeypatch, formatted_from):
    """Rollouts out of format are not judged. Of the 12 of a prompt, each process has 6."""
    monkeypatch.setenv("JUDGE", str(tiny_model))
    monkeypatch.setenv("JUDGE_PROMPT", str(ROOT / "resources/prompts/judge.jinja"))
    monkeypatch.setenv("FORMATTED_FROM", str(formatted_from))
    one = train("grpo", tiny_model, tmp_path / "one", 1, 12, num_generations=12)
    two = train("grpo", tiny_model, tmp_path / "two", 2, 6, num_generations=12, deepspeed=ZERO3)
    assert one["reward"] == two["reward"] and 0 < one["reward"][0] < 1
    assert one["format_ok"][0] == two["format_ok"][0] == (12 - formatted_from) / 12
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4, abs=1e-5)


def test_the_shipped_file_starts_several_nodes(tiny_model, tmp_path):
    options = ["--config_file", "config/accelerate/zero3.yaml", "--num_processes", "2"]
    command = command_of("sft", tiny_model, tmp_path / "nodes", 2, sharded=True)
    run_on_two_nodes(tmp_path, [*options, *command])
    command = command_of("sft", tiny_model, tmp_path / "one", 2, sharded=True)
    launcher = [*ACCELERATE, *options, "--main_process_port", str(unused_port())]
    done = subprocess.run([*launcher, *command], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    for file in ("{}/model.safetensors", "{}.parquet"):
        one, other = (tmp_path / file.format(name) for name in ("nodes", "one"))
        assert one.read_bytes() == other.read_bytes()


NOT_ON_CPU = {"bf16": False, "dtype": "float32"}
SMALLER = {"max_steps": 3, "gradient_accumulation_steps": 4, "save_steps": 50}


@pytest.mark.parametrize(("stage", "own"), [("sft", {}), ("grpo", {"use_vllm": False, "max_completion_length": 16})])
def test_the_papers_training_stops_and_resumes(tiny_model, tmp_path, monkeypatch, stage, own):
    """The entries of config/paper.yaml but for `own` and the settings above, and its launch command, in a directory
    that is not the workflow's."""
    monkeypatch.chdir(tmp_path)
    config = located(merged("paper"), ROOT)["training"]
    model = random_qwen2(tmp_path / "policy", WORDS, hidden=16, tied=False, vocabulary=152_064)
    settings = {**config[stage], **NOT_ON_CPU, **SMALLER, **own, "seed": 1}
    prompts = {name: str(ROOT / f"resources/prompts/{name}.jinja") for name in ("preference", "judge")}
    judge = {"kind": "jud", "model": {"engine": "transformers", "path": str(tiny_model)}}
    if stage == "sft":
        data = write_demonstrations(tmp_path / "data.parquet")
    else:
        data = write_examples(tmp_path / "data.parquet")

    def command(name: str) -> list[str]:
        _, *launch = shlex.split(config["launch"])
        launcher = [*ACCELERATE, *launch[1:], "--num_processes", "2", "--main_process_port", str(unused_port())]
        program = [ROOT / "tests/support/train_on_cpu.py", ROOT / f"scripts/train_{stage}.py"]
        arguments = {
            "settings": json.dumps(settings),
            "model": model,
            "data": data,
            "prompts": json.dumps(prompts),
            "output": tmp_path / name,
            "metrics": tmp_path / f"{name}.parquet",
        }
        if stage == "grpo":
            arguments |= {
                "judge": json.dumps(judge),
                "journal": tmp_path / name / "../journal",
                "held_out": write_examples(tmp_path / "held_out.parquet", suffix=" no"),
                "rollouts": tmp_path / f"{name}.rollouts.parquet",
            }
        options = [part for key, value in arguments.items() for part in (f"--{key}", value)]
        return [str(part) for part in (*launcher, *program, *options)]

    stopped = stop_at_second_step(command("stopped"), tmp_path / "first")
    assert "stopped after step 2, which is saved" in stopped, stopped
    for name in ("stopped", "whole"):
        (tmp_path / f"{name}.slow").mkdir()
        variables = {**environment(), "SLOW": str(tmp_path / f"{name}.slow")}
        done = subprocess.run(command(name), cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
    assert not list((tmp_path / "stopped.slow").iterdir()), "the second step was not made again"
    rollouts = ["{}.rollouts.parquet"] if stage == "grpo" else []
    for file in ("{}/model.safetensors", "{}.parquet", *rollouts):
        one, other = (tmp_path / file.format(name) for name in ("stopped", "whole"))
        assert one.read_bytes() == other.read_bytes()
    start, end = (load_file(path / "model.safetensors") for path in (model, tmp_path / "whole"))
    assert not start["lm_head.weight"].equal(end["lm_head.weight"])
    if stage == "grpo":
        metrics = pl.read_parquet(tmp_path / "whole.parquet")
        untrained, steps = metrics.row(0, named=True), metrics.slice(1)
        assert steps["format_ok"].to_list() == [1, 1, 1] and 0 < steps["reward"].mean() < 1
        assert untrained["step"] == 0 and untrained["held_out_format_ok"] == 1


def test_transformers_shards_what_it_loads_beside_zero3(tiny_model):
    """If this fails because `plain` is whole, engines.weights.unsharded is no longer needed."""
    program = f"""
from alignxplore.engines.weights import unsharded
from transformers import AutoModelForCausalLM
from transformers.integrations.deepspeed import HfDeepSpeedConfig, is_deepspeed_zero3_enabled
config = HfDeepSpeedConfig({{"zero_optimization": {{"stage": 3}}, "train_batch_size": 1}})
def parameters():
    return sum(weight.numel() for weight in AutoModelForCausalLM.from_pretrained({str(tiny_model)!r}).parameters())
plain = parameters()
with unsharded():
    assert not is_deepspeed_zero3_enabled()
    whole = parameters()
assert is_deepspeed_zero3_enabled()
print(plain, whole)
"""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment(), **alone, "MASTER_PORT": str(unused_port())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    plain, whole = map(int, done.stdout.splitlines()[-1].split())
    assert plain == 0 and whole > 10_000
