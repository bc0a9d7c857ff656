"""What both trainings share: settings, models, progress, and an output that appears only when it is whole."""

import dataclasses
import difflib
import logging
import os
import shutil
import time
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

# TRL reports each trainer it makes to the hub; a run tells nobody anything.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
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

from alignxplore.errors import UserError

log = logging.getLogger(__name__)

Arguments = TypeVar("Arguments", bound=TrainingArguments)

OWN_SETTINGS = ("attn_implementation", "dtype", "max_prompt_length")
"""Settings that are not TRL's: how the model is loaded, and the longest prompt in tokens that is trained on."""

MOST_LOGITS = 2**26
"""Logits are kept in memory up to this many, 256 MiB in float32."""

DEFAULTS: dict[str, Any] = {
    "bf16": False,
    "dataloader_num_workers": 0,
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "no",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Checked training settings: those of the trainer, and our own."""

    trainer: dict[str, Any]
    attn_implementation: str | None = None
    dtype: str = "float32"
    max_prompt_length: int | None = None


def check_settings(values: Mapping[str, Any], config: type[TrainingArguments]) -> Settings:
    """Check setting names and plain types against TRL's `config` class; UserError names the key that is wrong."""
    fields = {field.name for field in dataclasses.fields(config) if field.init} - {"output_dir"}
    hints = typing.get_type_hints(config)
    hints |= {"attn_implementation": str, "dtype": str, "max_prompt_length": int | None}
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


def load_model(model: Path, settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model to train and its tokenizer from a Hugging Face directory or hub name; safetensors only."""
    local = model.is_dir()
    source = {"local_files_only": local, "trust_remote_code": False}
    load = {"attn_implementation": settings.attn_implementation} if settings.attn_implementation else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model), **source)
        network = AutoModelForCausalLM.from_pretrained(
            str(model), dtype=getattr(torch, settings.dtype), use_safetensors=True, **source, **load
        )
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise UserError(f"model {model} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"model {model}: its tokenizer has no end-of-text token")
    return network, tokenizer


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


def run(trainer: Trainer) -> None:
    """Train to the end, with our log instead of the trainer's printing."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def partial_directory(output: Path) -> Path:
    """Where everything is written before `publish` gives it its name; the same on every process of a run."""
    return output.with_name(f".{output.name}.partial")


def publish(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, output: Path) -> None:
    """Save a standard Hugging Face directory (safetensors, tokenizer, chat template, generation config)."""
    partial = partial_directory(output)
    # Collective: under ZeRO-3 every process gathers its part.
    trainer.save_model(str(partial))
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(partial)
        (partial / "training_args.bin").unlink(missing_ok=True)
        if output.exists():
            shutil.rmtree(output)
        os.replace(partial, output)
        log.info("saved %s", output)
    trainer.accelerator.wait_for_everyone()


def clear_partial(output: Path) -> None:
    """Remove what an interrupted run left behind."""
    if os.environ.get("RANK", "0") == "0":
        shutil.rmtree(partial_directory(output), ignore_errors=True)
        output.parent.mkdir(parents=True, exist_ok=True)
