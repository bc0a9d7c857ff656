"""Engines: one small interface to every way of running a language model."""

from collections.abc import Mapping
from typing import Any

from alignxplore.engines.base import Completion, Engine, Sampling
from alignxplore.errors import UserError

__all__ = ["Completion", "Engine", "Sampling", "load"]


def load(entry: Mapping[str, Any]) -> Engine:
    """The engine for one entry of the config's `models`; keys that it does not know are a UserError."""
    options = {key: value for key, value in entry.items() if key != "engine"}
    try:
        if entry["engine"] == "transformers":
            from alignxplore.engines.hf import TransformersEngine

            options.pop("gpu", None)
            return TransformersEngine(**options)
        if entry["engine"] == "vllm":
            from alignxplore.engines.vllm import VLLMEngine

            return VLLMEngine(**options)
        if entry["engine"] == "openai":
            from alignxplore.engines.openai import OpenAIEngine

            return OpenAIEngine(**options)
    except ModuleNotFoundError as error:
        raise UserError(f"engine {entry['engine']!r} of model {entry['path']} needs {error.name}; see envs/") from error
    except TypeError as error:
        raise UserError(f"engine {entry['engine']!r} of model {entry['path']}: {error}") from error
    raise UserError(f"models: no such engine {entry['engine']!r}")
