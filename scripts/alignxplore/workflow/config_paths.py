"""Checks of the configuration's paths: programs and files that exist, and models that something makes."""

import copy
import difflib
import glob
import graphlib
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignxplore.adapters import is_adapter
from alignxplore.data.locations import is_remote, local_copy
from alignxplore.errors import UserError
from alignxplore.workflow import launcher
from alignxplore.workflow.config import D_COLD, DATA_OF_STAGE, LOADING_ENGINES, Config, makes_adapter, variants

HUB_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
"""NAME or OWNER/NAME."""

MADE = ("data/splits/", "data/cold/", "data/refined", "results/")
"""Where rules write."""

PATHS = (
    "prompts.*", "published", "data.alignx.sources.*", "data.psoups.*.path", "data.splits.*.source",
    "data.splits.*.source.*", "data.wording", "demo.lexicon", "gguf.*.file", "gguf.*.chat_template",
    "models.*.chat_template", "training.held_out", "training.variants.*.data", "training.variants.*.held_out",
)  # fmt: skip
"""Keys whose values are files, or for raw data globs and addresses on the hub."""

DEMO_FILES = {
    "jsonl": "data/raw/alignx/part-0.jsonl",
    "parquet": "data/raw/alignx/part-1.parquet",
    "expertise": "data/raw/psoups/expertise.json",
    "informativeness": "data/raw/psoups/informativeness.json",
    "style": "data/raw/psoups/style.json",
    "wording": "data/raw/wording.csv",
}
"""What the rule demo_world makes."""

DEMO_STREAMS = {"test": "data/raw/streams/test.jsonl", "training": "data/raw/streams/training.jsonl"}
"""What the rule demo_streams makes, if the demo has `streams`."""


def path_errors(config: Config) -> Iterator[str]:
    """Yield the files that do not exist, and that neither a rule makes nor the hub has."""
    for names, path in _places(config, PATHS):
        key = ".".join(names)
        if names[0] == "gguf" and names[-1] == "file" and "package" in config["gguf"][names[1]]:
            continue  # rule gguf_model says whether the package has it
        if names[-1] == "held_out" and path in config.get("data", {}).get("splits", {}):
            continue
        if is_remote(path):
            try:
                local_copy(path)
            except UserError as error:
                yield f"{key}: {error}"
        elif glob.has_magic(path) and key.startswith(("data.alignx", "data.splits")):
            if not glob.glob(path, recursive=True):
                yield f"{key}: no file matches {path!r}"
        elif not _is_made(path, config) and not Path(path).is_file():
            close = difflib.get_close_matches(path, map(str, Path(path).parent.glob("*")), 1)
            yield f"{key}: there is no file {path!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def _is_made(path: str, config: Config) -> bool:
    """Whether a rule makes this file."""
    demo = config.get("demo", {})
    of_demo = {*(DEMO_FILES.values() if demo else ()), *(DEMO_STREAMS.values() if "streams" in demo else ())}
    return path in of_demo or path.startswith(MADE)


def located(config: Config, workflow: Path) -> dict[str, Any]:
    """The configuration with the absolute paths of files that are in the workflow's directory and not in this one.

    So the files that its configurations name are found with `snakemake --directory` too. What this run makes is not
    taken from a run in the workflow's directory.
    """

    def found(path: str) -> str:
        lacks = path and not Path(path).exists() and not _is_made(path, config)
        return str(workflow / path) if lacks and (workflow / path).is_file() else path

    absolute: Any = copy.deepcopy(dict(config))
    for key, path in _places(config, [*PATHS, "training.launch"]):
        there = launcher.located(path, found) if key == ["training", "launch"] else found(path)
        *parents, last = key
        entry = absolute
        for name in parents:
            entry = entry[int(name) if isinstance(entry, list) else name]
        entry[int(last) if isinstance(entry, list) else last] = there
    return absolute


def values_at(config: Config, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The texts at these paths, in which * is any name or place, each with its key."""
    return ((".".join(key), value) for key, value in _places(config, paths))


def _places(config: Config, paths: Iterable[str]) -> Iterator[tuple[list[str], str]]:
    """The same, with the names of which a key consists; they may contain dots."""

    def walk(value: Any, path: list[str], key: list[str]) -> Iterator[tuple[list[str], str]]:
        if not path:
            if isinstance(value, str):
                yield key, value
        elif path[0] != "*":
            if isinstance(value, Mapping) and path[0] in value:
                yield from walk(value[path[0]], path[1:], [*key, path[0]])
        elif isinstance(value, Mapping | list):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            for name, item in items:
                yield from walk(item, path[1:], [*key, str(name)])

    for path in paths:
        yield from walk(config, path.split("."), [])


def model_errors(config: Config) -> Iterator[str]:
    """Yield an error unless the journal can be a directory and each model is made by a rule, on disk or on the hub."""
    journal = Path(config["journal"])
    there = next(path for path in [journal, *journal.parents, Path("/")] if path.exists())
    if not there.is_dir():
        yield f"journal: {str(there)!r} is a file; name a directory (it need not exist yet)"
    made = makers(config)
    for name, entry in config["models"].items():
        if "adapter" in entry:
            yield from _adapter_errors(name, entry, config)
        key, path = f"models.{name}.path", entry["path"]
        plain = posixpath.normpath(path)
        # Endpoints and engines that you add may give other names a meaning.
        loads = entry["engine"] in LOADING_ENGINES
        if plain in made and path != plain:
            yield f"{key}: write {plain!r} instead of {path!r}, as the rule that makes it does"
        elif path in made or not (loads or path.startswith("models/")):
            continue
        elif path.startswith("~"):
            yield f"{key}: ~ is not expanded in {path!r}; write the whole path"
        elif Path(path).is_dir():
            continue
        elif path.startswith("models/") or Path(path).exists() or not HUB_ID.fullmatch(path):
            hint = "a model of the hub is NAME or OWNER/NAME"
            yield f"{key}: there is no directory {path!r}, and no rule makes it; {hint}"


def _adapter_errors(name: str, entry: Mapping[str, Any], config: Config) -> Iterator[str]:
    """Yield an error unless an entry's adapter is one, made by a variant or on disk, and its path a whole model."""

    def variant(path: str) -> str | None:
        trained = path.removeprefix("models/trained/")
        return trained if trained in variants(config) else None

    made = variant(entry["adapter"])
    if made is None and not is_adapter(entry["adapter"]):
        yield f"models.{name}.adapter: {entry['adapter']!r} is no directory with an adapter, and no variant makes it"
    elif made is not None and not makes_adapter(config, made):
        yield (
            f"models.{name}.adapter: training.variants.{made} makes a whole model; name it as the path, or give the"
            " variant lora without merge"
        )
    based = variant(entry["path"])
    if is_adapter(entry["path"]) if based is None else makes_adapter(config, based):
        yield f"models.{name}.path: {entry['path']!r} is an adapter itself; name the model that both belong to"


def makers(config: Config) -> dict[str, tuple[str, str]]:
    """The directories of models that rules make, each with the section and the name of the entry that asks for it."""
    tables = {
        "demo.models": ("models/demo", config.get("demo", {}).get("models", {})),
        "gguf": ("models/gguf", config.get("gguf", {})),
        "training.variants": ("models/trained", variants(config)),
    }
    return {f"{place}/{name}": (key, name) for key, (place, names) in tables.items() for name in names}


def cycle_errors(config: Config) -> Iterator[str]:
    """Yield a model that is made from itself, directly or through others."""
    makes = makers(config)

    def made(*models: str) -> list[str]:
        entries = [config["models"][model] for model in models]
        paths = [path for entry in entries for path in (entry["path"], entry.get("adapter"))]
        return [".".join(makes[path]) for path in paths if path in makes]

    needs: dict[str, list[str]] = {}
    if cold := config.get("cold_start"):
        needs["cold_start"] = made(cold["teacher"], config["judges"][cold["judge"]]["model"])
        if "streaming" in cold:
            teacher = cold["streaming"].get("teacher", cold["teacher"])
            needs["cold_start.streaming"] = made(teacher, config["judges"][cold["judge"]]["model"])
    for name, entry in variants(config).items():
        judge = [config["judges"][entry["judge"]]["model"]] if "judge" in entry else []
        own = entry.get("data", DATA_OF_STAGE[entry["stage"]])
        data = [section for section, path in D_COLD.items() if path == own]
        needs[f"training.variants.{name}"] = [*made(entry["from"], *judge), *data]
    for name, entry in config.get("demo", {}).get("models", {}).items():
        needs[f"demo.models.{name}"] = [f"demo.models.{entry['base']}"] if "base" in entry else []
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        chain = list(reversed(error.args[1]))
        yield f"{chain[0]}: is made from itself: {', which needs '.join(chain)}; let one of them start elsewhere"
