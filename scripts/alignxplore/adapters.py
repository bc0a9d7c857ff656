"""Adapters: the weights of a LoRA in a directory of their own, which names the model that they belong to."""

import json
from dataclasses import dataclass
from pathlib import Path

from alignxplore.errors import UserError

CONFIG = "adapter_config.json"
"""The file by which peft knows an adapter."""


@dataclass(frozen=True)
class Source:
    """Where a model's weights come from: a directory or hub id with its revision, and the adapter over it, if any."""

    base: str
    revision: str | None = None
    adapter: str | None = None


def is_adapter(path: str | Path) -> bool:
    """Whether a directory holds an adapter instead of a whole model."""
    return (Path(path) / CONFIG).is_file()


def source(path: str | Path, revision: str | None = None, adapter: str | Path | None = None) -> Source:
    """What a `models` entry with these values loads. A `path` that is an adapter brings its own base model.

    The base's path is read as the adapter's file has it, so a relative one starts at the working directory. UserError
    unless the adapter is one of LoRA, in safetensors.
    """
    if adapter is not None:
        if is_adapter(path):
            raise UserError(f"model {path} is an adapter itself; give the adapter {adapter} a whole model as its path")
        _read(adapter)
        return Source(str(path), revision, str(adapter))
    if not is_adapter(path):
        return Source(str(path), revision)
    config = _read(path)
    return Source(config["base_model_name_or_path"], config.get("revision"), str(path))


def tokenizer_source(found: Source) -> tuple[str, str | None]:
    """Directory or hub id, and revision, of a model's tokenizer: that of the adapter, if it has one."""
    if found.adapter is not None and (Path(found.adapter) / "tokenizer_config.json").is_file():
        return found.adapter, None
    return found.base, found.revision


def rank(adapter: str | Path) -> int:
    """The highest rank of an adapter's matrices."""
    config = _read(adapter)
    return max([config["r"], *(config.get("rank_pattern") or {}).values()])


def _read(adapter: str | Path) -> dict:
    """The settings of an adapter."""
    file = Path(adapter) / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind, base = config["peft_type"], config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"adapter {adapter}: {CONFIG} is not there or cannot be read ({error})") from error
    if kind != "LORA":
        raise UserError(f"adapter {adapter}: it is of type {kind}, and only LORA can be loaded")
    if not base:
        raise UserError(f"adapter {adapter}: {CONFIG} names no base model; write it there as base_model_name_or_path")
    if not (file.parent / "adapter_model.safetensors").is_file():
        raise UserError(f"adapter {adapter}: there is no adapter_model.safetensors; other formats are not read")
    return config
