"""Preflight of config/one_gpu.yaml's own keys at toy size: everything is tried, and nothing that it makes is kept."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEMO = {"alignx": {"sources": ["raw.jsonl"], "shards": 1}, "wording": str(ROOT / "resources/wording.csv")}
ON_CPU = {"bf16": False, "dtype": "float32", "gradient_accumulation_steps": 2}
PSOUPS = ("expertise", "informativeness", "style")


def small(model: Path) -> dict:
    """What goes over config/one_gpu.yaml: tiny models, no card, short texts. All other keys are its own."""
    tiny = {"engine": "transformers", "path": str(model), "dtype": "float32", "max_model_len": None, "run": {"gpu": 0}}
    answers = {"max_new_tokens": 8}
    return {
        "card": {"memory": 9},
        "data": {**DEMO, "psoups": {name: {"path": "style.json"} for name in PSOUPS}},
        "models": {
            **{name: tiny for name in ("backbone", "teacher", "judge", "reward")},
            **{name: {key: value for key, value in tiny.items() if key != "path"} for name in ("no_rl", "alignxplore")},
        },
        "cold_start": {"sampling": answers},
        "training": {
            "gpus": 0,
            "sft": {**ON_CPU, "max_length": 64},
            "grpo": {**ON_CPU, "max_prompt_length": 48, "max_completion_length": 8, "use_vllm": False},
        },
        "evaluation": answers,
    }


def command(directory: Path, name: str) -> subprocess.CompletedProcess:
    files = [str(ROOT / "config/one_gpu.yaml"), "small.yaml"]
    return subprocess.run(
        [sys.executable, "-m", "alignxplore", name, "--configfile", *files],
        cwd=directory, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def tried(tiny_model, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    directory = tmp_path_factory.mktemp("one_gpu")
    (directory / "small.yaml").write_text(yaml.safe_dump(small(tiny_model)))
    (directory / "raw.jsonl").touch()
    (directory / "style.json").write_text(json.dumps([{}] * 60))
    return directory, command(directory, "preflight")


def test_every_kind_of_work_of_one_gpu_is_tried(tried):
    _, done = tried
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    table = done.stdout.split("\n\n")[0].splitlines()
    works = {line.split("  ")[0] for line in table[1:-1]}
    # 1 teacher, 1 backbone, 2 trained models; the judge; SFT and GRPO
    assert {"sft no_rl", "grpo alignxplore", "judge: choice_logprobs", "teacher: generate, 8 tokens"} <= works
    assert len(works) == 7 and "not measured" not in done.stdout, done.stdout


def test_numbers_of_prompts_are_the_configurations(tried):
    found = {line.split("  ")[0]: line.split() for line in tried[1].stdout.splitlines() if " prompts " in line}
    assert found["teacher: generate, 8 tokens"][4] == f"{500 * 2 + 300 + 3 * 60:,}"
    assert found["alignxplore: generate, 8 tokens"][4] == f"{300 + 3 * 60}"


def test_nothing_that_random_weights_make_is_kept(tried):
    directory, _ = tried
    left = {str(path.relative_to(directory)) for path in directory.rglob("*") if ".snakemake" not in path.parts}
    assert left == {"logs", "logs/preflight.json", "raw.jsonl", "small.yaml", "style.json"}


def test_the_plan_takes_what_was_measured(tried):
    directory, _ = tried
    plan = command(directory, "plan").stdout
    seconds = {
        line.split()[0]: line.split()[5] for line in plan.splitlines() if line.startswith(("sft", "grpo", "teach"))
    }
    assert len(seconds) == 3 and all(float(value.replace(",", "")) > 0 for value in seconds.values()), plan
    assert "its seconds are those of the longest texts" in plan
