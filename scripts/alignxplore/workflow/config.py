"""The configuration: what its files say together, and look-ups that rules and checks share."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from alignxplore import adapters

Config = Mapping[str, Any]

LOADING_ENGINES = ("transformers", "vllm")
"""Engines whose models are directories or come from the hub."""

DERIVED = ("reverse_of", "truncation_of", "streamed_of")
"""Keys under which a benchmark names the one that it is made from."""

ORDERED = (
    "benchmarks", "columns", "figures", "gguf", "groups", "judges", "methods", "models", "psoups", "splits", "tables",
)  # fmt: skip
"""Keys of mappings whose order is shown, or means something: a user in several splits belongs to the last."""

CONTROLS = ("golden", "opposite", "shuffled", "none")
"""Kinds of the methods under whose descriptions a table of validity compares judges."""

VERBATIM = ("chat_template", "grpo", "lora", "request", "settings", "sft")
"""Keys of mappings that other programs read, in which null is a value."""


def typed(value: Any) -> Any:
    """A value of --config with the numbers, booleans and nulls inside it, which Snakemake leaves as text."""
    if isinstance(value, Mapping):
        return {name: typed(part) for name, part in value.items()}
    if isinstance(value, list):
        return [typed(part) for part in value]
    if not isinstance(value, str):
        return value
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return found if found is None or isinstance(found, bool | int | float) else value


def read_layers(files: Iterable[Path], values: Config | None = None) -> dict[str, Any]:
    """The configuration of these files, each over those before it, as Snakemake merges them; `values` are over all."""
    merged: dict[str, Any] = {}
    for file in files:
        _update(merged, yaml.safe_load(file.read_text(encoding="utf-8")))
    _update(merged, values or {})
    return resolved(merged)


def _update(lower: dict[str, Any], upper: Config) -> None:
    for key, value in upper.items():
        if isinstance(value, Mapping) and isinstance(lower.get(key), Mapping):
            lower[key] = dict(lower[key])
            _update(lower[key], value)
        else:
            lower[key] = value


def resolved(config: Config) -> dict[str, Any]:
    """The merged configuration without its null entries, and with keys sorted except in ORDERED mappings.

    Null removes an entry of a lower layer. Sorting keeps a new order of settings from rerunning anything.
    """

    def clean(value: Any, key: str = "") -> Any:
        if isinstance(value, list):
            return [clean(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        names = value if key in ORDERED else sorted(value, key=str)
        kept = (name for name in names if key in VERBATIM or value[name] is not None)
        return {name: clean(value[name], name) for name in kept}

    return clean(config)


def completed(config: Config) -> dict[str, Any]:
    """The configuration with what tables leave out: all benchmarks, and a column per judge and benchmark."""
    tables = {}
    for name, entry in config["tables"].items():
        judges = entry.get("judges", list(config["judges"]))
        if entry["kind"] == "accuracy" and "columns" not in entry:
            entry = {**entry, "columns": _columns(config)}
        elif entry["kind"] == "benchmarks":
            entry = {"benchmarks": list(config["benchmarks"]), **entry}
        elif entry["kind"] == "judges":
            shared = [
                name
                for name in config["benchmarks"]
                if all(name in judged_benchmarks(config, judge, [name]) for judge in judges)
            ]
            entry = {"judges": judges, "benchmarks": shared, **entry}
        elif entry["kind"] == "validity":
            entry = {"judges": judges, "benchmarks": list(config["benchmarks"]), **entry}
        elif entry["kind"] == "streaming":
            entry = {"judges": judges, **entry}
        tables[name] = entry
    return {**config, "tables": tables}


def _columns(config: Config) -> dict[str, Any]:
    """One column per judge and benchmark that it judges; named by the benchmark alone if there is one judge."""
    several = len(config["judges"]) > 1
    return {
        f"{benchmark}, {judge}" if several else benchmark: {"judge": judge, "benchmarks": [benchmark]}
        for benchmark in config["benchmarks"]
        for judge in config["judges"]
        if judged_benchmarks(config, judge, [benchmark])
    }


def variants(config: Config) -> Mapping[str, Any]:
    """The training variants, if anything is trained."""
    return config.get("training", {}).get("variants", {})


OF_EVALUATION = (
    "eval_steps", "eval_delay", "eval_on_start", "num_generations_eval", "load_best_model_at_end",
    "metric_for_best_model", "greater_is_better", "max_held_out",
)  # fmt: skip
"""The settings of an evaluation on held-out examples."""


def variant_settings(config: Config, name: str) -> dict[str, Any]:
    """The training settings of a variant: its own over those of its stage, without an evaluation that it turns off."""
    entry = variants(config)[name]
    stage = config["training"][entry["stage"]]
    if entry.get("held_out") is False:
        stage = {key: value for key, value in stage.items() if key not in OF_EVALUATION}
    return {**stage, **entry.get("settings", {})}


def makes_adapter(config: Config, name: str) -> bool:
    """Whether a variant's checkpoint is an adapter instead of a whole model."""
    lora = variant_settings(config, name).get("lora")
    return lora is not None and not lora.get("merge")


def made_directories(config: Config, entry: Config) -> list[str]:
    """The directories that rules make and that a `models` entry is loaded from; adapters need their bases too."""
    found = [path for path in (entry["path"], entry.get("adapter", "")) if path.startswith("models/")]
    names = [path.removeprefix("models/trained/") for path in found]
    starts = [variants(config)[n]["from"] for n in names if n in variants(config) and makes_adapter(config, n)]
    bases = [path for start in starts for path in made_directories(config, config["models"][start])]
    return list(dict.fromkeys([*found, *bases]))


def drawn_splits(config: Config) -> dict[str, Any]:
    """The splits that are drawn from raw AlignX, by a share of their own or from the rest of another."""
    return {name: entry for name, entry in config.get("data", {}).get("splits", {}).items() if "source" not in entry}


def given_splits(config: Config) -> dict[str, Any]:
    """The splits that are files."""
    return {name: entry for name, entry in config.get("data", {}).get("splits", {}).items() if "source" in entry}


def held_out_file(config: Config, variant: str) -> str | None:
    """The examples on which a variant is evaluated while it trains; None if it is not evaluated."""
    entry = variants(config)[variant]
    named = entry.get("held_out", config["training"].get("held_out")) if entry["stage"] == "grpo" else None
    is_split = named in config.get("data", {}).get("splits", {})
    return (f"data/splits/{named}.parquet" if is_split else named) or None


def split_sources(entry: Mapping[str, Any]) -> list[str]:
    """The sources of a given split's entry, which names one or a list of them."""
    return [entry["source"]] if isinstance(entry["source"], str) else entry["source"]


D_COLD = {"cold_start": "data/cold/d_cold.parquet", "cold_start.streaming": "data/cold/streaming/d_cold.parquet"}
"""The demonstrations that each section makes."""

DATA_OF_STAGE = {"sft": D_COLD["cold_start"], "grpo": "data/splits/rl.parquet"}
"""What the variants of a stage are trained on, unless they name their own data."""

JUDGE_PROMPTS = {"jud": "judge", "gen": "respond", "published": "judge"}
"""The prompt template of each kind of judge."""


def method_prompts(entry: Mapping[str, Any]) -> list[str]:
    """The prompt templates of a method, from its entry."""
    if entry["kind"] == "model":
        default = "preference" if entry["reasoning"] else "concise"
        return [entry.get("prompt", "update" if "streaming" in entry else default)]
    if "scores" in entry:
        return []
    return {"lminductreason": ["propose_rule", "refine_rule"], "pba": ["score_dimension"]}.get(entry["kind"], [])


def updates_descriptions(entry: Mapping[str, Any]) -> bool:
    """Whether a method reads each chunk with the description of those before."""
    return "streaming" in entry and entry["streaming"].get("carry", True)


def variant_prompts(config: Config, entry: Mapping[str, Any]) -> list[str]:
    """The prompt templates of a training variant, from its entry; with `update` if its data may be steps of streams.

    Splits that are drawn, and D_cold of the split `cold`, never are.
    """
    if not entry.get("reasoning", True):
        return ["concise"]
    data = entry.get("data", DATA_OF_STAGE[entry["stage"]])
    plain = [D_COLD["cold_start"], *(f"data/splits/{name}.parquet" for name in drawn_splits(config))]
    return ["preference"] if data in plain else ["preference", "update"]


def benchmark_origin(config: Config, name: str) -> Mapping[str, Any]:
    """The entry of the benchmark that `name` is made from, or its own if it is made from data."""
    return config["benchmarks"][origin_name(config, name)]


def origin_name(config: Config, name: str) -> str:
    """The benchmark that `name` is made from, or itself if it is made from data."""
    entry = config["benchmarks"][name]
    return next((entry[key] for key in DERIVED if key in entry), name)


def table_methods(config: Config, table: str) -> list[str]:
    """The methods that name a table, in the config's order; for validity, the first of each control's kind."""
    if config["tables"].get(table, {}).get("kind") == "validity":
        kinds = [entry["kind"] for entry in config["methods"].values()]
        return [list(config["methods"])[kinds.index(kind)] for kind in CONTROLS if kind in kinds]
    return [name for name, entry in config["methods"].items() if table in entry.get("tables", ())]


def judged_benchmarks(config: Config, judge: str, benchmarks: Iterable[str]) -> list[str]:
    """Those of the benchmarks that a judge is asked about: all, if its entry names none."""
    asked = config["judges"][judge].get("benchmarks", config["benchmarks"])
    return [name for name in benchmarks if name in asked]


def unpinned_models(config: Config) -> list[str]:
    """Names of the models that come from the hub without a pinned revision, so that they may change unseen."""
    bases = {
        name: adapters.source(entry["path"], entry.get("revision"))
        for name, entry in config["models"].items()
        if entry["engine"] in LOADING_ENGINES
    }
    return [
        name
        for name, found in bases.items()
        if found.revision is None and not found.base.startswith("models/") and not Path(found.base).is_dir()
    ]
