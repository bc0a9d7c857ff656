"""Checks of the configuration: its schema, its foreign keys, and what one entry needs of another."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alignxplore.errors import UserError
from alignxplore.workflow.config import (
    CONTROLS,
    DERIVED,
    Config,
    benchmark_origin,
    judged_benchmarks,
    origin_name,
    table_methods,
)
from alignxplore.workflow.config_paths import check_cycles, check_launch, check_paths
from alignxplore.workflow.schema import check_document, known

REFERENCES = {
    "benchmarks.*.reverse_of": "benchmarks",
    "benchmarks.*.truncation_of": "benchmarks",
    "benchmarks.*.split": "data.splits",
    "benchmarks.*.dimension": "data.psoups",
    "judges.*.model": "models",
    "judges.*.benchmarks": "benchmarks",
    "methods.*.model": "models",
    "methods.*.judge": "judges (jud)",
    "methods.*.benchmarks": "benchmarks",
    "methods.*.tables": "tables",
    "cold_start.teacher": "models",
    "cold_start.judge": "judges",
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
judges that select a response (R_jud)."""


def check_config(config: Config, schema_file: Path) -> None:
    """Raise a UserError that names the first offending key, if there is one."""
    check_document(config, schema_file, "config")
    for path, section in REFERENCES.items():
        for key, name in _values(config, path.split(".")):
            _known(key, name, _names(config, section))
    _check_benchmarks(config)
    _check_models(config)
    _check_online(config)
    _check_tables(config)
    _check_figures(config)
    if study := config.get("case_study"):
        _check_judged("case_study", study["judge"], [study["benchmark"]], config)
        _check_methods("case_study", study["methods"], [study["benchmark"]], config, describing=True)
    check_launch(config["training"]["launch"])
    check_paths(config)
    check_cycles(config)
    _check_published(config)


def _known(key: str, value: str, names: Iterable[str]) -> None:
    known(f"config: {key}", value, names)


def _values(value: Any, path: Sequence[str], key: str = "") -> Iterator[tuple[str, str]]:
    """The values at a path in which * is any name, each with its key; a list gives each of its items."""
    if not path:
        for item in value if isinstance(value, list) else [value]:
            yield key, item
        return
    names = value if path[0] == "*" else [path[0]]
    for name in names:
        if name in value:
            yield from _values(value[name], path[1:], f"{key}.{name}".removeprefix("."))


def _names(config: Config, section: str) -> Iterable[str]:
    if section == "judges (jud)":
        return [name for name, entry in config["judges"].items() if entry["kind"] == "jud"]
    found = config
    for key in section.split("."):
        found = found.get(key, {})
    return found


def _has_comments(config: Config, benchmark: str) -> bool:
    """Whether a benchmark's signals are comments instead of pairs."""
    return benchmark_origin(config, benchmark).get("split", "").endswith("_ugc")


def _check_benchmarks(config: Config) -> None:
    """Check that benchmarks can be reversed and truncated, as far as the configuration shows."""
    history = config["data"]["refine"]["history"]
    for name, entry in config["benchmarks"].items():
        key, origin = f"config: benchmarks.{name}", benchmark_origin(config, name)
        if "source" not in origin:
            derived = next(k for k in DERIVED if k in entry)
            raise UserError(f"{key}.{derived}: {entry[derived]!r} is itself made from another benchmark")
        if "reverse_of" in entry and _has_comments(config, name):
            raise UserError(
                f"{key}.reverse_of: {entry['reverse_of']!r} has comments, which cannot be reversed: they have no"
                " rejected text"
            )
        # Published P-SOUPS cases bring their own signals, however many.
        if "truncation_of" in entry and origin["source"] == "alignx" and entry["signals"] >= history:
            raise UserError(
                f"{key}.signals: must be fewer than the {history} of every case (data.refine.history), not"
                f" {entry['signals']}"
            )


def _check_models(config: Config) -> None:
    """Check that each judge, method and variant gets what it needs from its model."""
    models = config["models"]
    for name, entry in config["judges"].items():
        if entry["kind"] == "jud" and "sampling" not in entry:
            _gives_logprobs(f"judges.{name}", entry["model"], config, "give it sampling, so that it writes its answer")
    for name, entry in config["methods"].items():
        key = f"config: methods.{name}"
        if entry["kind"] == "pba":
            _gives_logprobs(f"methods.{name}", entry["model"], config, "choose another model")
        if entry["kind"] in ("vpl", "lminductreason"):
            for benchmark in entry.get("benchmarks", config["benchmarks"]):
                if _has_comments(config, benchmark):
                    raise UserError(f"{key}.benchmarks: {benchmark!r} has no pairs to infer from")
        if entry["kind"] == "vpl":
            if "vpl" not in config:
                raise UserError(f"{key}: kind 'vpl' needs the key 'vpl'")
            if name in config["training"]["variants"]:
                raise UserError(f"{key}: training.variants.{name} already makes models/trained/{name}; rename one")
            if models[entry["model"]]["engine"] != "transformers":
                raise UserError(f"{key}.model: {entry['model']!r} needs the engine 'transformers'")
    for name, entry in config["training"]["variants"].items():
        key, start = f"config: training.variants.{name}.from", models[entry["from"]]
        for ignored in start.keys() & {"chat_template", "today", "thoughts"}:
            raise UserError(f"{key}: training ignores {ignored}, which models.{entry['from']} has")
        if start["engine"] == "openai":
            raise UserError(
                f"{key}: {entry['from']!r} is served (engine 'openai') and cannot be trained; name a model whose"
                " weights you have"
            )


def _gives_logprobs(key: str, model: str, config: Config, advice: str) -> None:
    if config["models"][model].get("logprobs") is False:
        raise UserError(f"config: {key}.model: {model!r} gives no log-probabilities, which this needs: {advice}")


def _check_online(config: Config) -> None:
    group_of: dict[str, str] = {}
    for group, benchmarks in config.get("online", {}).get("groups", {}).items():
        for benchmark in benchmarks:
            if group_of.setdefault(benchmark, group) != group:
                raise UserError(
                    f"config: online.groups.{group}: {benchmark!r} is already in {group_of[benchmark]!r}; cases of a"
                    " group are drawn from its own benchmarks"
                )


def _check_tables(config: Config) -> None:
    for name, entry in config["tables"].items():
        key, methods, kind = f"tables.{name}", table_methods(config, name), entry["kind"]
        if name == "case_study" or name in config["figures"]:
            raise UserError(f"config: {key}: another result has this name; rename it")
        _distinct(key, methods, config)
        if kind == "benchmarks":
            if methods:
                raise UserError(f"config: methods.{methods[0]}.tables: {name!r} lists benchmarks, not methods")
            continue
        if kind == "validity":
            _check_validity(name, methods, config)
            continue
        if len(methods) < (1 if kind == "accuracy" else 2):
            raise UserError(f"config: {key}: too few methods name it in their `tables`: {', '.join(methods) or 'none'}")
        if kind in ("win_rates", "strengths"):
            if "online" not in config:
                raise UserError(f"config: {key}: comparisons of responses need the key 'online'")
            _check_methods(key, methods, set().union(*config["online"]["groups"].values()), config, describing=True)
        elif kind == "accuracy":
            if "compare_with" in entry:
                _known(f"{key}.compare_with", entry["compare_with"], methods)
            for title, column in entry["columns"].items():
                _check_judged(f"{key}.columns.{title}", column["judge"], column["benchmarks"], config)
                _check_methods(key, methods, column["benchmarks"], config)
                if "change_from" in column:
                    _check_change(f"{key}.columns.{title}.change_from", title, entry["columns"], config)
        else:
            for judge in entry["judges"]:
                _check_judged(key, judge, entry["benchmarks"], config)
            # A method without descriptions judges cases itself, so no judge could be compared on it.
            _check_methods(key, methods, entry["benchmarks"], config, describing=True)


def _check_validity(name: str, methods: Sequence[str], config: Config) -> None:
    """Check that a table of validity finds a method of each kind, and that every judge has something to judge."""
    entry, key = config["tables"][name], f"tables.{name}"
    for method, other in config["methods"].items():
        if name in other.get("tables", ()):
            raise UserError(f"config: methods.{method}.tables: {name!r} lists judges, not methods")
    if missing := sorted(set(CONTROLS) - {config["methods"][method]["kind"] for method in methods}):
        raise UserError(f"config: {key}: needs a method of kind {missing[0]!r}")
    for judge in entry["judges"]:
        judged = judged_benchmarks(config, judge, entry["benchmarks"])
        if not judged:
            raise UserError(f"config: {key}.judges: {judge!r} judges none of the table's benchmarks")
        _check_methods(key, methods, judged, config)


def _check_change(key: str, title: str, columns: Config, config: Config) -> None:
    """Check that a change is counted from another column over the same cases."""
    old = columns[title]["change_from"]
    _known(key, old, [name for name in columns if name != title])
    cases = [{origin_name(config, benchmark) for benchmark in columns[name]["benchmarks"]} for name in (old, title)]
    if cases[0] != cases[1]:
        raise UserError(f"config: {key}: {old!r} has other cases: {', '.join(columns[old]['benchmarks'])}")


def _check_figures(config: Config) -> None:
    for name, entry in config["figures"].items():
        key = f"figures.{name}"
        if name == "case_study":
            raise UserError(f"config: {key}: another result has this name; rename it")
        methods = entry.get("methods", ())
        _distinct(f"{key}.methods", methods, config)
        if entry["kind"] == "training":
            for variant in entry["variants"]:
                if config["training"]["variants"][variant]["stage"] != "grpo":
                    raise UserError(f"config: {key}.variants: {variant!r} is not a GRPO variant")
        elif entry["kind"] == "words":
            _check_methods(key, methods, [entry["benchmark"]], config, describing=True)
        else:
            for judge in entry["judges"]:
                _check_judged(key, judge, entry["benchmarks"], config)
                if entry["by"] == "confidence":
                    _known(f"{key}.judges", judge, _names(config, "judges (jud)"))
            _check_methods(key, methods, entry["benchmarks"], config)
            for method in methods:
                if entry["by"] == "length" and config["methods"][method]["kind"] != "model":
                    raise UserError(f"config: {key}.methods: {method!r} writes no completion, so it has no length")


def _distinct(key: str, methods: Sequence[str], config: Config) -> None:
    """Check that no two rows or lines have the same label."""
    labels = [config["methods"][method]["label"] for method in methods]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(f"config: {key}: duplicate label {twice[0]!r}; labels must be unique")


def _check_judged(key: str, judge: str, benchmarks: Iterable[str], config: Config) -> None:
    """Check that a judge is asked about these benchmarks."""
    for benchmark in benchmarks:
        asked = config["judges"][judge].get("benchmarks", config["benchmarks"])
        _known(f"judges.{judge}.benchmarks, needed by {key}", benchmark, asked)


def _check_methods(
    key: str, methods: Iterable[str], benchmarks: Iterable[str], config: Config, describing: bool = False
) -> None:
    """Check that methods cover these benchmarks, and describe preferences if that is needed."""
    for method in methods:
        if describing and config["methods"][method]["kind"] == "vpl":
            raise UserError(f"config: {key}: method {method!r} writes no descriptions; remove it")
        described = config["methods"][method].get("benchmarks", config["benchmarks"])
        for benchmark in benchmarks:
            _known(f"methods.{method}.benchmarks, needed by {key}", benchmark, described)


def _check_published(config: Config) -> None:
    """Check that each `paper` in the config names a row or column of the published figures."""
    path = config["published"]
    try:
        with open(path, encoding="utf-8", newline="") as file:
            published = csv.DictReader(file)
            missing = {"table", "method", "column", "percent"} - set(published.fieldnames or ())
            if missing:
                raise UserError(f"config: published: {path}: missing column {', '.join(sorted(missing))}")
            figures = list(published)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"config: published: {path}: {error}") from None
    for name, entry in config["methods"].items():
        if "paper" in entry:
            _known(f"methods.{name}.paper", entry["paper"], {figure["method"] for figure in figures})
    for name, entry in config["tables"].items():
        for title, column in entry.get("columns", {}).items():
            if "paper" in column:
                columns = {figure["column"] for figure in figures if figure["table"] == name}
                _known(f"tables.{name}.columns.{title}.paper", column["paper"], columns)
