"""Models with random weights in place of those that are not here yet, and texts of a given number of tokens."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerFast

from alignxplore import records
from alignxplore.demo.pretrain import train_tokenizer
from alignxplore.engines import weights
from alignxplore.engines.tokens import ChatTokenizer
from alignxplore.prompts import Prompt, mark_user_text

WORDS = "a quick joke about travel helps people who like plain humour, and few words of advice\n"
ENDS = 16
"""Tokens that close a turn, at most."""


def is_here(model: Mapping[str, Any]) -> bool:
    """Whether the files of a `models` entry are a directory, or in the hub's cache."""
    path, revision = model["path"], model.get("revision")
    if Path(path).is_dir() or path.startswith("models/"):
        return Path(path).is_dir()
    names = ("model.safetensors", "model.safetensors.index.json")
    return any(isinstance(try_to_load_from_cache(path, name, revision=revision), str) for name in names)


def write_stand_in(config: PreTrainedConfig, path: Path) -> None:
    """Write a Hugging Face directory: a model of this architecture with random weights, and a tokenizer of bytes."""
    train_tokenizer([WORDS], 300, path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config.update({**ids, "bos_token_id": None})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.generation_config = GenerationConfig(**ids, do_sample=True)
    model.save_pretrained(path)


def write_examples(
    path: Path, model: Mapping[str, Any], number: int, prompt: int, completion: int, schema: pl.Schema
) -> None:
    """Write rows of `schema`: prompts of `prompt` tokens, and demonstrations or golden preferences of `completion`."""
    tokenizer = weights.load_tokenizer(model["path"], model.get("revision"))
    chat = ChatTokenizer(tokenizer, model.get("chat_template"))
    text = longest_text(lambda text: len(chat.encode(Prompt(mark_user_text(text)))), prompt, "0000 ")
    answer = longest_text(lambda text: len(tokenizer.encode(text)), completion - ENDS) if completion else ""
    empty = {**records.NO_STREAM, "direction": [], "pairs": [], "ugc": [], "past": "", "generation": 0}
    same = {**empty, "completion": answer, "user_id": "u", "prompt": WORDS, "chosen": WORDS, "rejected": WORDS[::-1]}
    rows = [
        {**same, "golden_preference": answer, "example_id": str(index), "rendered": f"{index:04}{text[4:]}"}
        for index in range(number)
    ]
    frame = pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=schema)
    records.write(frame, path, schema)


def longest_text(count: Callable[[str], int], tokens: int, start: str = "") -> str:
    """The longest text of plain words, after `start`, of which `count` finds no more than `tokens` tokens."""
    words = WORDS.split(" ")
    low, high = 0, tokens
    while low < high:
        middle = (low + high + 1) // 2
        if count(_words(words, middle, start)) <= tokens:
            low = middle
        else:
            high = middle - 1
    return _words(words, low, start)


def _words(words: list[str], number: int, start: str) -> str:
    return start + " ".join(words[index % len(words)] for index in range(number))
