"""The memory and time of a configuration's training variants, as a table."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from trl import GRPOConfig, SFTConfig

from alignxplore.errors import UserError
from alignxplore.training import grpo, sft
from alignxplore.training.memory import Adapter, Job, Shape, Speed
from alignxplore.training.settings import check_settings
from alignxplore.training.shapes import model_config
from alignxplore.workflow.config import Config, held_out_file, makes_adapter, variant_settings, variants
from alignxplore.workflow.launcher import processes

GB = 1e9
PROMPT, COMPLETION = {"sft": 2400, "grpo": 8192}, 600
"""Assumed mean tokens of prompts and completions, where the settings allow as many."""
DEFAULT_CARD = {"memory": 85.5, "operations": Speed.operations / 1e12}
"""An H100, if the configuration names no card: 10^9 bytes, and 10^12 operations per second."""


def card_of(config: Config) -> float:
    """Bytes of the card that a configuration names."""
    return GB * float({**DEFAULT_CARD, **config.get("card", {})}["memory"])


def speed_of(config: Config) -> Speed:
    """What is assumed of that card's speed."""
    return Speed(operations=1e12 * {**DEFAULT_CARD, **config.get("card", {})}["operations"])


def variant_jobs(config: Config, shape_file: str | None) -> dict[str, Job]:
    """The job of each training variant. All models have the shape of `shape_file`, a config.json, if there is one."""
    return {name: variant_job(config, name, shape_file) for name in variants(config)}


def variant_job(config: Config, name: str, shape_file: str | None = None) -> Job:
    """The job of one training variant; UserError if its settings are wrong or its memory is not known."""
    training, entry = config["training"], variants(config)[name]
    started = processes(training["launch"]) or training.get("gpus") or 1
    module, kind = {"sft": (sft, SFTConfig), "grpo": (grpo, GRPOConfig)}[entry["stage"]]
    settings = variant_settings(config, name)
    here = type(kind.__name__, (kind,), {"world_size": started})
    held_out = {"held_out": held_out_file(config, name) is not None} if entry["stage"] == "grpo" else {}
    _, arguments = module.configure({**settings, "use_cpu": True}, Path(name), here, **held_out)  # may lack GPUs
    start, checked = _config(config, config["models"][entry["from"]], shape_file), check_settings(settings, kind)
    adapter = None if checked.lora is None else Adapter.of(start, _lora(config, name))
    job = Job.of(Shape.of(start), arguments, checked, training["launch"], started, adapter)
    if entry["stage"] == "sft":
        return job
    model = config["models"][config["judges"][entry["judge"]]["model"]]
    if model["engine"] == "vllm":
        raise UserError(f"training.variants.{name}: the memory of a judge by vLLM in the process is not known")
    if model["engine"] != "transformers":
        return job
    judge = model_shape(config, model, shape_file)
    return replace(job, judge=judge.engine(model.get("dtype", "float32")), judge_parameters=judge.parameters)


def _lora(config: Config, name: str) -> dict[str, Any]:
    """A variant's settings of `lora`, over those of the variant whose adapter it goes on training."""
    entry = variants(config)[name]
    start = config["models"][entry["from"]]["path"].removeprefix("models/trained/")
    earlier = _lora(config, start) if start in variants(config) and makes_adapter(config, start) else {}
    return {**earlier, **(variant_settings(config, name).get("lora") or {})}


def model_shape(config: Config, model: Mapping[str, Any], shape_file: str | None = None) -> Shape:
    """The shape of a `models` entry; UserError if nothing tells it."""
    return Shape.of(_config(config, model, shape_file))


def _config(config: Config, model: Mapping[str, Any], shape_file: str | None) -> PreTrainedConfig:
    return AutoConfig.from_pretrained(shape_file) if shape_file else model_config(config, model)


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


def mean_lengths(job: Job) -> tuple[int, int]:
    """Mean tokens of a prompt and a completion."""
    completion = min(COMPLETION, job.completion)
    if job.rollouts:
        return min(PROMPT["grpo"], job.prompt), completion
    return min(PROMPT["sft"], job.completion - completion), completion


def table(config: Config, jobs: Mapping[str, Job], card: float) -> str:
    """A Markdown table of what one of the cards, with `card` bytes, must hold; variants with equal needs share one."""
    speed = speed_of(config)
    columns: dict[tuple[str, ...], list[str]] = {}
    for name, job in jobs.items():
        entry = variants(config)[name]
        settings = variant_settings(config, name)
        seconds = job.seconds(*mean_lengths(job), speed)
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
