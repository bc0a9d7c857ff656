"""Configurations as a run has them, and files that give a run a wanted one."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from alignxplore.workflow.config import resolved
from snakemake.utils import update_config

CONFIG = Path(__file__).parents[2] / "config"


def merged(*experiments: str) -> dict[str, Any]:
    """base.yaml with these experiments over it, or with the default's."""
    config: dict[str, Any] = {}
    for name in ("base", *(experiments or ("demo",))):
        update_config(config, yaml.safe_load((CONFIG / f"{name}.yaml").read_text(encoding="utf-8")))
    return json.loads(json.dumps(resolved(config)))  # entries that share an anchor would change together


def write_config(path: Path, config: Mapping[str, Any]) -> Path:
    """Write a file that makes this configuration over base.yaml: what base.yaml has and it lacks is null."""
    base = yaml.safe_load((CONFIG / "base.yaml").read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(_over(base, config), sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def _over(base: Any, wanted: Any) -> Any:
    if not isinstance(base, Mapping) or not isinstance(wanted, Mapping):
        return copy.deepcopy(wanted)
    removed = {key: None for key in base if key not in wanted}
    return {**{key: _over(base.get(key), value) for key, value in wanted.items()}, **removed}
