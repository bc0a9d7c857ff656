"""Checks of the configuration's paths: programs and files that exist, and models that something makes."""

import difflib
import graphlib
import os
import posixpath
import re
import shlex
import shutil
import sys
from pathlib import Path

from alignxplore.errors import UserError
from alignxplore.workflow.config import Config

LOADING_ENGINES = ("transformers", "vllm")
"""Engines whose models are directories or come from the hub."""

HUB_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
"""NAME or OWNER/NAME."""

JOB_LAUNCHERS = ("accelerate", "deepspeed", "torchrun")
"""Programs that `--sdm conda` brings to a training job, even if this environment lacks them."""


def check_launch(command: str) -> None:
    """Check that a training job finds its program, and the configuration file that the command names."""
    key = "config: training.launch"
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"{key}: cannot be split into words ({error}): {command!r}") from None
    if not words:
        raise UserError(f"{key}: names no program: write python, or accelerate launch with its options")
    # As job.prefer_own_programs sets it for jobs.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if words[0] not in JOB_LAUNCHERS and shutil.which(words[0], path=path) is None:
        close = difflib.get_close_matches(words[0], ["python", *JOB_LAUNCHERS], 1)
        hint = f"did you mean {close[0]!r}?" if close else "install it, or write its path"
        raise UserError(f"{key}: there is no program {words[0]!r}; {hint}")
    options = [word.partition("=") for word in words]
    values = [value for option, _, value in options if option == "--config_file" and value]
    values += [after for word, after in zip(words, words[1:], strict=False) if word == "--config_file"]
    for file in values:
        if file.endswith((".yaml", ".json")) and not Path(file).is_file():
            raise UserError(f"{key}: there is no file {file!r}, which --config_file names")


def check_paths(config: Config) -> None:
    """Check that the journal can be a directory, and that each model is made by a rule, on disk, or on the hub."""
    journal = Path(config["journal"])
    there = next(path for path in [journal, *journal.parents, Path("/")] if path.exists())
    if not there.is_dir():
        raise UserError(f"config: journal: {str(there)!r} is a file; name a directory (it need not exist yet)")
    makers = _makers(config)
    for name, entry in config["models"].items():
        key, path = f"config: models.{name}.path", entry["path"]
        plain = posixpath.normpath(path)
        if plain in makers and path != plain:
            raise UserError(f"{key}: write {plain!r} instead of {path!r}, as the rule that makes it does")
        # Endpoints and engines that you add may give other names a meaning.
        loads = entry["engine"] in LOADING_ENGINES
        if path in makers or not (loads or path.startswith("models/")):
            continue
        if path.startswith("~"):
            raise UserError(f"{key}: ~ is not expanded in {path!r}; write the whole path")
        if Path(path).is_dir():
            continue
        if path.startswith("models/") or Path(path).exists() or not HUB_ID.fullmatch(path):
            raise UserError(
                f"{key}: there is no directory {path!r}, and no rule makes it; a model of the hub is NAME or OWNER/NAME"
            )


def _makers(config: Config) -> dict[str, str]:
    """The directories of models that rules make, each with the key that asks for it."""
    tables = {
        "demo.models": ("models/demo", config.get("demo", {}).get("models", {})),
        "gguf": ("models/gguf", config.get("gguf", {})),
        "training.variants": ("models/trained", config["training"]["variants"]),
    }
    return {f"{place}/{name}": f"{key}.{name}" for key, (place, names) in tables.items() for name in names}


def check_cycles(config: Config) -> None:
    """Check that no model is made from itself, directly or through others."""
    makers = _makers(config)

    def made(*models: str) -> list[str]:
        return [makers[path] for path in (config["models"][model]["path"] for model in models) if path in makers]

    cold = config["cold_start"]
    needs = {"cold_start": made(cold["teacher"], config["judges"][cold["judge"]]["model"])}
    for name, entry in config["training"]["variants"].items():
        judge = [config["judges"][entry["judge"]]["model"]] if "judge" in entry else []
        data = ["cold_start"] if entry["stage"] == "sft" else []
        needs[f"training.variants.{name}"] = [*made(entry["from"], *judge), *data]
    for name, entry in config.get("demo", {}).get("models", {}).items():
        needs[f"demo.models.{name}"] = [f"demo.models.{entry['base']}"] if "base" in entry else []
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        chain = list(reversed(error.args[1]))
        raise UserError(
            f"config: {chain[0]}: is made from itself: {', which needs '.join(chain)}; let one of them start elsewhere"
        ) from None
