"""What both trainings share: settings, models, progress, resuming, and an output that appears only when whole."""

import dataclasses
import difflib
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import time
import types
import typing
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

# TRL reports each trainer it makes to the hub; a run tells nobody anything.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import numpy as np
import polars as pl
import torch
import yaml
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from alignxplore import records
from alignxplore.digests import digest, directory_digest
from alignxplore.errors import UserError, unloadable
from alignxplore.prompts import Templates
from alignxplore.training.metrics import from_history

log = logging.getLogger(__name__)

Arguments = TypeVar("Arguments", bound=TrainingArguments)

OWN_SETTINGS = ("attn_implementation", "dtype", "max_prompt_length", "revision", "synthesis_phrases")
"""Settings that are not TRL's: how and at which revision the model is loaded, the longest prompt in tokens that is
trained on, and phrases by which reasoning that draws its observations together is known (section 4.5)."""

RUN_SETTINGS = frozenset({"disable_tqdm", "report_to", "save_steps", "save_strategy", "save_total_limit"})
"""Settings of `training.run`: when checkpoints are kept, and who hears of the progress. They change no result."""

SEAL = ".digest"
"""A checkpoint's file that holds the digest of the others."""

MOST_LOGITS = 2**26
"""Logits are kept in memory up to this many, 256 MiB in float32."""

DEFAULTS: dict[str, Any] = {
    "bf16": False,
    # Processes may make unequally many forward passes, as some have rollouts without signal and others have none.
    "ddp_broadcast_buffers": False,
    "dataloader_num_workers": 0,
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "steps",
    "save_steps": 10,
    "save_total_limit": 2,  # the last may have been cut short
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Checked training settings: those of the trainer, and our own."""

    trainer: dict[str, Any]
    attn_implementation: str | None = None
    dtype: str = "float32"
    max_prompt_length: int | None = None
    revision: str | None = None
    synthesis_phrases: Sequence[str] = ("putting", "taken together", "all in all", "overall", "in sum", "combining")


def check_settings(values: Mapping[str, Any], config: type[TrainingArguments]) -> Settings:
    """Check setting names and plain types against TRL's `config` class; UserError names the key that is wrong."""
    fields = {field.name for field in dataclasses.fields(config) if field.init} - {"output_dir"}
    hints = typing.get_type_hints(config)
    hints |= {
        "attn_implementation": str,
        "dtype": str,
        "max_prompt_length": int | None,
        "revision": str | None,
        "synthesis_phrases": list[str],
    }
    for name, value in values.items():
        if name not in fields and name not in OWN_SETTINGS:
            near = difflib.get_close_matches(name, [*fields, *OWN_SETTINGS], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"training setting {name!r} is unknown to {config.__name__}{hint}")
        if not _fits(value, hints[name]):
            wanted = " or ".join(_plain_types(hints[name]))
            raise UserError(f"training setting {name!r} must be {wanted}, not {value!r}")
    own = {name: values[name] for name in OWN_SETTINGS if name in values}
    return Settings({name: v for name, v in values.items() if name not in OWN_SETTINGS}, **own)


def make_arguments(config: type[Arguments], settings: Settings, defaults: Mapping[str, Any], output: Path) -> Arguments:
    """The trainer's arguments: `settings` over `defaults` over the defaults of every training."""
    merged = {**DEFAULTS, **defaults, **settings.trainer}
    try:
        return config(output_dir=str(output), **merged)
    except (TypeError, ValueError) as error:
        raise UserError(f"training settings: {error}") from error


def _members(hint: Any) -> tuple[Any, ...]:
    return (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )


def _plain_types(hint: Any) -> list[str]:
    return sorted(getattr(member, "__name__", str(member)) for member in _members(hint))


def _fits(value: Any, hint: Any) -> bool:
    # YAML reads 1e-6 as a string, so numbers are worth a check; what is not a plain type is left to TRL.
    members = _members(hint)
    if not all(member in (bool, int, float, str, types.NoneType) for member in members):
        return True
    if value is None:
        return True
    if isinstance(value, bool):
        return bool in members
    if isinstance(value, int):
        return int in members or float in members
    return type(value) in members


def load_tokenizer(model: Path, settings: Settings) -> PreTrainedTokenizerBase:
    """The tokenizer of the model to train, from a Hugging Face directory or hub name."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(model), revision=settings.revision, local_files_only=model.is_dir(), trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(unloadable(model, error)) from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"model {model}: its tokenizer has no end-of-text token")
    return tokenizer


def load_model(model: Path, settings: Settings) -> PreTrainedModel:
    """The model to train, from a Hugging Face directory or hub name; safetensors only."""
    load = {"attn_implementation": settings.attn_implementation} if settings.attn_implementation else {}
    try:
        return AutoModelForCausalLM.from_pretrained(
            str(model),
            dtype=getattr(torch, settings.dtype),
            use_safetensors=True,
            revision=settings.revision,
            local_files_only=model.is_dir(),
            trust_remote_code=False,
            **load,
        )
    except (OSError, ValueError, ImportError, AttributeError, SafetensorError) as error:
        raise UserError(unloadable(model, error)) from error


def score(
    model: Any, inputs: Mapping[str, Any], shift_labels: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each label and entropy (no gradient) of its distribution, in nats, zero where it is -100.

    `shift_labels` (batch, length) stand where they are predicted. `model` has TRL's fused head, which recomputes
    logits tile by tile to save memory; where the logits are small, keeping them is several times as fast.
    """
    kept = shift_labels != -100
    first = int(kept.any(0).int().argmax())
    vocabulary = getattr(model, "module", model).config.get_text_config().vocab_size
    if kept[:, first:].numel() * vocabulary > MOST_LOGITS:
        outputs = model(**inputs, shift_labels=shift_labels, fused_lm_head=True)
        return outputs.log_probs, outputs.entropy.detach()
    positions = torch.arange(first, kept.shape[1], device=kept.device)
    logits = model(**inputs, use_cache=False, logits_to_keep=positions).logits[kept[:, first:]]
    log_probs = (logits.float() / temperature).log_softmax(-1)
    chosen = log_probs.gather(1, shift_labels[kept][:, None])[:, 0]
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(-1)
    empty = chosen.new_zeros(kept.shape)
    return empty.masked_scatter(kept, chosen), empty.masked_scatter(kept, entropy)


class Progress(TrainerCallback):
    """One line of the log for each step: step, figures, seconds a step, time left."""

    def __init__(self, figures: Mapping[str, str]):
        self.figures = figures
        self.started = 0.0
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started, self.first_step = time.monotonic(), state.global_step

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs.get("logs") or {}
        if not state.is_world_process_zero or "grad_norm" not in logs:
            return
        pace = (time.monotonic() - self.started) / max(1, state.global_step - self.first_step)
        figures = ", ".join(
            f"{label} {logs[name]:.4g}" for name, label in self.figures.items() if logs.get(name) is not None
        )
        log.info(
            "step %d of %d: %s, %.2f s a step, %.0f s left",
            state.global_step,
            state.max_steps,
            figures,
            pace,
            pace * (state.max_steps - state.global_step),
        )


class _Interruptions(TrainerCallback):
    """What it takes to stop at any moment and lose nothing.

    Seals each checkpoint, remembers the states of random generators at the end of each step, and saves behind the step
    in which SIGTERM came, as clusters send it before they kill. (transformers' own `enable_jit_checkpoint` saves within
    a step, whose rollouts are then drawn twice.)
    """

    def __init__(self) -> None:
        self.is_stopping = False
        self.states: tuple[Any, ...] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        def stop(signum: int, frame: Any) -> None:
            log.warning("asked to stop: this step will be finished and saved")
            self.is_stopping = True

        self._handler = signal.signal(signal.SIGTERM, stop)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self.states = random.getstate(), np.random.get_state(), torch.get_rng_state(), devices
        # A signal reaches processes on either side of a step's end; they stop together, or wait for each other.
        asked = gather_object([self.is_stopping])
        if any(asked) and state.global_step < state.max_steps:
            self.is_stopping = True
            control.should_save = control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        _seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        signal.signal(signal.SIGTERM, self._handler)

    def restore(self) -> None:
        """Set the random generators back to the end of the last step."""
        assert self.states is not None, "no step has ended"
        own, numpy_state, torch_state, devices = self.states
        random.setstate(own)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        torch.cuda.set_rng_state_all(devices)


def run(trainer: Trainer, checkpoint: Path | None = None) -> None:
    """Train to the end, from `checkpoint` where there is one, with our log instead of the trainer's printing.

    Where a reward cannot be had, the state before the step that wanted it is saved; UserError says so, as it does where
    the process was asked to stop.
    """
    trainer.remove_callback(PrinterCallback)
    interruptions = _Interruptions()
    trainer.add_callback(interruptions)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except UserError:
        # Other processes wait for this one, and saving needs them all: theirs is the last regular checkpoint.
        # Where no step has ended since, the checkpoint that it began with is the state.
        if trainer.accelerator.num_processes == 1 and interruptions.states is not None:
            interruptions.restore()
            trainer._save_checkpoint(trainer.model, trial=None)
            _seal(Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}")
            log.error("stopped behind step %d, which is saved: run again to go on", trainer.state.global_step)
        raise
    if trainer.state.global_step < trainer.state.max_steps:
        raise UserError(f"stopped behind step {trainer.state.global_step}, which is saved: run again to go on")


def complete(trainer: Trainer, facts: Mapping[str, Any], output: Path, metrics: str | Path, schema: pl.Schema) -> None:
    """Train, resuming an interrupted run of the same `facts`; then write the steps' metrics, and the model to `output`.

    The output is a standard Hugging Face directory: safetensors, tokenizer, chat template, generation config, and a
    model card made of the facts. Everything is written elsewhere first.
    """
    partial = partial_directory(output)
    with PartialState().main_process_first():
        checkpoint = _resumable(partial, facts)
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint)
    run(trainer, checkpoint)
    final = partial / "final"
    # Collective: under ZeRO-3 every process gathers its part.
    trainer.save_model(str(final))
    if trainer.is_world_process_zero():
        steps = from_history(trainer.state.log_history, schema)
        records.write(steps, metrics, schema)
        trainer.processing_class.save_pretrained(final)
        (final / "training_args.bin").unlink(missing_ok=True)
        (final / "README.md").write_text(model_card(output.name, facts, steps), encoding="utf-8")
        shutil.rmtree(output, ignore_errors=True)
        os.replace(final, output)
        shutil.rmtree(partial)
        log.info("saved %s", output)
    trainer.accelerator.wait_for_everyone()


def partial_directory(output: Path) -> Path:
    """Where checkpoints are kept until the training is complete."""
    return output.with_name(f".{output.name}.partial")


def run_facts(
    stage: str, settings: Mapping[str, Any], model: str | Path, data: str | Path, templates: Templates, **more: Any
) -> dict[str, Any]:
    """What a training depends on, as JSON: a checkpoint of a run with other facts is not resumed."""
    return {
        "stage": stage,
        "model": str(model),
        "model_content": directory_digest(model) if Path(model).is_dir() else None,
        "data": str(data),
        "data_content": digest(data),
        "templates": {n: hashlib.sha256(text.encode()).hexdigest() for n, text in sorted(templates.texts.items())},
        "settings": {key: value for key, value in settings.items() if key not in RUN_SETTINGS},
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        **more,
    }


def _resumable(partial: Path, facts: Mapping[str, Any]) -> Path | None:
    """The last whole checkpoint of a run with these facts; what cannot be resumed is cleared away."""
    run_file = partial / "run.json"
    text = json.dumps(facts, indent=2, sort_keys=True)
    if not run_file.is_file() or run_file.read_text(encoding="utf-8") != text:
        if run_file.is_file():  # without it the directory is the trainer's own, made when it was built
            log.warning("%s belongs to a run with other settings or data, and is removed", partial)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        run_file.write_text(text, encoding="utf-8")
        return None
    # One left behind would count as newer than those to come, which the trainer then removes for it.
    for checkpoint in sorted(partial.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        if _is_whole(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def _seal(checkpoint: Path) -> None:
    """Write the digest of a checkpoint, when every process has written its part."""
    state = PartialState()
    state.wait_for_everyone()
    if state.is_main_process:
        (checkpoint / SEAL).write_text(directory_digest(checkpoint, remembered=False), encoding="utf-8")


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint, of as many processes as there are, has the bytes that were written."""
    try:
        intact = (checkpoint / SEAL).read_text(encoding="utf-8") == directory_digest(checkpoint, remembered=False)
    except OSError:
        intact = False
    written, running = len(list(checkpoint.glob("rng_state*.pth"))), int(os.environ.get("WORLD_SIZE", "1"))
    if not intact:
        log.warning("%s is torn or damaged, and is removed", checkpoint)
    elif written != running:
        log.warning("%s was written by %d processes, not %d, and is removed", checkpoint, written, running)
    return intact and written == running


def model_card(name: str, facts: Mapping[str, Any], steps: pl.DataFrame) -> str:
    """A model card in Markdown: what the model was made of, and the means of the last quarter of its steps."""
    front = {"base_model": facts["model"], "library_name": "transformers", "tags": ["preference-inference"]}
    kind = {"sft": "cold-start fine-tuning (Eq. 8)", "grpo": "reinforcement learning by GRPO (Eq. 9-11)"}
    last = steps.tail(max(1, steps.height // 4)).drop("step", "epoch").mean().row(0, named=True)
    outcome = "\n".join(f"| {figure} | {value:.4g} |" for figure, value in last.items())
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---
# {name}

Made by {kind[facts["stage"]]} from `{facts["model"]}`: {steps.height} steps on `{facts["data"]}`. It
reads a user's behavioural signals, reasons between `<think>` tags, and describes the user's preferences between
`<answer>` tags.

| mean of the last quarter of the steps | |
| --- | --- |
{outcome}

What it was made with:

```yaml
{yaml.safe_dump(dict(facts), sort_keys=False)}```
"""
