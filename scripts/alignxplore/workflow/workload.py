"""What planned jobs ask of models and train, known before anything has run, and what that took in a preflight.

Row counts follow the jobs in the order of their dependencies:

    split (its size) -> cases -> preferences: one prompt per case -> judgements: two orders of each

A benchmark's P-SOUPS file has an unknown number of cases until it is here. Prompts are counted as if every generation
were verified and every round of a baseline took place, so there are at most as many.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alignxplore.errors import UserError
from alignxplore.records import count
from alignxplore.workflow.config import Config

FILE = Path("logs/preflight.json")
"""Where a preflight leaves what it measured."""

PERSONAS = 2
"""Of a P-SOUPS file: each post is asked for both."""
DIMENSIONS = 90

Job = Mapping[str, Any]
"""A job as scripts/plan_jobs.py prints it."""


@dataclass(frozen=True)
class Question:
    """A kind of question to a model, by its name in the config: a method of engines.base.Backend.

    Only completions have `new_tokens`, the most that one may have.
    """

    model: str
    asks: Literal["generate", "choice_logprobs", "loglikelihood"]
    new_tokens: int = 0


@dataclass(frozen=True)
class Measured:
    """What a preflight measured: seconds to start, and seconds per prompt or, of a training, per step."""

    loading: float
    seconds: float
    steps: float = 0.0


def signals_per_user(config: Config) -> int:
    """How many signals refinement keeps of a user of AlignX."""
    signals: int = config.get("data", {}).get("refine", {}).get("history", 4)
    return signals


def rows_of(jobs: Sequence[Job], signals: int) -> dict[str, float | None]:
    """The number of rows of every file that these jobs make; None if it cannot be known.

    `signals` is the number of signals of a user of AlignX.
    """
    found: dict[str, float | None] = {}
    for job in jobs:
        params, rule = job["params"], job["rule"]
        for output in job["output"]:
            if rule == "demo_world" and "/psoups/" in output:
                found[output] = PERSONAS * params["psoups_cases"]
                continue
            rows = params["size"] if rule == "split" else _inherited(job, found, signals)
            limit = params.get("limit")
            found[output] = limit if rows is None else min(rows, limit) if limit else rows
            if Path(output).suffix == ".parquet" and Path(output).is_file() and not job["reason"]:
                found[output] = count(Path(output))
    return found


def _inherited(job: Job, found: Mapping[str, float | None], signals: int) -> float | None:
    """Rows of the files that a job has one row for each of."""
    rule, inputs = job["rule"], job["input"]
    if rule == "benchmark_psoups":
        return found.get(inputs[0], _records(inputs[0]))
    if rule in ("teacher_streaming", "dimensions_streaming"):
        (rows,) = (found.get(file) for file in inputs if file.startswith("data/splits/"))
        return None if rows is None else rows * job["params"].get("generations", 1)
    if rule in ("teacher", "verify", "dimensions"):
        rows = found.get("data/cold/generations.parquet" if rule == "verify" else "data/splits/cold.parquet")
        return None if rows is None else rows * job["params"].get("generations", 1)
    prefixes = ("data/cases/",) if rule not in ("benchmark_split", "wins") else ("data/splits/", "results/responses/")
    read = [found.get(file) for file in inputs if file.startswith(prefixes)]
    if rule == "wins":
        read = read[:1]
    if not read or all(rows is None for rows in read):
        return None
    total = sum(rows for rows in read if rows is not None)
    if rule == "benchmark_stream":
        return total * math.ceil(signals / job["params"]["chunk"])
    return min(total, len(job["params"]["groups"]) * job["params"]["cases"]) if rule == "responses" else total


def _records(file: str) -> int | None:
    path = Path(file)
    return len(json.loads(path.read_text(encoding="utf-8"))) if path.suffix == ".json" and path.is_file() else None


def prompts_of(job: Job, rows: Mapping[str, float | None], signals: int) -> dict[Question, float | None]:
    """The questions that a job asks, with how many prompts of each; `signals` is the number of pairs of a user."""
    params, rule = job["params"], job["rule"]
    judge = params.get("judge")
    if rule in ("sft", "grpo", "vpl", "vpl_judgements") or not (judge or params.get("model")):
        return {}
    number = rows.get(job["output"][0])
    found: dict[Question, float | None] = {}
    if rule == "preferences_lminductreason":
        rules = params["entry"]["hypotheses"] * params["entry"]["rounds"]
        found[_generation(params)] = _times(number, rules)
        number = _times(number, rules * signals)
    elif rule == "preferences_pba":
        asked = len(params["entry"].get("dimensions", range(DIMENSIONS))) * signals
        return {Question(params["model"]["name"], "choice_logprobs"): _times(number, asked)}
    elif rule == "teacher_streaming":
        found[_generation(params)] = number
    elif not judge:
        streaming = params.get("entry", {}).get("streaming") or {}
        steps = math.ceil(signals / streaming["chunk"]) if streaming.get("carry", bool(streaming)) else 1
        return {_generation(params): _times(number, steps)}
    question, each = judged(judge)
    return {**found, question: _times(number, each)}


def judged(judge: Mapping[str, Any]) -> tuple[Question, int]:
    """What a judge, as a job's params have it, asks about one case, and how often."""
    name = judge["model"]["name"]
    if judge["kind"] == "gen":
        return Question(name, "loglikelihood"), 4
    if "sampling" in judge:
        return Question(name, "generate", judge["sampling"]["max_new_tokens"]), 1 if judge["kind"] == "published" else 2
    return Question(name, "choice_logprobs"), 2


def _generation(params: Mapping[str, Any]) -> Question:
    return Question(params["model"]["name"], "generate", params["sampling"]["max_new_tokens"])


def _times(number: float | None, factor: int) -> float | None:
    return None if number is None else number * factor


def question_key(config: Config, question: Question) -> str:
    """What tells a question's measurement from others: the model's entry but for names and prices, and the question."""
    entry = {key: value for key, value in config["models"][question.model].items() if key not in ("stop", "thoughts")}
    run = {key: value for key, value in entry.get("run", {}).items() if key in ("gpu", "batch_tokens")}
    return short_hash([{**entry, "run": run}, question.asks, question.new_tokens])


def training_key(config: Config, job: Job) -> str:
    """The same for a job that trains: its params, GPUs and launch command, and the data that decides its steps."""
    params = {name: value for name, value in job["params"].items() if name != "seed"}
    cold = {name: config.get("cold_start", {}).get(name) for name in ("generations", "limit")}
    return short_hash([job["rule"], params, job["gpus"], config.get("data", {}).get("splits"), cold])


def short_hash(value: Any) -> str:
    """A short name for a value of plain types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Preflight:
    """The measurements of a preflight, by question_key and training_key."""

    machine: str = ""
    found: Mapping[str, Measured] | None = None

    @classmethod
    def read(cls, file: Path = FILE) -> "Preflight":
        """Those in a file; none if there is no file."""
        if not file.is_file():
            return cls()
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return cls(content["machine"], {key: Measured(**one) for key, one in content["measured"].items()})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: not what a preflight writes ({error}); remove it") from None

    def seconds(self, config: Config, job: Job, prompts: Mapping[Question, float | None]) -> float | None:
        """What a job will take at most; None if something of it was not measured."""
        found = self.found or {}
        if job["rule"] in ("sft", "grpo"):
            one = found.get(training_key(config, job))
            return None if one is None else one.loading + one.steps * one.seconds
        total = 0.0
        for question, number in prompts.items():
            one = found.get(question_key(config, question))
            if one is None or number is None:
                return None
            total += one.loading + number * one.seconds
        return total if prompts else None
