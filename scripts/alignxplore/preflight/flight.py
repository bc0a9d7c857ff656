"""A preflight: checks, then one batch of each kind of question, and two steps of each kind of training.

the configuration and its plan ─┬─ agreement: processes, batch sizes, software, disk        checks.py
                                ├─ memory: calculated for each kind of work, against a card
                                └─ measured, if this machine has the cards that work asks for: seconds, memory
"""

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alignxplore import records
from alignxplore.errors import UserError
from alignxplore.preflight import checks, standins
from alignxplore.preflight.machine import Machine
from alignxplore.training import memory_table, programs
from alignxplore.training.memory import Asked, Job
from alignxplore.training.shapes import model_config
from alignxplore.workflow import workload
from alignxplore.workflow.config import LOADING_ENGINES, OF_EVALUATION, Config, held_out_file, variants
from alignxplore.workflow.launcher import sharding
from alignxplore.workflow.onstart import check_keys, training_errors
from alignxplore.workflow.provenance import machine
from alignxplore.workflow.workload import Measured, Question

log = logging.getLogger(__name__)

SCRIPTS = Path(__file__).parents[2]
BATCH_TOKENS = 16384
"""The transformers engine's default of `batch_tokens`."""
STEPS = 2
"""The second has the optimiser's moments in memory, and nothing to warm up."""
COMPLETION = 600
"""Tokens of a demonstration."""


@dataclass
class Work:
    """A kind of work: questions to a model, or a training. `number` is of prompts or steps; None if unknown.

    `memory` has bytes held and bytes there are, of each card, or of each process on a CPU. `why_not` says why nothing
    was measured.
    """

    key: str
    name: str
    gpus: int
    number: float | None
    jobs: int
    of: Question | workload.Job
    uncounted: int = 0
    """Jobs whose prompts are not in `number`."""
    calculated: float | None = None
    """Hours by the assumptions of training/memory.py, on cards; None if unknown."""
    measured: Measured | None = None
    memory: Sequence[Sequence[float]] = ()
    why_not: str = ""

    @property
    def hours(self) -> float | None:
        """What all its jobs take, one after another."""
        if self.measured is None or self.number is None:
            return None
        return (self.jobs * self.measured.loading + self.number * self.measured.seconds) / 3600


@dataclass
class Flight:
    """The preflight of a configuration with the jobs of its plan, for cards of `card` bytes."""

    config: Config
    jobs: Sequence[workload.Job]
    machine: Machine
    card: float
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    questions: list[Work] = field(default_factory=list)
    trainings: list[Work] = field(default_factory=list)
    asked: dict[str, Asked] = field(default_factory=dict)
    """What each model needs that is asked; those whose shape is known."""
    trained: dict[str, Job] = field(default_factory=dict)
    """What each variant needs; those whose memory is known."""

    def run(self) -> None:
        """Check everything, measure what can run, and leave the measurements for `make plan`."""
        rows = workload.rows_of(self.jobs, workload.signals_per_user(self.config))
        self._plan_questions(rows)
        self._plan_trainings()
        self._check(rows)
        Path("logs").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="preflight-", dir="logs") as directory:
            self._measure_questions(Path(directory))
            for work in self.trainings:
                self._measure_training(work, Path(directory))
        found = {self._measurement(work): asdict(work.measured) for work in self._all() if work.measured}
        if found:
            text = json.dumps({"machine": machine(), "measured": found}, indent=1)
            workload.FILE.write_text(text + "\n", encoding="utf-8")

    def _all(self) -> list[Work]:
        return [*self.questions, *self.trainings]

    def _measurement(self, work: Work) -> str:
        if isinstance(work.of, Question):
            return workload.question_key(self.config, work.of)
        return workload.training_key(self.config, work.of)

    def _plan_questions(self, rows: Mapping[str, float | None]) -> None:
        """One kind of work for each kind of question to each model."""
        found: dict[Question, Work] = {}
        signals = workload.signals_per_user(self.config)
        for job in self.jobs:
            for question, number in workload.prompts_of(job, rows, signals).items():
                limit = f", {question.new_tokens} tokens" if question.new_tokens else ""
                key, name = f"models.{question.model}", f"{question.model}: {question.asks}{limit}"
                gpus = self.config["models"][question.model].get("run", {}).get("gpu", 0)
                work = found.setdefault(question, Work(key, name, gpus, 0.0, 0, question))
                work.jobs += 1
                work.number = (work.number or 0) + (number or 0)
                work.uncounted += number is None
        for file, number in rows.items():
            if number is None and file.startswith(("data/cases/", "data/splits/")):
                self.notes.append(f"{file}: its rows, and what is asked about them, are not counted before it is made")
        self.questions = list(found.values())
        for model in dict.fromkeys(question.model for question in found):
            entry = self.config["models"][model]
            if entry["engine"] in LOADING_ENGINES:
                try:
                    self.asked[model] = self._needs(model)
                except UserError as error:
                    self.notes.append(f"models.{model}: {error}")
        speed = memory_table.speed_of(self.config)
        for question, work in found.items():
            if work.gpus and question.model in self.asked and work.number is not None:
                each = self.asked[question.model].seconds(min(question.new_tokens, memory_table.COMPLETION), speed)
                work.calculated = work.number * each / 3600

    def _needs(self, model: str) -> Asked:
        entry = self.config["models"][model]
        shape = memory_table.model_shape(self.config, entry)
        tokens, run = self._tokens(model), entry.get("run", {})
        if entry["engine"] == "transformers":
            tokens = max(tokens, run.get("batch_tokens", BATCH_TOKENS))
        return Asked(shape, entry["engine"], entry.get("dtype", "float32"), tokens, run.get("gpu", 0))

    def _tokens(self, model: str) -> int:
        """The longest text of a model, with its answer: its context, its own limit, or a whole batch."""
        entry = self.config["models"][model]
        context: int = model_config(self.config, entry).get_text_config().max_position_embeddings
        if entry["engine"] == "vllm":
            return min(context, entry.get("max_model_len", context))
        return min(context, entry.get("run", {}).get("batch_tokens", BATCH_TOKENS))

    def _plan_trainings(self) -> None:
        """One kind of work for each variant; wrong settings are errors."""
        planned = {job["wildcards"]["variant"]: job for job in self.jobs if job["rule"] in ("sft", "grpo")}
        if not planned:
            return
        stages = {
            name: {
                "stage": job["rule"],
                "settings": checks.settings_of(self.config, name),
                "held_out": held_out_file(self.config, name) is not None,
            }
            for name, job in planned.items()
        }
        self.errors += training_errors(stages, self.config["training"]["launch"])
        for name, job in planned.items():
            key = f"training.variants.{name}"
            work = Work(key, f"{job['rule']} {name}", self.config["training"]["gpus"], None, 1, job)
            self.trainings.append(work)
            try:
                needs = self.trained[name] = memory_table.variant_job(self.config, name)
            except UserError as error:
                self.notes.append(f"{key}: what it needs is not known: {error}")
                continue
            settings = checks.settings_of(self.config, name)
            work.number = memory_table.steps(self.config, needs, job["rule"], settings)
            if work.gpus:
                speed, lengths = memory_table.speed_of(self.config), memory_table.mean_lengths(needs)
                work.calculated = work.number * sum(needs.seconds(*lengths, speed).values()) / 3600

    def _check(self, rows: Mapping[str, float | None]) -> None:
        gpus = self.trainings[0].gpus if self.trainings else 0
        offloads = bool(self.trainings) and sharding(self.config["training"]["launch"])[1]
        on_cards = {work.key: work.gpus > 0 for work in self._all()}
        self.errors += [
            *checks.process_errors(self.config),
            *checks.model_errors(self.config, {name: needs.shape for name, needs in self.asked.items()}),
            *checks.step_errors(self.config, self.trained, rows),
            *checks.software_errors(self.config, self.machine, offloads),
            *checks.size_errors(self.config, self.trained, self.machine, len(self.machine.cards) >= gpus),
            *checks.memory_errors(self.trained, self.asked, self.card, on_cards),
            *self._key_errors(),
        ]

    def _key_errors(self) -> Iterator[str]:
        for name in dict.fromkeys(work.of.model for work in self.questions if isinstance(work.of, Question)):
            try:
                self.notes += check_keys({name: self.config["models"][name]}, self.config["journal"])
            except UserError as error:
                yield str(error)

    def _measure_questions(self, directory: Path) -> None:
        """Ask each model in a process of its own; models of one architecture that are not here are one."""
        groups: dict[str, list[Work]] = {}
        for work in self.questions:
            assert isinstance(work.of, Question)
            entry = self.config["models"][work.of.model]
            if entry["engine"] not in LOADING_ENGINES:
                work.why_not = "this asks no servers"
            elif work.of.model not in self.asked:
                work.why_not = "its shape is unknown"
            elif work.gpus <= self.machine.usable and find_spec(entry["engine"]) is None:
                work.why_not = f"{entry['engine']} is not in this environment; its jobs run in one of their own"
            else:
                work.why_not = self._why_not(work, [work.key])
            if not work.why_not:
                loaded = json.dumps(self._loaded(entry, directory), sort_keys=True)
                groups.setdefault(loaded, []).append(work)
        for loaded, works in groups.items():
            self._ask(json.loads(loaded), works, directory / "asked.json")

    def _why_not(self, work: Work, keys: Sequence[str]) -> str:
        """Why work is not measured here; `keys` are those of which no error may tell. "" if it is."""
        if any(error.startswith((f"{key}.", f"{key}:")) for error in self.errors for key in keys):
            return "see what is wrong"
        if work.gpus > self.machine.usable:
            return f"needs {work.gpus} GPU{'s' if work.gpus > 1 else ''}, and {self.machine.usable or 'none'} is usable"
        return ""

    def _loaded(self, entry: Mapping[str, Any], directory: Path) -> dict[str, Any]:
        """What of a model's entry its process needs; a model that is not here has random weights."""
        own = {key: value for key, value in entry.items() if key not in ("stop", "thoughts")}
        if not Path(own.get("adapter", "")).is_dir():
            del own["adapter"]
        if standins.is_here(entry):
            return own
        config = model_config(self.config, entry)
        path = directory / workload.short_hash(config.to_dict())
        if not path.exists():
            standins.write_stand_in(config, path)
        return {key: value for key, value in own.items() if key not in ("adapter", "revision")} | {"path": str(path)}

    def _ask(self, entry: Mapping[str, Any], works: Sequence[Work], report: Path) -> None:
        """Measure all questions to one model."""
        questions = [work.of for work in works if isinstance(work.of, Question)]
        kinds = list(dict.fromkeys((question.asks, question.new_tokens) for question in questions))
        asked = [{"asks": asks, "new_tokens": new} for asks, new in kinds]
        tokens = self._tokens(questions[0].model)
        log.info("asking %s at %d tokens: %s", questions[0].model, tokens, ", ".join(asks for asks, _ in kinds))
        done = subprocess.run(
            [sys.executable, str(SCRIPTS / "preflight_model.py")],
            input=json.dumps({"model": entry, "questions": asked, "tokens": tokens, "report": str(report)}),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            self._failed(works, f"{works[0].key}: does not start: {_last_line(done.stderr)}")
            return
        found = json.loads(report.read_text(encoding="utf-8"))
        seconds = dict(zip(kinds, found["seconds"], strict=True))
        for work, question in zip(works, questions, strict=True):
            work.measured = Measured(found["loading"], seconds[question.asks, question.new_tokens])
            work.memory = found["memory"]

    def _failed(self, works: Sequence[Work], error: str) -> None:
        self.errors.append(error)
        for work in works:
            work.why_not = "see what is wrong"

    def _measure_training(self, work: Work, directory: Path) -> None:
        """Two steps of a variant with its launch command, if no other variant needs the same."""
        job, name = work.of, work.key.rpartition(".")[2]
        assert not isinstance(job, Question)
        launch_keys = ["training.launch", "training.gpus", f"training.{job['rule']}", work.key]
        work.why_not = self._why_not(work, launch_keys)
        if name not in self.trained:
            work.why_not = work.why_not or "its shape is unknown"
        alike = [other for other in self.trainings if other.measured and self._alike(other, work)]
        if alike:
            work.measured, work.memory = alike[0].measured, alike[0].memory
        if work.why_not or alike:
            return
        log.info("training %s for %d steps", name, STEPS)
        report, log_file = directory / f"{name}.report", directory / f"{name}.log"
        report.mkdir()
        try:
            self._train(name, job, directory, report)
        except UserError as error:
            said = _last_line(log_file.read_text(encoding="utf-8")) if log_file.exists() else str(error)
            self._failed([work], f"{work.key}: does not start: {said}")
            return
        found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(report.iterdir())]
        seconds = max(one["seconds"][-1] for one in found)
        work.measured = Measured(max(one["loading"] for one in found), seconds, work.number or 0.0)
        work.memory = [one["memory"] for one in found]

    def _alike(self, one: Work, other: Work) -> bool:
        """Whether two variants need the same: equal stages, settings, shapes and judges."""

        def needs(work: Work) -> Any:
            name = work.key.rpartition(".")[2]
            judge = variants(self.config)[name].get("judge")
            kind = (self.config["judges"][judge]["kind"], "sampling" in self.config["judges"][judge]) if judge else None
            return self.trained.get(name), kind, checks.settings_of(self.config, name)

        return bool(needs(one) == needs(other))

    def _train(self, name: str, job: workload.Job, directory: Path, report: Path) -> None:
        """Run scripts/preflight_step.py as a rule runs a training program; UserError with its last words."""
        params, config, needs = job["params"], self.config, self.trained[name]
        start = self._loaded(config["models"][variants(config)[name]["from"]], directory)
        settings = {
            **checks.settings_of(config, name), **programs.start_settings(params["model"]), "seed": 1,
            "max_steps": STEPS, "save_strategy": "no", "report_to": "none", "logging_steps": 1,
        }  # fmt: skip
        # Nothing is evaluated here, and the stand-in of a model has no revision.
        left_out = set(OF_EVALUATION)
        if start["path"] != params["model"]["path"]:
            left_out |= {"adapter", "revision"}
        settings = {key: value for key, value in settings.items() if key not in left_out}
        prompts = {n.removesuffix("_prompt"): path for n, path in job["prompts"].items()}
        arguments: dict[str, Any] = {"settings": settings, "model": start["path"], "prompts": prompts}
        if "judge" in params:
            model = params["judge"]["model"]
            entry = config["models"][model["name"]]
            if entry["engine"] in LOADING_ENGINES:  # a server is not asked
                entry = self._loaded(entry, directory)
            arguments |= {"judge": {**params["judge"], "model": entry}, "journal": str(directory / "journal")}
            arguments["rollouts"] = str(directory / f"{name}.rollouts.parquet")
        number = needs.batch * needs.accumulation * needs.processes * STEPS
        prompt, completion = needs.prompt, 0
        if job["rule"] == "sft":
            completion = min(COMPLETION, needs.completion // 2)
            prompt = needs.completion - completion
        arguments |= {
            "data": str(directory / f"{name}.parquet"), "output": str(directory / name),
            "metrics": str(directory / f"{name}.metrics.parquet"), "report": str(report),
            "log": str(directory / f"{name}.log"),
        }  # fmt: skip
        reasons = variants(config)[name].get("reasoning", True)
        schema = records.DEMONSTRATION if job["rule"] == "sft" and reasons else records.EXAMPLE
        standins.write_examples(Path(arguments["data"]), start, number, prompt, completion, schema)
        programs.launch(params["launch"], str(SCRIPTS / "preflight_step.py"), arguments, job["threads"], job["gpus"])


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]
