"""The two training programs: their command line, and how rules start them, by `accelerate launch` if need be."""

import argparse
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from alignxplore.errors import UserError
from alignxplore.workflow import job as cli

JSON_ARGUMENTS = ("settings", "prompts", "judge")


def parser(description: str, *, judge: bool) -> argparse.ArgumentParser:
    """Arguments of a training program; with `judge`, those of GRPO."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--settings", required=True, metavar="JSON", help="settings by TRL's names")
    result.add_argument("--model", required=True, metavar="DIR", help="model to start from")
    result.add_argument("--data", required=True, metavar="PARQUET", help="examples to train on")
    result.add_argument("--prompts", required=True, metavar="JSON", help="paths of the prompt templates")
    if judge:
        result.add_argument("--judge", required=True, metavar="JSON", help="the judge whose reward is maximised")
        result.add_argument("--journal", metavar="DIR", required=True, help="where the judge's answers are kept")
    result.add_argument("--output", required=True, metavar="DIR", help="where the trained model goes")
    result.add_argument("--metrics", required=True, metavar="PARQUET", help="where the figures of each step go")
    result.add_argument("--log", metavar="FILE", help="log file to append to, beside standard error")
    return result


def run(arguments: argparse.Namespace, train: Callable[[argparse.Namespace], None]) -> None:
    """Decode the JSON arguments and call `train`; the first process alone writes the log file."""

    def main() -> None:
        for name in JSON_ARGUMENTS:
            if hasattr(arguments, name):
                setattr(arguments, name, _decode(name, getattr(arguments, name)))
        train(arguments)

    cli.run(main, arguments.log if os.environ.get("RANK", "0") == "0" else None)


def arguments_of_rule(snakemake: Any) -> dict[str, Any]:
    """A program's arguments as its rule has them; `training.run` in the config has settings that change no result."""
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    pinned = {name: value for name, value in params.model.items() if name == "revision"}
    return {
        "settings": {**snakemake.config["training"].get("run", {}), **params.settings, **pinned, "seed": params.seed},
        "model": params.model["path"],
        "data": inputs.data,
        "prompts": {n.removesuffix("_prompt"): path for n, path in inputs.items() if n.endswith("_prompt")},
        "output": output.model,
        "metrics": output.metrics,
        "log": snakemake.log[0],
    }


def launch(launcher: str, program: str, arguments: Mapping[str, Any], threads: int) -> None:
    """Run `program` by the command `launcher` to its end; UserError where it fails.

    It is passed SIGTERM, at which it saves where it is, and has its log written by then.
    """
    command = [*shlex.split(launcher), program]
    for name, value in arguments.items():
        command += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}) as process:
        former = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            status = process.wait()
        finally:
            signal.signal(signal.SIGTERM, former)
    if status:
        raise UserError(f"{program} ended with status {status}: what it said is above")


def _decode(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"--{name} must be a JSON object, not {text}")
    return value
