"""Models before and after training: loading one with its tokenizer, and the model card of the result."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from alignxplore.errors import UserError, unloadable
from alignxplore.training.settings import Settings


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
    attention = {"attn_implementation": settings.attn_implementation} if settings.attn_implementation else {}
    try:
        return AutoModelForCausalLM.from_pretrained(
            str(model),
            dtype=getattr(torch, settings.dtype),
            use_safetensors=True,
            revision=settings.revision,
            local_files_only=model.is_dir(),
            trust_remote_code=False,
            **attention,
        )
    except (OSError, ValueError, ImportError, AttributeError, SafetensorError) as error:
        raise UserError(unloadable(model, error)) from error


def model_card(name: str, facts: Mapping[str, Any], steps: pl.DataFrame) -> str:
    """A model card in Markdown: what went into the model, and the means over the last quarter of its steps."""
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
