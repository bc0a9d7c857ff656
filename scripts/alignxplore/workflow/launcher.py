"""What a launch command (`training.launch`) says: its program and files, how many processes it starts, DeepSpeed."""

import argparse
import difflib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from alignxplore.errors import UserError

JOB_LAUNCHERS = ("accelerate", "deepspeed", "torchrun")
"""Programs that `--sdm conda` brings to a training job, even if this environment lacks them."""

ZERO_STAGE = 2
"""What accelerate takes for DeepSpeed if nothing says it."""


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


def sharding(command: str) -> tuple[int, bool]:
    """DeepSpeed's ZeRO stage and whether the optimiser is offloaded, by a launch command and the files it names."""
    if not uses_deepspeed(command):
        return 0, False
    deepspeed = _deepspeed(command)
    if "deepspeed_config_file" in deepspeed:
        zero = json.loads(Path(deepspeed["deepspeed_config_file"]).read_text(encoding="utf-8"))["zero_optimization"]
        return zero["stage"], zero.get("offload_optimizer", {}).get("device", "none") != "none"
    return deepspeed.get("zero_stage", ZERO_STAGE), deepspeed.get("offload_optimizer_device", "none") != "none"


def files(command: str) -> list[str]:
    """The files in a launch command, and the DeepSpeed file that accelerate's names: what a training depends on."""
    words = [part for word in shlex.split(command) for part in word.split("=")]
    named = [word for word in words if word.endswith((".yaml", ".json", ".sh")) and Path(word).is_file()]
    file = _deepspeed(command).get("deepspeed_config_file")
    return [*named, *([file] if file and file not in named else [])]


def located(command: str, found: Callable[[str], str]) -> str:
    """The command with every path as `found` returns it.

    accelerate looks for the DeepSpeed file that its own file names in the working directory, unless the command line
    names another.
    """

    def word(part: str) -> str:
        return part if found(part) == part else shlex.quote(found(part))

    command = "".join(map(word, re.split("([ =])", command)))
    try:
        file = _deepspeed(command).get("deepspeed_config_file", "")
    except ValueError:
        return command  # launch_errors says what is wrong with it
    return command if found(file) == file else f"{command} --deepspeed_config_file {word(file)}"


def launch_errors(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error unless a training job finds its program, and the configuration file that the command names."""
    if "training" not in config:
        return
    key, command = "training.launch", config["training"]["launch"]
    try:
        words = shlex.split(command)
    except ValueError as error:
        yield f"{key}: cannot be split into words ({error}): {command!r}"
        return
    if not words:
        if command:  # the schema refuses an empty one
            yield f"{key}: names no program: write python, or accelerate launch with its options"
        return
    # As job.prefer_own_programs sets it for jobs.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if words[0] not in JOB_LAUNCHERS and shutil.which(words[0], path=path) is None:
        close = difflib.get_close_matches(words[0], ["python", *JOB_LAUNCHERS], 1)
        hint = f"did you mean {close[0]!r}?" if close else "install it, or write its path"
        yield f"{key}: there is no program {words[0]!r}; {hint}"
    file = _told(command).get("config_file", "")
    if file.endswith((".yaml", ".json")) and not Path(file).is_file():
        yield f"{key}: there is no file {file!r}, which --config_file names"


def _told(command: str) -> dict[str, Any]:
    """accelerate's options on the command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--num_processes", "--num-processes", type=int)
    parser.add_argument("--config_file", "--config-file")
    parser.add_argument("--use_deepspeed", "--use-deepspeed", action="store_true")
    parser.add_argument("--deepspeed_config_file", "--deepspeed-config-file")
    parser.add_argument("--zero_stage", "--zero-stage", type=int)
    parser.add_argument("--offload_optimizer_device", "--offload-optimizer-device")
    try:
        told, _ = parser.parse_known_args(shlex.split(command))
    except argparse.ArgumentError as error:
        raise UserError(f"training.launch: {error}") from None
    return {name: value for name, value in vars(told).items() if value is not None}


def _deepspeed(command: str) -> dict[str, Any]:
    """accelerate's options for DeepSpeed: those on the command line over those in its configuration file."""
    options = _options(command)
    return {**(options.get("deepspeed_config") or {}), **options}


def _options(command: str) -> dict[str, Any]:
    """accelerate's options on the command line, over those in its configuration file."""
    told = _told(command)
    file = Path(told.get("config_file", ""))
    if not file.is_file():
        return told
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"training.launch: {file} is not valid YAML: {error}") from None
    return {**values, **told} if isinstance(values, dict) else told
