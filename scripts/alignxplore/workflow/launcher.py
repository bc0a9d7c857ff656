"""What a launch command (`training.launch`) says: how many processes it starts, and whether by DeepSpeed."""

import argparse
import shlex
from pathlib import Path
from typing import Any

import yaml

from alignxplore.errors import UserError


def processes(command: str) -> int | None:
    """How many processes a launch command starts on all machines; None if it does not say."""
    words = shlex.split(command)
    if words and Path(words[0]).name.startswith("python") and "-m" not in words:
        return 1
    return _options(command).get("num_processes")


def uses_deepspeed(command: str) -> bool:
    """Whether a launch command, or accelerate's file that it names, asks for DeepSpeed."""
    options = _options(command)
    return options["use_deepspeed"] or options.get("distributed_type") == "DEEPSPEED"


def _options(command: str) -> dict[str, Any]:
    """accelerate's options on the command line, over those in its configuration file."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--num_processes", "--num-processes", type=int)
    parser.add_argument("--config_file", "--config-file")
    parser.add_argument("--use_deepspeed", "--use-deepspeed", action="store_true")
    try:
        told, _ = parser.parse_known_args(shlex.split(command))
    except argparse.ArgumentError as error:
        raise UserError(f"training.launch: {error}") from None
    given = {name: value for name, value in vars(told).items() if value is not None}
    if told.config_file and Path(told.config_file).is_file():
        try:
            values = yaml.safe_load(Path(told.config_file).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise UserError(f"training.launch: {told.config_file} is not valid YAML: {error}") from None
        return {**values, **given} if isinstance(values, dict) else given
    return given
