"""Checks at the start of a run, which would otherwise stop days later: training settings, and the models' API keys."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alignxplore.errors import UserError
from alignxplore.workflow.launcher import processes

PROGRAM = Path(__file__).parents[2] / "check_training.py"


def check_keys(models: Mapping[str, Mapping[str, Any]], journal: str | Path) -> list[str]:
    """Warnings about `models`, by name in the config, whose API key is not set: only the journal can answer for them.

    Raises UserError for the first such model if the journal has no answers from it.
    """
    keys = {name: entry["run"]["key_env"] for name, entry in models.items() if "key_env" in entry.get("run", {})}
    lacking = {name: key for name, key in keys.items() if not os.environ.get(key)}
    if not lacking:
        return []
    known = set()
    if list(Path(journal).glob("*.jsonl")):
        from alignxplore.engines.journal import account  # slow to import, and rarely needed

        known = {row["model"] for row in account(journal).iter_rows(named=True) if row["entries"]}
    for name, key in lacking.items():
        if models[name]["path"] not in known:
            raise UserError(f"models.{name}: the environment variable {key} with its key is not set")
    return [
        f"models.{name}: the environment variable {key} with its key is not set; only the journal can answer"
        for name, key in lacking.items()
    ]


def check_training(variants: Mapping[str, Mapping[str, Any]], launch: str) -> None:
    """Check the `stage` and `settings` of each variant that `launch` will train.

    UserError names the first wrong key of `training.STAGE` or `training.variants.NAME`. A separate process imports
    TRL, which takes seconds. If TRL is not installed here, training jobs run in environments of their own and check
    their settings themselves.
    """
    if not variants or find_spec("trl") is None:
        return
    work = {"processes": processes(launch), "variants": variants}
    done = subprocess.run([sys.executable, str(PROGRAM)], input=json.dumps(work), capture_output=True, text=True)
    if done.returncode:
        raise UserError((done.stderr.strip().splitlines() or ["the training settings could not be checked"])[-1])
