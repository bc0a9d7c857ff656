"""Checks of the configuration: its schema, its foreign keys, and what one entry needs of another."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignxplore.errors import UserError
from alignxplore.prompts import VARIABLES, check_template
from alignxplore.workflow.config import (
    D_COLD,
    JUDGE_PROMPTS,
    Config,
    benchmark_origin,
    drawn_splits,
    given_splits,
    method_prompts,
    updates_descriptions,
    variant_prompts,
    variants,
)
from alignxplore.workflow.config_paths import cycle_errors, model_errors, path_errors, values_at
from alignxplore.workflow.data_checks import benchmark_errors, form_errors, split_errors
from alignxplore.workflow.launcher import launch_errors
from alignxplore.workflow.model_checks import model_use_errors, precision_errors
from alignxplore.workflow.result_checks import (
    figure_errors,
    online_errors,
    published_errors,
    study_errors,
    table_errors,
)
from alignxplore.workflow.schema import document_errors, raise_all, unknown_name

REFERENCES = {
    "benchmarks.*.reverse_of": "benchmarks",
    "benchmarks.*.truncation_of": "benchmarks",
    "benchmarks.*.streamed_of": "benchmarks",
    "benchmarks.*.split": "data.splits",
    "benchmarks.*.psoups": "data.psoups",
    "data.splits.*.rest_of": "data.splits",
    "judges.*.model": "models",
    "judges.*.benchmarks": "benchmarks",
    "methods.*.model": "models",
    "methods.*.judge": "judges (jud)",
    "methods.*.benchmarks": "benchmarks",
    "methods.*.tables": "tables",
    "cold_start.teacher": "models",
    "cold_start.judge": "judges",
    "cold_start.prompt": "prompts (preference)",
    "cold_start.streaming.teacher": "models",
    "cold_start.streaming.prompt": "prompts (preference)",
    "cold_start.streaming.split": "data.splits",
    "methods.*.prompt": "prompts (preference)",
    "training.variants.*.from": "models",
    "training.variants.*.judge": "judges",
    "demo.models.*.base": "demo.models",
    "online.generator": "models",
    "online.judge": "judges (jud)",
    "online.groups.*": "benchmarks",
    "tables.*.benchmarks": "benchmarks",
    "tables.*.judges": "judges",
    "tables.*.columns.*.judge": "judges",
    "tables.*.columns.*.benchmarks": "benchmarks",
    "figures.*.variants": "training.variants",
    "figures.*.methods": "methods",
    "figures.*.judges": "judges",
    "figures.*.benchmarks": "benchmarks",
    "figures.*.benchmark": "benchmarks",
    "case_study.methods": "methods",
    "case_study.judge": "judges",
    "case_study.benchmark": "benchmarks",
}
"""Foreign keys: the path of a name (or a list of names), and the section that must have it. "judges (jud)" are the
judges that select a response (R_jud), and "prompts (preference)" the templates that ask for a description."""


def check_config(config: Config, schema_file: Path) -> None:
    """Raise a UserError that lists the mistakes of a resolved configuration, if there are any."""
    errors = list(document_errors(config, schema_file))
    for check in (
        _reference_errors,
        _section_errors,
        split_errors,
        benchmark_errors,
        form_errors,
        model_use_errors,
        online_errors,
        table_errors,
        figure_errors,
        study_errors,
        published_errors,
        launch_errors,
        precision_errors,
        model_errors,
        path_errors,
        _template_errors,
        cycle_errors,
    ):
        try:
            for error in check(config):
                errors.append(error)
        except (KeyError, TypeError, AttributeError, ValueError, StopIteration):
            # Later checks rely on what earlier ones found wrong.
            if not errors:
                raise
    raise_all("config", errors)


def _reference_errors(config: Config) -> Iterator[str]:
    for path, section in REFERENCES.items():
        for key, name in values_at(config, [path]):
            yield from unknown_name(key, name, _names(config, section))
        for key, name in values_at(config, [f"{path}.*"]):
            yield from unknown_name(key.rpartition(".")[0], name, _names(config, section))


def _section_errors(config: Config) -> Iterator[str]:
    """Yield the keys that an entry needs and that are not there; what nothing uses may be left out."""
    for entry, keys in _needs(config):
        for key in keys:
            found: Any = config
            for part in key.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
            if found is None:
                yield f"{entry} needs the key '{key}'"


def _needs(config: Config) -> Iterator[tuple[str, list[str]]]:
    """Entries of the configuration with the keys elsewhere that they need."""
    for name, entry in config["benchmarks"].items():
        split = benchmark_origin(config, name).get("split")
        is_worded = "drift" in entry or not {"truncation_of", "streamed_of"} & entry.keys()
        if split in drawn_splits(config) and is_worded or split and "drift" in entry:
            yield f"benchmarks.{name}", ["data.wording"]
    for name, entry in config["judges"].items():
        yield f"judges.{name}", [f"prompts.{JUDGE_PROMPTS[entry['kind']]}"]
    for name, entry in config["methods"].items():
        keys = [f"prompts.{prompt}" for prompt in method_prompts(entry) if prompt != entry.get("prompt")]
        if entry["kind"] in ("model", "lminductreason") and "sampling" not in entry:
            keys.append("evaluation")
        splits = {benchmark_origin(config, n).get("split") for n in entry.get("benchmarks", config["benchmarks"])}
        worded = {*drawn_splits(config), *(n for n, s in given_splits(config).items() if s.get("form") == "alignx")}
        if entry["kind"] == "pba" or (entry["kind"] in ("golden", "opposite", "shuffled") and splits & worded):
            keys.append("data.wording")
        if entry["kind"] == "vpl":
            keys += ["vpl", "data.splits.rl"]
        yield f"methods.{name}", keys
    for name, entry in variants(config).items():
        stage = entry["stage"]
        keys = [*(f"prompts.{name}" for name in variant_prompts(config, entry)), f"training.{stage}"]
        if "data" not in entry:
            keys.append({"sft": "cold_start", "grpo": "data.splits.rl"}[stage])
        elif entry["data"] == D_COLD["cold_start.streaming"]:
            keys.append("cold_start.streaming")
        yield f"training.variants.{name}", keys
    if "cold_start" in config:
        yield "cold_start", ["data.splits.cold", *([] if "prompt" in config["cold_start"] else ["prompts.preference"])]
        if "prompt" not in config["cold_start"].get("streaming", {"prompt": ""}):
            yield "cold_start.streaming", ["prompts.update"]
    if "online" in config:
        yield "online", ["prompts.respond"]
    for name in drawn_splits(config):
        yield f"data.splits.{name}", ["data.alignx.sources"]
    if "demo" in config:
        yield "demo", ["prompts.preference", "prompts.concise", "prompts.judge", "prompts.respond"]
        for name, entry in config["demo"]["models"].items():
            if entry["role"] == "updater":
                yield f"demo.models.{name}", ["prompts.update"]
    for name, entry in config["tables"].items():
        if any("paper" in column for column in entry.get("columns", {}).values()):
            yield f"tables.{name}", ["published"]
        if entry["kind"] in ("win_rates", "strengths"):
            yield f"tables.{name}", ["online"]


def _template_errors(config: Config) -> Iterator[str]:
    """Yield templates that cannot be rendered, without those that do not exist."""
    own = ["methods.*.prompt", "cold_start.prompt", "cold_start.streaming.prompt"]
    used = {name for _, name in values_at(config, own)}
    updates = {
        prompt
        for entry in config["methods"].values()
        if updates_descriptions(entry)
        for prompt in method_prompts(entry)
    }
    updates |= {prompt for entry in variants(config).values() for prompt in variant_prompts(config, entry)} & {"update"}
    if "streaming" in config.get("cold_start", {}):
        updates.add(config["cold_start"]["streaming"].get("prompt", "update"))
    for name, path in config.get("prompts", {}).items():
        if Path(path).is_file():
            try:
                check_template(name, path, name in updates)
            except UserError as error:
                yield f"prompts.{name}: {error}"
        # A template of another name is for entries with `prompt`; if none has it, the name may be a mistake.
        if name not in VARIABLES and name not in used and difflib.get_close_matches(name, VARIABLES, 1, 0.8):
            yield from unknown_name(f"prompts.{name}", name, VARIABLES)
    for name, entry in config["models"].items():
        path = entry.get("chat_template")
        if isinstance(path, str) and Path(path).is_file():
            from alignxplore.engines.tokens import check_chat_template  # transformers, which takes seconds to import

            try:
                check_chat_template(path)
            except UserError as error:
                yield f"models.{name}: {error}"


def _names(config: Config, section: str) -> Iterable[str]:
    if section == "judges (jud)":
        return [name for name, entry in config["judges"].items() if entry["kind"] == "jud"]
    if section == "prompts (preference)":
        return [
            name
            for name in config.get("prompts", {})
            if name in ("preference", "concise", "update") or name not in VARIABLES
        ]
    found = config
    for key in section.split("."):
        found = found.get(key, {})
    return found
