"""Checks at the start of a run, which would otherwise stop days later: raw files, training settings, API keys."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from alignxplore.errors import UserError
from alignxplore.workflow.launcher import processes
from alignxplore.workflow.schema import raise_all

PROGRAM = Path(__file__).parents[2] / "check_training.py"


def check_data(jobs: Sequence[Any]) -> None:
    """Read the P-SOUPS files of planned jobs of Snakemake, and see if raw AlignX has as many records as splits want.

    Files that are yet to be downloaded are left to the jobs that read them. UserError says all that is wrong.
    """
    by_rule = {name: [job for job in jobs if job.rule.name == name] for name in ("benchmark_psoups", "refine", "split")}
    sources = dict.fromkeys(file for job in by_rule["refine"] for file in job.input.sources)
    wanted = sum(job.params["size"] for job in by_rule["split"]) if sources else 0
    raise_all("data", [*_psoups_errors(by_rule["benchmark_psoups"]), *_size_errors(list(sources), wanted)])


def _psoups_errors(jobs: Sequence[Any]) -> Iterator[str]:
    from alignxplore.data.psoups import Signals, read_psoups  # slow to import, and every job loads this module

    for job in jobs:
        if Path(job.input.raw).exists():
            signals = Signals(job.params["signals"], job.params["seed"])
            try:
                read_psoups(job.input.raw, job.params["dimension"], job.params["positive"], signals)
            except UserError as error:
                yield str(error)


def _size_errors(sources: Sequence[str], wanted: int) -> Iterator[str]:
    if not all(Path(path).suffix in (".parquet", ".jsonl") and Path(path).exists() for path in sources):
        return
    from alignxplore import records

    found = 0
    for path in sources:
        if path.endswith(".parquet"):
            found += records.count(path)
        else:
            with open(path, "rb") as file:
                found += sum(1 for _ in islice(file, max(wanted - found, 0)))
    if found < wanted:
        yield f"the splits want {wanted} examples in all, but the sources hold {found} records: lower splits.NAME.size"


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
    """Raise a UserError that lists the `training_errors`, if there are any."""
    raise_all("config", training_errors(variants, launch))


def training_errors(variants: Mapping[str, Mapping[str, Any]], launch: str) -> list[str]:
    """What is wrong with the `stage` and `settings` of each variant that `launch` will train.

    Each error begins with a key, `training.STAGE` or `training.variants.NAME`. A separate process imports TRL, which
    takes seconds. If TRL is not installed here, training jobs run in environments of their own and check their settings
    themselves.
    """
    if not variants or find_spec("trl") is None:
        return []
    work = {"processes": processes(launch), "variants": variants}
    done = subprocess.run([sys.executable, str(PROGRAM)], input=json.dumps(work), capture_output=True, text=True)
    if done.returncode:
        raise UserError((done.stderr.strip().splitlines() or ["the training settings could not be checked"])[-1])
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found
