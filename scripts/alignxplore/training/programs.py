"""The command line of the two training programs, and how rules launch them: by `python` or `accelerate launch`."""

import argparse
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alignxplore.errors import UserError
from alignxplore.workflow import job

JSON_ARGUMENTS = ("settings", "prompts", "judge")


def parser(description: str, *, judge: bool) -> argparse.ArgumentParser:
    """The command line of a training program; with `judge`, that of GRPO."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--settings", required=True, metavar="JSON", help="TRL's settings and our own, by name")
    result.add_argument("--model", required=True, metavar="DIR", help="model to start from")
    result.add_argument("--data", required=True, metavar="PARQUET", help="examples to train on")
    result.add_argument("--prompts", required=True, metavar="JSON", help="paths of the prompt templates")
    if judge:
        result.add_argument("--judge", required=True, metavar="JSON", help="config entry of the judge that rewards")
        result.add_argument("--journal", metavar="DIR", required=True, help="where to keep the judge's answers")
        result.add_argument("--held_out", metavar="PARQUET", help="examples to evaluate on during training")
        result.add_argument("--rollouts", metavar="PARQUET", required=True, help="where to keep some rollouts")
    result.add_argument("--output", required=True, metavar="DIR", help="where to save the trained model")
    result.add_argument("--metrics", required=True, metavar="PARQUET", help="where to write the metrics of each step")
    result.add_argument("--log", metavar="FILE", help="log file, in addition to standard error")
    return result


def run(arguments: argparse.Namespace, train: Callable[[argparse.Namespace], None]) -> None:
    """Decode the JSON arguments and call `train`. Only the first process writes the log file."""

    def main() -> None:
        # vLLM's FlashInfer sampler is compiled when it starts, and GPU machines often lack the compiler.
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
        if arguments.log:
            _keep_trackers_files(Path(arguments.log).with_suffix(""))
        for name in JSON_ARGUMENTS:
            if hasattr(arguments, name):
                setattr(arguments, name, _decode(name, getattr(arguments, name)))
        train(arguments)

    job.run(main, arguments.log if os.environ.get("RANK", "0") == "0" else None)


def _keep_trackers_files(directory: Path) -> None:
    """Have TensorBoard and W&B (`report_to`) write below `directory`, unless the environment says otherwise.

    TensorBoard's own default is beside the checkpoints, which are removed in the end.
    """
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(directory / "tensorboard"))
    os.environ.setdefault("WANDB_NAME", directory.name)
    if "WANDB_DIR" not in os.environ:
        directory.mkdir(parents=True, exist_ok=True)  # W&B writes to a temporary directory if there is none
        os.environ["WANDB_DIR"] = str(directory)


def arguments_of_rule(snakemake: Any) -> dict[str, Any]:
    """The program's arguments for the job of a rule.

    Rules leave `training.run` out of their params, because it changes no result. It is read here, when the job starts;
    the settings in the params win over it.
    """
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    run_settings = snakemake.config["training"].get("run", {})
    return {
        "settings": {**run_settings, **params.settings, **start_settings(params.model), "seed": params.seed},
        "model": params.model["path"],
        "data": inputs.data,
        "prompts": {n.removesuffix("_prompt"): path for n, path in inputs.items() if n.endswith("_prompt")},
        "output": output.model,
        "metrics": output.metrics,
        "log": snakemake.log[0],
    }


def start_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """Our own settings that come from the entry of the model that a training starts from."""
    return {name: value for name, value in model.items() if name != "path"}


STEP_SECONDS = "1800"
"""How long a launcher waits after SIGTERM for its processes to finish and save a step. torch's default is 30 s."""


def environment(threads: int, gpus: int) -> dict[str, str]:
    """The environment of a training program, which sees the first `gpus` of the GPUs that are visible here.

    TRL does not train in one process that sees several GPUs. UserError if fewer than `gpus` are visible.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [str(index) for index in range(gpus)] if shown is None else list(filter(None, shown.split(",")))
    if len(devices) < gpus:
        raise UserError(f"training.gpus: {gpus}, but CUDA_VISIBLE_DEVICES shows {len(devices)}: {shown!r}")
    own = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ",".join(devices[:gpus])}
    return {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": STEP_SECONDS, **os.environ, **own}


def launch(launcher: str, program: str, arguments: Mapping[str, Any], threads: int, gpus: int) -> None:
    """Run `program` to its end with the command `launcher`; UserError if it fails.

    SIGTERM is passed on to the program, which then saves its step, and this process waits for it.
    """
    command = [*shlex.split(launcher), program]
    for name, value in arguments.items():
        command += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    with subprocess.Popen(command, env=environment(threads, gpus)) as process:
        former = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            status = process.wait()
        finally:
            signal.signal(signal.SIGTERM, former)
    if status:
        raise UserError(f"{program} ended with status {status}; see its messages above")


def _decode(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"--{name} must be a JSON object, not {text}")
    return value
