"""Several processes make the same update as one: data-parallel, and with parameters sharded by DeepSpeed ZeRO-3."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

TESTS = Path(__file__).parent
ZERO3 = {
    "zero_optimization": {
        "stage": 3,
        "stage3_gather_16bit_weights_on_model_save": True,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": 0,
    },
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}

JOB = """
import hashlib, json, os, signal, sys
from pathlib import Path
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt, Templates
from alignxplore.training import grpo, loop, sft
from alignxplore.training.checkpoints import run_facts
from alignxplore.training.metrics import GRPO_METRICS, SFT_METRICS
from alignxplore.training.models import load_tokenizer
from alignxplore.training.settings import Settings

if "deepspeed" in sys.argv[4]:
    # accelerate starts DeepSpeed only on accelerators that it knows. This adds the CPU.
    from accelerate.state import DistributedType, PartialState

    PartialState._prepare_backend = lambda self, *args: ("gloo", DistributedType.MULTI_GPU)

stage, model, output, settings = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
questions = ["Post: travel", "likes humor, dislikes travel", "a joke would help", "no", "passport", "quick", "few", "x"]
prompts = [Prompt(text) for text in questions]
metrics = output.with_suffix(".parquet")
facts = run_facts(stage, settings, model, __file__, Templates())
if stage == "sft":
    answers = ["<think>a joke</think>\\n<answer>likes humor</answer>" + " a joke" * n for n in range(len(questions))]
    rows = sft.tokenise(load_tokenizer(model, Settings({})), prompts, answers)
    trainer, schema = sft.make_trainer(settings, model, rows, output), SFT_METRICS
else:
    def text_of(prompt, member):
        seed = hashlib.sha256(f"{prompt} {member}".encode()).digest()
        return [5 + byte for byte in seed[: 2 + seed[0] % 6]] + [ends]

    def reward(parsed, cases):
        # Some groups get equal rewards, so that only one process has rollouts that need no gradient.
        return [1.0 if case["name"] % 2 else float(len(i.preference) % 3) for i, case in zip(parsed, cases)]

    cases = [{"name": number} for number in range(len(prompts))]
    trainer, schema = grpo.make_trainer(settings, model, cases, prompts, reward, output), GRPO_METRICS
    ends = trainer.eos_token_ids[0]
    place = trainer.accelerator.process_index

    def given(prompt_ids, images, multimodal_fields, num_generations, **kwargs):
        # Fixed rollouts: those of a group do not depend on how the group is divided among processes.
        if place == int(os.environ.get("STOPPED", -1)):
            os.kill(os.getpid(), signal.SIGTERM)
        first = place * len(prompt_ids)
        return [text_of(ids, (first + at) % num_generations) for at, ids in enumerate(prompt_ids)], None

    trainer._generate_single_turn = given
try:
    loop.complete(trainer, facts, output, metrics, schema)
except UserError as error:
    sys.exit(f"PROCESS {trainer.accelerator.process_index}: {error}")
"""

SETTINGS = {
    "sft": {"learning_rate": 1e-2, "max_steps": 2, "seed": 5, "lr_scheduler_type": "constant"},
    "grpo": {
        "learning_rate": 1e-2, "max_steps": 2, "seed": 5, "lr_scheduler_type": "constant", "num_generations": 4,
        "max_completion_length": 12,
    },
}  # fmt: skip


def train(stage: str, model: Path, output: Path, processes: int, batch: int, accumulation: int = 1, **settings) -> dict:
    """Train for two steps on `processes` processes with `batch` sequences each; return the metrics."""
    done = launched(stage, model, output, processes, batch, accumulation, **settings)
    assert done.returncode == 0, done.stderr[-4000:]
    import polars as pl

    return pl.read_parquet(output.with_suffix(".parquet")).to_dict(as_series=False)


def launched(
    stage: str, model: Path, output: Path, processes: int, batch: int, accumulation: int = 1, **settings
) -> subprocess.CompletedProcess:
    own = {
        **SETTINGS[stage],
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "use_cpu": "deepspeed" not in settings,  # DeepSpeed reads an environment variable instead
        "optim": "adamw_torch",
        **settings,
    }
    program = output.with_suffix(".py")
    program.write_text(JOB)
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "0", "--standalone"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parents[1] / "scripts"), os.environ.get("PYTHONPATH", "")]),
        "DS_ACCELERATOR": "cpu",
        "ACCELERATE_TORCH_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    arguments = [str(program), stage, str(model), str(output), json.dumps(own)]
    return subprocess.run(
        [sys.executable, *(launch if processes > 1 else []), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


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


@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="needs DeepSpeed (envs/requirements/deepspeed.txt)",
)
@pytest.mark.parametrize(("stage", "batch"), [("sft", 4), ("grpo", 12)])
def test_zero3_makes_the_same_update_as_one_process(tiny_model, tmp_path, stage, batch):
    one = train(stage, tiny_model, tmp_path / "one", 1, batch)
    two = train(stage, tiny_model, tmp_path / "two", 2, batch // 2, deepspeed=ZERO3)
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4, abs=1e-5)
