"""Trainings in one or several processes of their own, on a CPU."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
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
import hashlib, json, os, signal, sys, time
from pathlib import Path
from alignxplore.errors import UserError
from alignxplore.formats import Parsed
from alignxplore.judging.judge import load_judge
from alignxplore.judging.reward import Reward
from alignxplore.prompts import Prompt, Templates
from alignxplore.training import grpo, loop, scoring, sft
from alignxplore.training.checkpoints import run_facts
from alignxplore.training.metrics import GRPO_METRICS, SFT_METRICS
from alignxplore.training.models import load_tokenizer
from alignxplore.training.packed import PackedTrainer
from alignxplore.training.settings import Settings

if "deepspeed" in sys.argv[4] or "ACCELERATE_USE_DEEPSPEED" in os.environ:
    # accelerate starts DeepSpeed only on accelerators that it knows. This adds the CPU.
    from accelerate.state import DistributedType, PartialState

    PartialState._prepare_backend = lambda self, *args: ("gloo", DistributedType.MULTI_GPU)

if "MOST_LOGITS" in os.environ:
    scoring.MOST_LOGITS = json.loads(os.environ["MOST_LOGITS"])[int(os.environ.get("RANK", 0))]
stage, model, output, settings = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
questions = ["Post: travel", "likes humor, dislikes travel", "a joke would help", "no", "passport", "quick", "few", "x"]
prompts = [Prompt(text) for text in questions]
metrics = output.with_suffix(".parquet")
rollouts = output.with_suffix(".rollouts.parquet")
held_out = int(os.environ.get("HELD_OUT", 0))
facts = run_facts("sft" if stage == "sft" else "grpo", settings, model, __file__, Templates())
if stage == "sft":
    answers = ["<think>a joke</think>\\n<answer>likes humor</answer>" + " a joke" * n for n in range(len(questions))]
    rows = sft.tokenise(load_tokenizer(model, Settings({})), prompts, answers)
    trainer, schema = sft.make_trainer(settings, model, rows, output), SFT_METRICS
else:
    def text_of(prompt, member):
        seed = hashlib.sha256(f"{prompt} {member}".encode()).digest()
        if "JUDGE" in os.environ and member >= int(os.environ["FORMATTED_FROM"]):
            text = f"<think>a joke</think>\\n<answer>likes {sorted(questions)[seed[0] % 8]}</answer>"
            return trainer.processing_class.encode(text) + [ends]
        return [5 + byte for byte in seed[: 2 + seed[0] % 6]] + [ends]

    def reward(parsed, cases):
        # Some groups get equal rewards, so that only one process has rollouts that need no gradient.
        return [1.0 if case["name"] % 2 else float(len(i.preference) % 3) for i, case in zip(parsed, cases)]

    cases, update = [{"name": number, "example_id": str(number)} for number in range(len(prompts))], None
    if stage == "streams":
        # Four streams of two steps each.
        cases = [
            {"name": 2 * n, "example_id": str(n), "stream": str(n // 2), "chunks": [1] * (1 + n % 2)}
            for n in range(len(prompts))
        ]
        update = lambda case, past: Prompt(f"{questions[case['name'] // 2]} likes {past}")
        prompts = [update(case, "") for case in cases]
    if "JUDGE" in os.environ:
        entry = {"kind": "jud", "model": {"engine": "transformers", "path": os.environ["JUDGE"]}}
        reward = Reward(load_judge(entry, Templates(judge=os.environ["JUDGE_PROMPT"]), None))
        pair = {"chosen": "a joke", "rejected": "a passport"}
        cases = [{"example_id": text, "prompt": text, **pair} for text in questions]
    more = {"held_out": held_out, "update": update}
    trainer, schema = grpo.make_trainer(settings, model, cases, prompts, reward, output, **more), GRPO_METRICS
    trainer.parse = lambda ids: Parsed("r", trainer.processing_class.decode(ids), True)  # of steps
    ends = trainer.eos_token_ids[0]
    place = trainer.accelerator.process_index

    def given(trainer, prompt_ids, images, multimodal_fields, num_generations, **kwargs):
        # Fixed rollouts: those of a group do not depend on how the group is divided among processes.
        if place == int(os.environ.get("STOPPED", -1)):
            os.kill(os.getpid(), signal.SIGTERM)
        if "SLOW" in os.environ and trainer.state.global_step == 1:
            Path(os.environ["SLOW"], str(place)).touch()
            time.sleep(5)
        first = place * len(prompt_ids)
        return [text_of(ids, (first + at) % num_generations) for at, ids in enumerate(prompt_ids)], None

    PackedTrainer._generate_single_turn = given
try:
    loop.complete(trainer, facts, output, metrics, schema, rollouts if stage != "sft" else None)
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
SETTINGS["streams"] = SETTINGS["grpo"]


def environment() -> dict[str, str]:
    """Variables for a training on CPUs, with or without DeepSpeed."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")]),
        "DS_ACCELERATOR": "cpu",
        "ACCELERATE_TORCH_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }


def train(stage: str, model: Path, output: Path, processes: int, batch: int, accumulation: int = 1, **settings) -> dict:
    """Train for two steps on `processes` processes with `batch` sequences each; return the metrics."""
    done = launched(stage, model, output, processes, batch, accumulation, **settings)
    assert done.returncode == 0, done.stderr[-4000:]
    import polars as pl

    return pl.read_parquet(output.with_suffix(".parquet")).to_dict(as_series=False)


def launched(
    stage: str, model: Path, output: Path, processes: int, batch: int, accumulation: int = 1, **settings
) -> subprocess.CompletedProcess:
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "0", "--standalone"]
    command = command_of(stage, model, output, batch, accumulation, **settings)
    return subprocess.run(
        [sys.executable, *(launch if processes > 1 else []), *command],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def command_of(
    stage: str, model: Path, output: Path, batch: int, accumulation: int = 1, sharded: bool = False, **settings
) -> list[str]:
    """The program and its arguments, for any launcher; `sharded` if its file asks for DeepSpeed."""
    own = {
        **SETTINGS[stage],
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "use_cpu": not sharded and "deepspeed" not in settings,  # DeepSpeed reads an environment variable instead
        "optim": "adamw_torch",
        **settings,
    }
    program = output.with_suffix(".py")
    program.write_text(JOB)
    return [str(program), stage, str(model), str(output), json.dumps(own)]


def run_on_two_nodes(directory: Path, arguments: list[str]) -> None:
    """Run nodes.sh with these arguments of `accelerate launch` as `srun` does on two nodes; both are this machine.

    Slurm's part is played by its variables, and by a program in `directory`.
    """
    programs = {
        "scontrol": '[ "$*" = "show hostnames node[1-2]" ] && printf "localhost\\nnode2\\n"',
        "accelerate": f'shift; exec {shlex.join(ACCELERATE)} "$@"',
    }
    (directory / "bin").mkdir()
    for name, text in programs.items():
        (directory / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / "bin" / name).chmod(0o755)
    slurm = {
        "PATH": f"{directory / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_STEP_NUM_NODES": "2",
    }
    command = ["bash", str(ROOT / "config/accelerate/nodes.sh"), *arguments]
    nodes = [
        subprocess.Popen(command, env={**environment(), **slurm, "SLURM_NODEID": node}, stderr=subprocess.PIPE)
        for node in ("0", "1")
    ]
    for node in nodes:
        _, messages = node.communicate(timeout=240)
        assert node.returncode == 0, messages.decode()[-4000:]


def stop_at_second_step(command: list[str], seen: Path, **variables: str) -> str:
    """Send SIGTERM to a launcher of two processes when their slow second step has begun; return all messages.

    The processes leave files in `seen`, a new directory, when it begins.
    """
    seen.mkdir()
    log = seen.with_suffix(".log")
    with log.open("w") as messages:
        variables = {**environment(), "SLOW": str(seen), **variables}
        running = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=messages, stderr=messages)
        while len(list(seen.iterdir())) < 2:
            assert running.poll() is None, log.read_text()[-4000:]
            time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        running.wait(120)
    assert running.returncode != 0
    return log.read_text()


def assert_same_update(model: Path, one: Path, two: Path, metrics: list[dict], tolerance: float) -> None:
    """Check that two trainings of `model` moved its weights alike, with equal loss and gradient."""
    start, first, second = (load_file(path / "model.safetensors") for path in (model, one, two))
    for name, weight in first.items():
        moved = (weight - start[name]).abs().max()
        assert torch.allclose(weight, second[name], atol=tolerance * max(moved.item(), 1e-3)), name
    assert max((first[name] - start[name]).abs().max() for name in first) > 1e-3
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], rel=1e-4, abs=1e-6)
    assert metrics[0]["grad_norm"] == pytest.approx(metrics[1]["grad_norm"], rel=1e-3)
