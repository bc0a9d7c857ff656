"""Provenance: beside each job's first output, a JSON file that says what the job was made of, and checks of a tree.

A job writes its record when all outputs are there. A record without its outputs is of a job that was to be made again
and was not: it failed, was killed, or the outputs were removed by hand.
"""

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl

from alignxplore.digests import digest
from alignxplore.engines.journal import JOB_VARIABLE, calls_of_job
from alignxplore.errors import UserError
from alignxplore.records import count, replacing

DIRECTORIES = ("data", "models", "results")
"""Those in which jobs write outputs."""

ROOT = Path(__file__).parents[3].resolve()
PACKAGES = (
    "accelerate", "datasets", "deepspeed", "duckdb", "flash-attn", "jinja2", "matplotlib", "numpy", "openai", "polars",
    "safetensors", "scipy", "snakemake", "tokenizers", "torch", "transformers", "trl", "vllm",
)  # fmt: skip
"""Whose versions are recorded, where they are installed."""

SCHEMA = pl.Schema(
    {
        "output": pl.String(),
        "rule": pl.String(),
        "wildcards": pl.String(),
        "config": pl.String(),
        "seed": pl.Int64(),
        "inputs": pl.String(),
        "sha256": pl.String(),
        "rows": pl.Int64(),
        "models": pl.String(),
        "versions": pl.String(),
        "commit": pl.String(),
        "started": pl.String(),
        "seconds": pl.Float64(),
        "account": pl.String(),
    }
)
"""A row an output file. wildcards, config, inputs (path to SHA-256), models, versions and account are JSON; seed, rows
(of what is not Parquet) and commit may be null; seconds are the job's."""

Record = dict[str, Any]

SUFFIX = ".provenance.json"


def sidecar(output: str | Path) -> Path:
    """The record of the job with this first output."""
    return Path(f"{output}{SUFFIX}")


def recorded(main: Callable[[Any], Any], snakemake: Any, temporary: bool) -> None:
    """Run a job's `main(snakemake)`, and record it; `temporary` outputs are removed when they have been read."""
    started, clock, job = datetime.now(UTC), time.monotonic(), uuid.uuid4().hex
    os.environ[JOB_VARIABLE] = job  # for the programs that the job starts, too
    params = {name: value for name, value in snakemake.params.items()}
    record = {
        "rule": snakemake.rule,
        "wildcards": dict(snakemake.wildcards.items()),
        "params": params,
        "seed": _seed(params),
        "inputs": {portable(file): digest(file) for file in snakemake.input},
        "read": {portable(file): rows for file in snakemake.input if (rows := _rows(file)) is not None},
        "models": _models(params),
    }
    main(snakemake)
    seconds = time.monotonic() - clock
    record |= {
        "outputs": {portable(file): {"sha256": digest(file), "rows": _rows(file)} for file in snakemake.output},
        "temporary": temporary,
        "versions": _versions(),
        "commit": _commit(),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "threads": snakemake.threads,
        "gpus": snakemake.resources.get("gpu", 0),
        "account": _account(calls_of_job(snakemake.config["journal"], job)),
    }
    with replacing(sidecar(snakemake.output[0])) as partial:
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def portable(path: str | Path) -> str:
    """A path from where a run works, if it or the code's directory holds it; others stay as they are."""
    absolute = Path(path).absolute()
    if not Path(path).is_absolute():
        return str(path)
    if absolute.is_relative_to(Path.cwd()) or absolute.is_relative_to(ROOT):
        return os.path.relpath(absolute)
    return str(path)


def _seed(params: Mapping[str, Any]) -> int | None:
    judge = params.get("judge")
    return params.get("seed", judge.get("seed") if isinstance(judge, Mapping) else None)


def _models(params: Mapping[str, Any]) -> list[dict[str, str]]:
    """The models among a rule's params, each by its pinned revision or the content of its directory."""
    judge = params.get("judge")
    entries = [params.get("model"), judge.get("model") if isinstance(judge, Mapping) else None]
    found = []
    for entry in entries:
        if not isinstance(entry, Mapping) or "path" not in entry:
            continue
        model = {"path": str(entry["path"])}
        if Path(entry["path"]).is_dir():
            model["sha256"] = digest(entry["path"])
        elif "revision" in entry:
            model["revision"] = entry["revision"]
        if model not in found:
            found.append(model)
    return found


def _rows(path: str) -> int | None:
    if not path.endswith(".parquet"):
        return None
    return count(path)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of the code, "+dirty" where files differ from it; nothing for code that is in no repository."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _account(calls: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each model was asked: tokens, seconds and dollars are of the prompts that the journal did not answer.

    `loading` is what starting the model took, which is not in `seconds`.
    """
    found: dict[str, dict[str, Any]] = {}
    for call in calls:
        zero = {
            "asked": 0,
            "from_journal": 0,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "seconds": 0.0,
            "loading": 0.0,
            "cost": 0.0,
        }
        total = found.setdefault(call["model"], {"model": call["model"], **zero})
        total["asked"] += call["hits"] + call["new"]
        total["from_journal"] += call["hits"]
        total["prompt_tokens"] += call["new_prompt_tokens"]
        total["completion_tokens"] += call["new_completion_tokens"]
        total["seconds"] = round(total["seconds"] + call["seconds"], 3)
        total["loading"] = round(total["loading"] + call["loading"], 3)
        total["cost"] += call["paid_dollars"]
    return list(found.values())


def read(path: Path) -> Record:
    """A job's record; UserError where it cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["outputs"], record["inputs"], record["rule"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: this is no record of a job; remove it and the outputs beside it: {error}") from None
    return record


def sidecars(tree: str | Path) -> list[Path]:
    """All records in a tree."""
    return sorted(path for name in DIRECTORIES for path in (Path(tree) / name).rglob(f"*{SUFFIX}"))


def gather(targets: Iterable[str], tree: str | Path = ".") -> pl.DataFrame:
    """SCHEMA rows of all jobs that the target files came from; UserError for a target without a record."""
    records = [read(path) for path in sidecars(tree)]
    makers = {output: record for record in records for output in record["outputs"]}
    found: dict[int, Record] = {}
    queue = list(targets)
    for target in queue:
        if target not in makers:
            raise UserError(f"{target}: there is no record of the job that made it; make it again")
    while queue:
        record = makers.get(queue.pop())
        if record is not None and id(record) not in found:
            found[id(record)] = record
            queue += record["inputs"]
    rows = [_row(record, output) for record in found.values() for output in record["outputs"]]
    return pl.DataFrame(sorted(rows, key=lambda row: row["output"]), schema=SCHEMA)


def _row(record: Record, output: str) -> dict[str, Any]:
    return {
        "output": output,
        "rule": record["rule"],
        "wildcards": _json(record["wildcards"]),
        "config": _json(record["params"]),
        "seed": record["seed"],
        "inputs": _json(record["inputs"]),
        **record["outputs"][output],
        "models": _json(record["models"]),
        "versions": _json(record["versions"]),
        "commit": record["commit"],
        "started": record["started"],
        "seconds": record["seconds"],
        "account": _json(record["account"]),
    }


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def verify(tree: str | Path) -> list[str]:
    """What in a finished tree is not as its records say, a line a file and fault; nothing where all is well.

    A file has changed or is missing, or a job read another content than the job that made the file recorded. Temporary
    files may be missing. Raises UserError where a tree has no records.
    """
    paths = sidecars(tree)
    if not paths:
        raise UserError(f"{tree}: no job has left a record here")
    faults: list[str] = []
    records: list[Record] = []
    for path in paths:
        try:
            records.append(read(path))
        except UserError as error:
            faults.append(str(error))
    makers = {output: record for record in records for output in record["outputs"]}
    now: dict[str, str | None] = {}

    def content(file: str) -> str | None:
        if file not in now:
            path = Path(tree) / file
            now[file] = digest(path) if path.exists() else None
        return now[file]

    for record in records:
        for output, made in record["outputs"].items():
            if content(output) is None and not record["temporary"]:
                faults.append(f"{output}: missing; rule {record['rule']} made it")
            elif content(output) not in (None, made["sha256"]):
                faults.append(f"{output}: changed since rule {record['rule']} made it")
    for record in records:
        reader = next(iter(record["outputs"]))
        for file, digested in record["inputs"].items():
            maker = makers.get(file)
            if maker is not None:
                if maker["outputs"][file]["sha256"] != digested:
                    faults.append(f"{reader}: made from another {file} than the one that rule {maker['rule']} made")
            elif content(file) is None:
                faults.append(f"{file}: missing; {reader} was made from it")
            elif content(file) != digested:
                faults.append(f"{file}: changed since {reader} was made from it")
        for model in record["models"]:
            path = model["path"]
            if "sha256" in model and path not in record["inputs"] and content(path) != model["sha256"]:
                faults.append(f"{path}: missing or changed since {reader} was made with it")
    return faults
