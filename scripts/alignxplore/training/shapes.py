"""The architecture of every model that a configuration names, whether or not its files are here yet."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig, PreTrainedConfig

from alignxplore import adapters
from alignxplore.errors import UserError
from alignxplore.workflow.config import Config, variants
from alignxplore.workflow.config_paths import makers

KNOWN = Path(__file__).parents[3] / "resources/shapes.yaml"
"""Published shapes of well-known models of the hub."""


def model_config(config: Config, model: Mapping[str, Any]) -> PreTrainedConfig:
    """The config of a `models` entry: of what a rule makes it from, or of its files here or on the hub.

    What a rule has made already may be another configuration's. UserError if none of these tells it.
    """
    path = model["path"]
    match makers(config).get(path):
        case "training.variants", name:
            return model_config(config, config["models"][variants(config)[name]["from"]])
        case "demo.models", name:
            return _scale_model(config["demo"], name)
        case "gguf", name:
            return _gguf_model(config["gguf"][name])
    if adapters.is_adapter(path):
        return model_config(config, {"path": adapters.source(path).base})
    try:
        return AutoConfig.from_pretrained(path, revision=model.get("revision"))
    except (OSError, ValueError) as error:
        facts = yaml.safe_load(KNOWN.read_text(encoding="utf-8")).get(path)
        if facts is None:
            raise UserError(
                f"model {path}: its shape is unknown, because its config.json cannot be read here; fetch it"
                f" (hf download {path} config.json), or name one with --shape ({_first_line(error)})"
            ) from error
    return AutoConfig.for_model(**{name: value for name, value in facts.items() if name != "parameters"})


def _scale_model(demo: Mapping[str, Any], name: str) -> PreTrainedConfig:
    from alignxplore.demo.pretrain import Shape, network_config
    from alignxplore.formats import TAGS

    entry = demo["models"][name]
    shape = Shape(**demo["models"][entry.get("base", name)].get("shape", {}))
    return network_config(shape, demo["vocabulary"] + len(TAGS))


def _gguf_model(entry: Mapping[str, Any]) -> PreTrainedConfig:
    from alignxplore.engines.gguf import locate

    if "package" in entry and find_spec(entry["package"]) is None:
        raise UserError(f"{entry['file']}: its shape is unknown until the package {entry['package']} is installed")
    file = locate(entry["file"], entry["package"]) if "package" in entry else Path(entry["file"])
    return AutoConfig.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
