"""Training with parameters sharded by DeepSpeed ZeRO-3, in two CPU processes: run by `make test-deepspeed`."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import WORDS
from processes import unused_port
from random_models import random_qwen2
from training_jobs import ACCELERATE, ZERO3, command_of, environment, run_on_two_nodes, train

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
