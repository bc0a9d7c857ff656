"""The shipped ZeRO-3 files on one GPU: stopped by SIGTERM and resumed, a training ends with the same bytes."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alignxplore.digests import directory_digest
from demonstrations import write_demonstrations

# accelerate starts DeepSpeed only on accelerators that it knows. This adds the CPU.
ON_CPU = """
import runpy, sys
from accelerate.state import DistributedType, PartialState
PartialState._prepare_backend = lambda self, *arguments: ("gloo", DistributedType.MULTI_GPU)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

ROOT = Path(__file__).parents[2]
STEPS = 12


@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed (envs/requirements/deepspeed.txt)"
)
def test_sigterm_and_resumption_end_with_the_same_bytes(machine, figures, tiny_model, tmp_path):
    data = write_demonstrations(tmp_path / "cold.parquet")
    on_cpu = machine.device == "cpu"
    settings = {
        "learning_rate": 1e-3, "per_device_train_batch_size": 2, "max_steps": STEPS, "seed": 3, "save_steps": 100,
        "bf16": not on_cpu, "gradient_checkpointing": True, "optim": "adamw_torch",
        "attn_implementation": "eager",  # the fast backward passes add up in no fixed order
    }  # fmt: skip
    wrapper = tmp_path / "on_cpu.py"
    wrapper.write_text(ON_CPU)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    if on_cpu:
        environment |= {"DS_ACCELERATOR": "cpu", "ACCELERATE_TORCH_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}

    def start(name: str) -> subprocess.Popen:
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file",
                    "config/accelerate/zero3.yaml", "--num_processes", "1"]  # fmt: skip
        program = [wrapper] if on_cpu else []
        prompts = {"preference": str(ROOT / "resources/prompts/preference.jinja")}
        run = tmp_path / name
        run.mkdir(exist_ok=True)
        command = [*launcher, *program, ROOT / "scripts/train_sft.py", "--settings", json.dumps(settings), "--model",
                   tiny_model, "--data", data, "--prompts", json.dumps(prompts), "--output", run / "model",
                   "--metrics", run / "metrics.parquet", "--log", run / "log"]  # fmt: skip
        output = (run / "output").open("a")
        return subprocess.Popen(
            [str(part) for part in command], cwd=ROOT, env=environment, stdout=output, stderr=output
        )

    def said(name: str) -> str:
        log = tmp_path / name / "log"
        return log.read_text() if log.exists() else ""

    started = time.perf_counter()
    assert start("whole").wait(300) == 0, (tmp_path / "whole/output").read_text()[-4000:]
    figures["whole run, s"] = time.perf_counter() - started
    stopped = start("stopped")
    while "step 2 of" not in said("stopped"):
        assert stopped.poll() is None, (tmp_path / "stopped/output").read_text()[-4000:]
        time.sleep(0.01)
    stopped.terminate()
    assert stopped.wait(120) != 0 and "is saved; run again to resume" in said("stopped")
    assert start("stopped").wait(300) == 0, (tmp_path / "stopped/output").read_text()[-4000:]
    assert "resuming from" in said("stopped")
    whole, resumed = tmp_path / "whole", tmp_path / "stopped"
    figures["equal bytes"] = directory_digest(whole / "model") == directory_digest(resumed / "model")
    assert figures["equal bytes"]
    assert (whole / "metrics.parquet").read_bytes() == (resumed / "metrics.parquet").read_bytes()
