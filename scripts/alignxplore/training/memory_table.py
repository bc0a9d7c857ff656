"""The memory and time of a configuration's training variants, as a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from trl import GRPOConfig, SFTConfig

from alignxplore.errors import UserError
from alignxplore.training import grpo, sft
from alignxplore.training.memory import Job, Shape, Speed
from alignxplore.training.settings import check_settings
from alignxplore.workflow.config import Config, held_out_file, variants
from alignxplore.workflow.launcher import processes

GB = 1e9
LENGTHS = {"sft": (2400, 600), "grpo": (8192, 600)}
"""Assumed mean tokens of prompts and completions."""


def variant_jobs(config: Config, shape_file: str | None) -> dict[str, Job]:
    """The job of each training variant. All models have the shape of `shape_file`, a config.json, if there is one."""
    training = config["training"]
    started = processes(training["launch"]) or training.get("gpus") or 1
    jobs = {}
    for name, entry in variants(config).items():
        module, kind = {"sft": (sft, SFTConfig), "grpo": (grpo, GRPOConfig)}[entry["stage"]]
        settings = {**training[entry["stage"]], **entry.get("settings", {})}
        here = type(kind.__name__, (kind,), {"world_size": started})
        held_out = {"held_out": held_out_file(config, name) is not None} if entry["stage"] == "grpo" else {}
        _, arguments = module.configure({**settings, "use_cpu": True}, Path(name), here, **held_out)  # may lack GPUs
        judge = 0
        if entry["stage"] == "grpo":
            model = config["models"][config["judges"][entry["judge"]]["model"]]
            if model["engine"] == "vllm":
                raise UserError(f"training.variants.{name}: the memory of a judge by vLLM in the process is not known")
            if model["engine"] == "transformers":
                judge = _shape(config, model, shape_file).engine(model.get("dtype", "float32"))
        shape = _shape(config, config["models"][entry["from"]], shape_file)
        jobs[name] = Job.of(shape, arguments, check_settings(settings, kind), training["launch"], started, judge)
    return jobs


def _shape(config: Config, model: Mapping[str, Any], shape_file: str | None) -> Shape:
    """The shape of a `models` entry. A model that is trained has that of the model it starts from."""
    path = shape_file or model["path"]
    trained = variants(config).get(Path(path).name) if path.startswith("models/trained/") else None
    if trained:
        return _shape(config, config["models"][trained["from"]], shape_file)
    try:
        return Shape.of(AutoConfig.from_pretrained(path, revision=model.get("revision")))
    except (OSError, ValueError) as error:
        raise UserError(f"model {path}: its config.json cannot be read; name one with --shape ({error})") from error


def steps(config: Config, job: Job, stage: str, settings: Mapping[str, Any]) -> float:
    """Steps of a variant's run on the splits that the configuration draws, if the judge verifies every generation.

    D_cold has no more than `cold_start.limit` of them.
    """
    if "max_steps" in settings:
        return settings["max_steps"]
    size = {name: entry.get("size", 0) for name, entry in config["data"]["splits"].items()}
    cold = config["cold_start"]
    verified = size["cold"] * cold["generations"]
    rows = size["rl"] if stage == "grpo" else min(verified, cold.get("limit", verified))
    return settings.get("num_train_epochs", 3) * rows * job.generations / (job.batch * job.accumulation * job.processes)


def table(config: Config, jobs: Mapping[str, Job], card: float) -> str:
    """A Markdown table of what one of the cards, with `card` bytes, must hold; variants with equal needs share one."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for name, job in jobs.items():
        entry = variants(config)[name]
        settings = {**config["training"][entry["stage"]], **entry.get("settings", {})}
        seconds = job.seconds(*LENGTHS[entry["stage"]], Speed())
        count = steps(config, job, entry["stage"], settings)
        figures = {
            **{f"{part}, GB": value / GB for part, value in job.parts(card).items()},
            "while sampling, instead of activations and working memory, GB": job.sampling / GB,
            "**largest moment, GB**": job.peak(card) / GB,
            f"**fits {card / GB:.1f} GB**": "yes" if job.fits(card) else "no",
            "main memory per process for an offloaded optimiser, GB": job.host / GB,
            "one checkpoint on disk, GB": job.checkpoint / GB,
            **{f"{part}, s per step": value for part, value in seconds.items()},
            "steps": round(count),
            "hours": sum(seconds.values()) * count / 3600,
        }
        cells = tuple(figures)
        values = tuple(_shown(value) for value in figures.values())
        columns.setdefault(values, []).append(name)
    heads = ["", *(", ".join(names) for names in columns.values())]
    rows = [heads, ["---"] * len(heads), *([cell, *row] for cell, *row in zip(cells, *columns, strict=True))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value}" if isinstance(value, int) else f"{value:.1f}"
