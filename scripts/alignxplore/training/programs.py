"""The command line of the two training programs, which `accelerate launch` can start."""

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

from alignxplore import cli
from alignxplore.errors import UserError

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
    result.add_argument("--log", metavar="FILE", help="log file, beside standard error")
    return result


def run(arguments: argparse.Namespace, train: Callable[[argparse.Namespace], None]) -> None:
    """Decode the JSON arguments and call `train`; the first process alone writes the log file."""

    def main() -> None:
        for name in JSON_ARGUMENTS:
            if hasattr(arguments, name):
                setattr(arguments, name, _decode(name, getattr(arguments, name)))
        train(arguments)

    cli.run(main, arguments.log if os.environ.get("RANK", "0") == "0" else None)


def _decode(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"--{name} must be a JSON object, not {text}")
    return value
