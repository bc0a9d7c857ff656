"""Models before and after training: loading one with its tokenizer, and the model card of the result."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml

from alignxplore import adapters
from alignxplore.engines import weights
from alignxplore.engines.tokens import ChatTokenizer
from alignxplore.errors import UserError
from alignxplore.formats import THINK
from alignxplore.training import lora
from alignxplore.training.metrics import OF_UPDATES
from alignxplore.training.settings import Settings


def load_tokenizer(model: Path, settings: Settings) -> ChatTokenizer:
    """The tokenizer of the model to train, from a Hugging Face directory or hub name."""
    chat = ChatTokenizer(weights.load_tokenizer(model, settings.revision, settings.adapter), settings.chat_template)
    if chat.opens_thinking and chat.thoughts != THINK:
        raise UserError(f"model {model}: its chat template opens reasoning by other marks than <think>, which we train")
    return chat


def load_model(model: Path, settings: Settings, chat: ChatTokenizer) -> Any:
    """The model to train, from a Hugging Face directory, adapter or hub name; safetensors only.

    With `lora` in the settings, an adapter goes on being trained, and any other model is the base of a new one. Without
    it, an adapter is merged first. UserError if this process was given GPUs that torch cannot use.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given and not settings.trainer.get("use_cpu") and not torch.cuda.is_available():
        raise UserError(
            f"training: CUDA_VISIBLE_DEVICES is {given!r}, but torch {torch.__version__} finds no GPU; install its CUDA"
            " build (envs/requirements/gpu.txt), or set training.gpus: 0"
        )
    attention = {"attn_implementation": settings.attn_implementation} if settings.attn_implementation else {}
    options = {"dtype": settings.dtype, **attention}
    found = adapters.source(model, settings.revision, settings.adapter)
    if settings.lora is None:
        network = weights.load_model(model, chat.tokenizer, settings.revision, settings.adapter, **options)
    else:
        options |= lora.quantisation(settings.lora, settings.dtype)
        network = weights.load_base(found.base, chat.tokenizer, found.revision, **options)
    if found.revision and not Path(found.base).is_dir():
        # TRL starts vLLM from this name, without the revision.
        network.name_or_path = weights.directory_of(found.base, found.revision)
    if settings.lora is not None and found.adapter is not None:
        return lora.continued(network, found.adapter, settings.lora)
    return network


def model_card(name: str, facts: Mapping[str, Any], steps: pl.DataFrame, best: int | None = None) -> str:
    """A model card in Markdown: what went into the model, and the means over the last quarter of its steps.

    `best` is the step whose weights it has, if they are not those of the last one.
    """
    is_whole = (facts["settings"].get("lora") or {"merge": True}).get("merge", False)
    front = {
        "base_model": facts.get("base", facts["model"]),
        "library_name": "transformers" if is_whole else "peft",
        "tags": ["preference-inference"],
    }
    kind = {"sft": "cold-start fine-tuning (Eq. 8)", "grpo": "reinforcement learning by GRPO (Eq. 9-11)"}
    made = kind[facts["stage"]]
    does = ", reasons between `<think>` tags, and describes the user's preferences between\n`<answer>` tags"
    if "concise" in facts["templates"]:
        made, does = "fine-tuning on golden preferences", " and describes the user's preferences"
    count = steps["step"][-1]
    last = steps.tail(max(1, steps.height // 4)).drop("step", "epoch", *OF_UPDATES, strict=False).mean()
    figures = {name: value for name, value in last.row(0, named=True).items() if value is not None}
    outcome = "\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items() if not math.isnan(value))
    chosen = ""
    if best is not None:
        reward = steps.row(by_predicate=pl.col("step") == best, named=True)["held_out_reward"]
        chosen = f"""
These are the weights after step {best}, the best by evaluation: its held-out reward is {reward:.4g}.
"""
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---
# {name}

Made by {made} from `{facts["model"]}`: {count} steps on `{facts["data"]}`. It
reads a user's behavioural signals{does}.
{chosen}
| mean of the last quarter of the steps | |
| --- | --- |
{outcome}

What it was made with:

```yaml
{yaml.safe_dump(dict(facts), sort_keys=False)}```
"""
