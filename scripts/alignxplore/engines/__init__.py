"""Engines: one small interface to every way of running a language model."""

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alignxplore import adapters
from alignxplore.digests import digest, directory_digest
from alignxplore.engines.base import OPENAI_URL, Backend, Choice, Completion, Likelihood, Refused, Sampling
from alignxplore.engines.engine import Engine
from alignxplore.engines.journal import Journal
from alignxplore.errors import UserError
from alignxplore.imports import spare_transformers, uncollected

__all__ = [
    "Backend",
    "Choice",
    "Completion",
    "Engine",
    "Journal",
    "Likelihood",
    "Refused",
    "Sampling",
    "identity",
    "load",
    "model_entry",
    "start",
]


def load(entry: Mapping[str, Any], journal: str | Path | None = None) -> Engine:
    """The engine for one entry of the config's `models`, with the journal in this directory if there is one.

    The model itself is started when first asked for something that is not in the journal. Raises UserError for a
    directory that does not exist.
    """
    run = entry.get("run", {})
    price = run.get("price", {})
    return Engine(
        entry.get("adapter", entry["path"]),
        identity(entry),
        lambda: start(entry),
        Journal(journal),
        (price.get("prompt", 0.0), price.get("completion", 0.0)),
        run.get("max_refused", 0.1),
        entry.get("stop", ()),
    )


def model_entry(tracked: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's entry, from what a rule tracks of it in its params (with its `name`) and the config's `run` options.

    How a model is run changes no answer, so rules leave `run` out of their params and jobs look it up.
    """
    return {**tracked, "run": config["models"][tracked["name"]].get("run", {})}


def identity(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a model's answers depend on, for journal keys: its content or address, its prompt format, its precision.

    Stop texts are part of the sampling settings instead. An adapter counts with the model that it belongs to.
    """
    result = {key: value for key, value in entry.items() if key not in ("name", "run", "stop")}
    if entry["engine"] == "openai":
        result["base_url"] = entry.get("base_url", OPENAI_URL).rstrip("/")
        if "revision" in entry:
            del result["base_url"]
    if isinstance(entry.get("chat_template"), str):
        result["chat_template"] = digest(entry["chat_template"])
    if entry["engine"] != "openai":
        found = adapters.source(entry["path"], entry.get("revision"), entry.get("adapter"))
        values = {"path": found.base, "revision": found.revision, "adapter": found.adapter}
        result |= {key: value for key, value in values.items() if value is not None}
    for key in ("tokenizer",) if entry["engine"] == "openai" else ("path", "adapter"):
        if key in result and Path(result[key]).is_dir():
            result[key] = directory_digest(result[key])
    return result


def start(entry: Mapping[str, Any]) -> Backend:
    """The backend of an entry, without a journal; UserError for an engine or option that does not exist.

    An engine is a module of this package with its name and a function `start`. It is imported here, because no job
    needs the libraries of all engines.
    """
    name = entry["engine"]
    options = {key: value for key, value in entry.items() if key not in ("engine", "name", "run", "stop")}
    options |= {key: value for key, value in entry.get("run", {}).items() if key not in ("price", "max_refused")}
    if find_spec(f"{__name__}.{name}") is None:
        raise UserError(f"models: no such engine {name!r}")
    try:
        return _imported(name).start(**options)
    except ModuleNotFoundError as error:
        raise UserError(f"engine {name!r} of model {entry['path']} needs {error.name}; see envs/") from error
    except TypeError as error:
        raise UserError(f"engine {name!r} of model {entry['path']}: {error}") from error


def _imported(name: str) -> Any:
    """The module of an engine. A process that has torch already may train or compile, so nothing is spared there."""
    if "torch" in sys.modules:
        return import_module(f"{__name__}.{name}")
    with uncollected():
        if name == "transformers":
            spare_transformers()
        return import_module(f"{__name__}.{name}")
