"""Engines: one small interface to every way of running a language model."""

from collections.abc import Mapping
from typing import Any

from alignxplore.engines.base import Completion, Engine, Sampling
from alignxplore.errors import UserError

__all__ = ["Completion", "Engine", "Sampling", "load"]


def load(entry: Mapping[str, Any]) -> Engine:
    """The engine for one entry of the config's `models`."""
    if entry["engine"] == "transformers":
        from alignxplore.engines.hf import TransformersEngine

        options = {key: entry[key] for key in ("revision", "dtype", "batch_tokens") if key in entry}
        return TransformersEngine(entry["path"], **options)
    raise UserError(f"models: no such engine {entry['engine']!r}")
