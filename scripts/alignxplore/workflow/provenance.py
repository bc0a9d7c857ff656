"""Provenance: a JSON record beside each job's first output, and the table that joins the records.

A job writes its record last, when all outputs are complete. Snakemake removes a job's outputs before it runs the job
again, but not the record. So a record without outputs means that the job failed or was killed, or that somebody removed
the outputs by hand.

The Snakefile imports this module in every Snakemake process. Slow imports therefore stay inside the functions.
"""

import json
import os
import platform
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignxplore import adapters
from alignxplore.digests import digest
from alignxplore.errors import UserError

if TYPE_CHECKING:
    import polars as pl

DIRECTORIES = ("data", "models", "results")
"""Directories of the jobs' outputs."""

SUFFIX = ".provenance.json"

ROOT = Path(__file__).parents[3].resolve()
PACKAGES = (
    "accelerate", "bitsandbytes", "datasets", "deepspeed", "duckdb", "flash-attn", "jinja2", "matplotlib", "numpy",
    "openai", "peft", "polars", "safetensors", "scipy", "snakemake", "tokenizers", "torch", "transformers", "trl",
    "vllm",
)  # fmt: skip
"""Packages whose versions are recorded, if they are installed."""

Record = dict[str, Any]


def sidecar(output: str | Path) -> Path:
    """The path of the record of the job whose first output is `output`."""
    return Path(f"{output}{SUFFIX}")


def recorded(main: Callable[[Any], Any], snakemake: Any, temporary: bool) -> None:
    """Run a job's `main(snakemake)` and write its record.

    `temporary` means that Snakemake deletes the outputs as soon as no job needs them.
    """
    from alignxplore.engines.journal import JOB_VARIABLE, calls_of_job
    from alignxplore.records import replacing

    started, clock, job = datetime.now(UTC), time.monotonic(), uuid.uuid4().hex
    os.environ[JOB_VARIABLE] = job  # inherited by the programs that the job starts
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
        "machine": machine(),
        "gpus": snakemake.resources.get("gpu", 0),
        "account": _account(calls_of_job(snakemake.config["journal"], job)),
    }
    with replacing(sidecar(snakemake.output[0])) as partial:
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def machine() -> str:
    """This machine's processor and number of cores."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0] if names else platform.machine()}"


def portable(path: str | Path) -> str:
    """`path` relative to the working directory, if that directory or the repository contains it; else unchanged."""
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
    """The models in a rule's params, each with the digest of its directory or its pinned revision.

    An adapter follows the model that it belongs to.
    """
    judge = params.get("judge")
    entries = [params.get("model"), judge.get("model") if isinstance(judge, Mapping) else None]
    found = []
    for entry in entries:
        if not isinstance(entry, Mapping) or "path" not in entry:
            continue
        source = adapters.source(entry["path"], entry.get("revision"), entry.get("adapter"))
        for path, revision in ((source.base, source.revision), (source.adapter, None)):
            if path is None:
                continue
            model = {"path": path}
            if Path(path).is_dir():
                model["sha256"] = digest(path)
            elif revision is not None:
                model["revision"] = revision
            if model not in found:
                found.append(model)
    return found


def _rows(path: str) -> int | None:
    from alignxplore.records import count

    return count(path) if path.endswith(".parquet") else None


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of the code, with "+dirty" if files differ from it; None outside a git repository."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _account(calls: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Totals per model over a job's calls.

    Tokens, seconds and dollars count only prompts that the journal did not answer; those of `reused` are what the
    journal's answers took when they were made, in dollars of today's price. `seconds` excludes `loading`, the time
    that the model took to start.
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
            "reused_tokens": 0,
            "reused_seconds": 0.0,
            "reused_cost": 0.0,
        }
        total = found.setdefault(call["model"], {"model": call["model"], **zero})
        total["asked"] += call["hits"] + call["new"]
        total["from_journal"] += call["hits"]
        total["prompt_tokens"] += call["new_prompt_tokens"]
        total["completion_tokens"] += call["new_completion_tokens"]
        total["seconds"] = round(total["seconds"] + call["seconds"], 3)
        total["loading"] = round(total["loading"] + call["loading"], 3)
        total["cost"] += call["paid_dollars"]
        total["reused_tokens"] += call["hit_tokens"]
        total["reused_seconds"] = round(total["reused_seconds"] + call["hit_seconds"], 3)
        total["reused_cost"] += call["saved_dollars"]
    return list(found.values())


def read(path: Path) -> Record:
    """The record in a sidecar file. Raises UserError if the file is not a valid record."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["outputs"], record["inputs"], record["rule"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a valid job record; remove it and the outputs beside it: {error}") from None
    return record


def sidecars(tree: str | Path) -> list[Path]:
    """The paths of all records in a tree, sorted."""
    return sorted(path for name in DIRECTORIES for path in (Path(tree) / name).rglob(f"*{SUFFIX}"))


def gather(targets: Iterable[str], tree: str | Path = ".") -> "pl.DataFrame":
    """The table of all jobs that the target files came from (records.PROVENANCE), one row per output.

    Raises UserError for a target without a record.
    """
    import polars as pl

    from alignxplore.records import PROVENANCE

    records = [read(path) for path in sidecars(tree)]
    makers = {output: record for record in records for output in record["outputs"]}
    found: dict[int, Record] = {}
    queue = list(targets)
    for target in queue:
        if target not in makers:
            raise UserError(f"{target}: no job record found; rebuild it with `snakemake --force {target}`")
    while queue:
        record = makers.get(queue.pop())
        if record is not None and id(record) not in found:
            found[id(record)] = record
            queue += record["inputs"]
    rows = [_row(record, output) for record in found.values() for output in record["outputs"]]
    return pl.DataFrame(sorted(rows, key=lambda row: row["output"]), schema=PROVENANCE)


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
