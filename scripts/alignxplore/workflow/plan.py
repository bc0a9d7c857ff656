"""What a run would do, why, and what it would cost, estimated from the records of earlier runs.

Row counts are propagated along the planned jobs: a split has the size that the configuration gives it, and an output
grows in proportion to its inputs.

    split 50 -> 60 rows (x 1.2)  ->  cases x 1.2  ->  preferences x 1.2: 120 prompts, 20 of them new

A prompt is new if the journal cannot hold its answer. All prompts of a job are new if its model, templates, sampling,
judge or input texts change. If only rows are added, only their prompts are new.

A method with streaming asks a prompt for each beginning that its cases have, in chunks. These are counted if the cases
are there. From the second step on a prompt contains an answer, so what it costs is known only from earlier runs.

An estimate holds for a job like the recorded one. What a job takes is unknown if it never ran, if its settings, its
model or its number of GPUs differ, or if the size of its input cannot be known.
"""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from alignxplore.digests import digest
from alignxplore.engines.journal import account
from alignxplore.errors import UserError
from alignxplore.methods.streaming import prompt_count
from alignxplore.records import CASE, count
from alignxplore.records import read as read_records
from alignxplore.workflow.config import updates_descriptions
from alignxplore.workflow.provenance import Record, machine, portable, read, sidecar, sidecars
from alignxplore.workflow.workload import Preflight, prompts_of, rows_of, signals_per_user

GROWTH = ("size", "limit", "generations", "cases")
"""Parameters that add rows when they are raised, and leave the existing rows as they are."""

SAME_WORK = ("captions", "labels", "learning_rate", "seed", "title", "titles")
"""Parameters that change a job's result, but not how long it takes."""

NO_RECORD = "no earlier run is on record"
OTHER_SETTINGS = "settings differ from those of the earlier run"
OTHER_MODEL = "the model differs from that of the earlier run"
OTHER_GPUS = "the earlier run had another number of GPUs"
UNCOUNTED = "the earlier run counted no tokens"
OTHER_SIZE = "the size of the input is unknown"
NO_TOKENS = "a preflight counts no tokens; its seconds are those of the longest texts"

DATA = (".csv", ".json", ".jsonl")
"""Suffixes of data files whose rows are not counted."""

SHOWN_FILES = 3
"""Files of one directory that are named; more are counted."""

PROGRAM = Path(__file__).parents[2] / "plan_jobs.py"

Job = Mapping[str, Any]
"""A job as scripts/plan_jobs.py prints it."""


@dataclass
class Estimate:
    """What one job is expected to take; None means unknown. Of the `asked` prompts, `new` ones go to a model.

    `unknown` says why something is unknown; `machine` is where the earlier run was.
    """

    job: Job
    causes: list[str]
    asked: float | None = 0.0
    new: float | None = 0.0
    tokens: float | None = 0.0
    seconds: float | None = 0.0
    dollars: float | None = 0.0
    unknown: str | None = None
    machine: str | None = None

    @property
    def gpu_hours(self) -> float | None:
        """The job's GPUs multiplied by its hours."""
        return None if self.seconds is None else self.job["gpus"] * self.seconds / 3600


@dataclass(frozen=True)
class _Rate:
    """Mean cost of a new prompt, and seconds that the model took to start (`loading`)."""

    tokens: float
    seconds: float
    dollars: float
    loading: float

    @classmethod
    def of(cls, entry: Mapping[str, Any], new: int) -> "_Rate | None":
        """The rate in one entry of a record's account; None if the journal answered every prompt."""
        if not new:
            return None
        tokens = entry["prompt_tokens"] + entry["completion_tokens"]
        return cls(tokens / new, entry["seconds"] / new, entry["cost"] / new, entry.get("loading", 0.0))


@dataclass
class _State:
    """What is expected of files: their rows, and which of them will have entirely new content (`fresh`).

    `planned` files are outputs of jobs that would run. `unsized` files have an unknown number of rows, and `unlike`
    models take more or less time than the recorded ones.
    """

    planned: set[str]
    now: dict[str, float] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    unsized: set[str] = field(default_factory=set)
    unlike: set[str] = field(default_factory=set)


def workflow_jobs(
    configfiles: Sequence[str], targets: Sequence[str], values: Sequence[str] = ()
) -> tuple[list[Job], dict[str, Any]]:
    """All jobs of the workflow and its configuration; `values` are KEY=VALUE over the files.

    Raises UserError with Snakemake's message if it cannot plan.
    """
    command = [sys.executable, str(PROGRAM), "--configfile", *configfiles, "--config", *values, "--", *targets]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        *_, said = re.split(r"^[\w.]+(?:Exception|Error): ", done.stderr.strip(), flags=re.MULTILINE)
        raise UserError(f"Snakemake cannot plan the workflow: {said}")
    planned = json.loads(done.stdout)
    return planned["jobs"], planned["config"]


def estimate(
    jobs: Sequence[Job],
    journal: str | Path,
    config: Mapping[str, Any] | None = None,
    preflight: Preflight | None = None,
) -> list[Estimate]:
    """An estimate for each job that would run; `jobs` are in the order of their dependencies.

    A job without a record takes what `preflight` measured for its part of `config`, if it did.
    """
    planned = {output for job in jobs if job["reason"] for output in job["output"]}
    makers = {output: record for path in sidecars(".") for record in [read(path)] for output in record["outputs"]}
    rates = _rates(journal)
    state = _State(planned)
    for output, maker in makers.items():
        rows = maker["outputs"][output]["rows"]
        if rows is not None:
            state.now[output] = rows
    found = []
    rows = rows_of(jobs, signals_per_user(config)) if preflight and config else {}
    for job in jobs:
        if not job["reason"] or not job["output"]:  # target rules have no outputs
            continue
        path = sidecar(job["output"][0])
        record = read(path) if path.is_file() else None
        own, answers = _causes(job, record, planned)
        if not own and not planned.intersection(job["input"]):
            own = _quoted(job["reason"])  # the records do not show why
        expected = _expect(job, record, own, answers, rates, state)
        if record is None and preflight and config:
            expected = _at_most(expected, config, preflight, rows)
        found.append(expected)
    return found


def _at_most(
    expected: Estimate, config: Mapping[str, Any], preflight: Preflight, rows: Mapping[str, float | None]
) -> Estimate:
    """The estimate of a job that never ran, with the prompts that it asks and the seconds that a preflight measured."""
    prompts = prompts_of(expected.job, rows, signals_per_user(config))
    seconds = preflight.seconds(config, expected.job, prompts)
    if seconds is None:
        return expected
    asked = sum(number for number in prompts.values() if number is not None)
    return replace(expected, asked=asked, new=asked, seconds=seconds, unknown=NO_TOKENS, machine=preflight.machine)


def _causes(job: Job, record: Record | None, planned: set[str]) -> tuple[list[str], bool]:
    """Why a job runs, other than because earlier jobs run, and whether all its answers will change."""
    if record is None:
        return ["no record of an earlier run"], True
    causes: list[str] = []
    answers = False
    old, new = _flat(record["params"]), _flat(json.loads(json.dumps(job["params"])))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            causes.append(f"{name}: {_shown(old, name)} -> {_shown(new, name)}")
            answers |= name not in GROWTH
    inputs = {portable(file): file for file in job["input"]}
    for file in sorted(inputs.keys() - record["inputs"].keys()):
        causes.append(f"{file}: new input")
        answers |= not file.endswith(".py")
    for file in sorted(record["inputs"].keys() - inputs.keys()):
        causes.append(f"{file}: no longer an input")
    for file in sorted(inputs.keys() & record["inputs"].keys()):
        path = Path(inputs[file])
        if inputs[file] not in planned and path.exists() and digest(path) != record["inputs"][file]:
            causes.append(f"{file}: changed")
            answers |= not file.endswith((".py", ".sql"))
    missing = [file for file in job["output"] if not Path(file).exists() and file not in job["temporary"]]
    causes += [f"{file}: missing" for file in missing]
    return causes, answers


def _expect(
    job: Job, record: Record | None, own: list[str], answers: bool, rates: Mapping[str, _Rate], state: _State
) -> Estimate:
    """One job's estimate; adds the job's outputs to `state`."""
    makes_model = any(output.startswith("models/") for output in job["output"])
    scale = None if record is None else _scale(job, record, state)
    unlike = _unlike(job, record, state)
    grows = scale is None or not math.isclose(scale, 1)
    fresh = answers or any(file in state.fresh for file in job["input"]) or (makes_model and grows)
    if record is not None and scale is not None:
        for name in ("generations", "cases"):
            if name in job["params"] and record["params"].get(name):
                scale *= job["params"][name] / record["params"][name]
    for output in job["output"]:
        if fresh:
            state.fresh.add(output)
        if makes_model and unlike in (NO_RECORD, OTHER_SETTINGS, OTHER_MODEL):
            state.unlike.add(output)
        if job["rule"] == "split":
            state.now[output] = job["params"]["size"]
        elif record is None or scale is None:
            state.unsized.add(output)
        elif (rows := record["outputs"].get(output, {}).get("rows")) is not None:
            limit = job["params"].get("limit")
            if record["params"].get("limit") != rows:
                state.now[output] = min(rows * scale, limit or math.inf)
            elif limit:  # there were more rows; how many is not on record
                state.now[output] = limit
            else:
                state.unsized.add(output)
    steps = _steps(job, state)
    if record is None or scale is None:
        return Estimate(job, own, steps, steps, None, None, None, unlike or OTHER_SIZE)
    result = Estimate(job, own, unknown=unlike, machine=record.get("machine"))
    in_models = sum(entry["seconds"] + entry.get("loading", 0.0) for entry in record["account"])
    result.seconds = max(record["seconds"] - in_models, 0.0) * scale
    for entry in record["account"]:
        asked = entry["asked"] * scale if steps is None else steps
        new = asked if fresh else max(asked - entry["asked"], 0.0)
        rate = _Rate.of(entry, entry["asked"] - entry["from_journal"]) or rates.get(entry["model"])
        result.asked = _sum(result.asked, asked)
        result.new = _sum(result.new, new)
        if new and rate is None:
            result.tokens = result.seconds = result.dollars = None
            result.unknown = result.unknown or OTHER_MODEL
        elif new and rate is not None:
            result.tokens = _sum(result.tokens, rate.tokens * new) if rate.tokens else None
            result.seconds = _sum(result.seconds, rate.seconds * new + rate.loading)
            result.dollars = _sum(result.dollars, rate.dollars * new)
    if result.tokens is None and result.unknown is None:
        result.unknown = UNCOUNTED
        result.dollars = None if _served(job) else result.dollars
    if unlike:
        result.seconds = None
    if unlike in (OTHER_SETTINGS, OTHER_MODEL) and result.new:
        result.tokens = result.dollars = None
    return result


def _streaming(job: Job) -> Mapping[str, Any] | None:
    """How a job that describes users reads their signals in chunks, if it does."""
    return (job["params"].get("entry") or {}).get("streaming")


def _steps(job: Job, state: _State) -> float | None:
    """How many prompts a job with streaming asks; None for another job, and if its cases will be others than now."""
    streaming = _streaming(job)
    files = [file for file in job["input"] if file.endswith(".parquet")]
    if streaming is None or state.planned.intersection(files) or not all(Path(file).is_file() for file in files):
        return None
    cases = (case for file in files for case in read_records(file, CASE).iter_rows(named=True))
    return prompt_count(list(cases), **streaming)


def _served(job: Job) -> bool:
    """Whether a job asks a model that may bill its tokens."""
    judge = job["params"].get("judge") or {}
    entries = [job["params"].get("model") or {}, judge.get("model") or {}]
    return any(entry.get("engine") == "openai" for entry in entries)


def _scale(job: Job, record: Record, state: _State) -> float | None:
    """How many times as many rows a job will read as before; None if it cannot be known."""
    after = 0.0
    for file in job["input"]:
        name, path = portable(file), Path(file)
        if file in state.unsized:
            return None
        if name in state.now:
            after += state.now[name]
        elif path.suffix == ".parquet" and path.is_file():
            after += count(path)
        elif path.suffix in DATA and path.is_file() and digest(path) != record["inputs"].get(name):
            return None
    before = sum(record.get("read", {}).values())
    return after / before if before else 1.0


def _unlike(job: Job, record: Record | None, state: _State) -> str | None:
    """Why a job cannot be compared with its record; None if it can."""
    if record is None:
        return NO_RECORD
    old, new = _flat(record["params"]), _flat(json.loads(json.dumps(job["params"])))
    changed = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
    if any(part in ("model", "judge") for name in changed for part in name.split(".")[:1]):
        return OTHER_MODEL
    if any(name.rpartition(".")[2] not in (*GROWTH, *SAME_WORK) for name in changed):
        return OTHER_SETTINGS
    models = [file for file in job["input"] if file.startswith("models/")]
    replaced = [
        file
        for file in models
        if file not in state.fresh and Path(file).exists() and digest(Path(file)) != record["inputs"].get(file)
    ]
    if replaced or state.unlike.intersection(models):
        return OTHER_MODEL
    if job["gpus"] != record["gpus"]:
        return OTHER_GPUS
    return None


def _rates(journal: str | Path) -> dict[str, _Rate]:
    """Each model's mean rate over the whole journal, for jobs whose last run asked nothing new.

    A model that was asked different kinds of questions has no such rate.
    """
    if not list(Path(journal).glob("*.jsonl")):
        return {}
    columns = pl.col("new_tokens", "seconds", "paid_dollars").sum() / pl.col("new").sum()
    asked = account(journal).filter(pl.col("new") > 0)
    models = asked.group_by("model").agg(columns, pl.col("kind").n_unique(), pl.col("loading").max())
    rows = models.filter(pl.col("kind") == 1).select("model", "new_tokens", "seconds", "paid_dollars", "loading")
    return {model: _Rate(*rest) for model, *rest in rows.iter_rows()}


def _quoted(reason: str) -> list[str]:
    """Snakemake's reason for a job, with one cause per file."""
    causes = []
    for part in reason.split("; "):
        kind, colon, files = part.partition(" files: ")
        causes += [f"{file}: {kind.lower()} file" for file in files.split(", ")] if colon else [part]
    return causes


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        value = {item["name"]: item for item in value}
    if not isinstance(value, Mapping) or not value:
        return {path: value}
    return {k: v for name, part in value.items() for k, v in _flat(part, f"{path}.{name}" if path else name).items()}


def _shown(values: Mapping[str, Any], name: str) -> str:
    text = json.dumps(values[name], ensure_ascii=False) if name in values else "unset"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def describe(estimates: Sequence[Estimate], jobs: int) -> str:
    """The plan as text: the causes, one line per rule, and totals; `jobs` is the number of all jobs."""
    if not estimates:
        return f"Nothing to do: all {jobs} jobs are up to date."
    causes: dict[str, list[Estimate]] = {}
    for item in estimates:
        for cause in item.causes:
            causes.setdefault(cause, []).append(item)
    lines = [f"{len(estimates)} of {jobs} jobs would run.", "", "Why:"]
    for cause, concerned in _folded(causes).items():
        of_rules = Counter(item.job["rule"] for item in concerned)
        lines.append(f"  {cause}  ({', '.join(f'{rule} x{number}' for rule, number in of_rules.items())})")
    rules = dict.fromkeys(item.job["rule"] for item in estimates)
    columns = ("asked", "new", "tokens", "seconds", "gpu_hours", "dollars")
    table = [["rule", "jobs", "prompts", "new", "tokens", "seconds", "GPU hours", "dollars"]]
    for rule in rules:
        of_rule = [item for item in estimates if item.job["rule"] == rule]
        table.append([rule, str(len(of_rule)), *(_total(of_rule, column) for column in columns)])
    table.append(["all", str(len(estimates)), *(_total(estimates, column) for column in columns)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines.append("")
    for row in table:
        lines.append("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip())
    reasons = Counter(item.unknown for item in estimates if item.unknown)
    if reasons:
        lines.append("")
        lines += [f"Unknown for {number} jobs: {reason}." for reason, number in reasons.items()]
        lines.append("Totals marked + exclude what is unknown.")
        if NO_RECORD in reasons:
            lines.append("To learn what they take at little cost, run a few cases first: `limit` of a benchmark.")
    if updates := sum(updates_descriptions(item.job["params"].get("entry") or {}) for item in estimates):
        lines.append("")
        lines.append(
            f"Prompts of {updates} jobs contain descriptions that are yet to be written (streaming): their tokens are"
            " those of an earlier run on average."
        )
    machines = Counter(item.machine for item in estimates if item.machine not in (None, machine()))
    if machines:
        lines.append("")
        lines += [
            f"The times of {number} jobs are those of another machine: {name}." for name, number in machines.items()
        ]
    return "\n".join(lines)


def _folded(causes: Mapping[str, Sequence[Estimate]]) -> dict[str, list[Estimate]]:
    """Causes and the jobs that they concern, with many files of one directory as one cause."""
    alike: dict[tuple[str, str], list[str]] = {}
    for cause in causes:
        file, _, what = cause.partition(": ")
        directory = "/".join(Path(file).parts[:2]) if what and len(Path(file).parts) > 2 else cause
        alike.setdefault((directory, what), []).append(cause)
    folded: dict[str, list[Estimate]] = {}
    for (directory, what), members in alike.items():
        if len(members) <= SHOWN_FILES:
            folded |= {cause: list(causes[cause]) for cause in members}
        else:
            jobs = {id(item): item for cause in members for item in causes[cause]}
            folded[f"{directory}: {len(members)} files: {what}"] = list(jobs.values())
    return folded


def _total(estimates: Iterable[Estimate], name: str) -> str:
    values = [getattr(item, name) for item in estimates]
    known = [value for value in values if value is not None]
    if not known:
        return "unknown"
    number = sum(known)
    text = f"{number:,.2f}" if name in ("gpu_hours", "dollars") else f"{number:,.0f}"
    return text + ("+" if len(known) < len(values) else "")
