"""What tables, figures and the case study need: checks of the configuration."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from alignxplore.workflow.config import (
    CONTROLS,
    Config,
    completed,
    judged_benchmarks,
    origin_name,
    table_methods,
    variants,
)
from alignxplore.workflow.data_checks import may_have_streams
from alignxplore.workflow.schema import unknown_name


def online_errors(config: Config) -> Iterator[str]:
    """Yield an error for each benchmark that is in two groups of the online evaluation."""
    group_of: dict[str, str] = {}
    for group, benchmarks in config.get("online", {}).get("groups", {}).items():
        for benchmark in benchmarks:
            if group_of.setdefault(benchmark, group) != group:
                yield (
                    f"online.groups.{group}: {benchmark!r} is already in {group_of[benchmark]!r}; cases of a"
                    " group are drawn from its own benchmarks"
                )


def table_errors(config: Config) -> Iterator[str]:
    """Yield what tables lack: judges, benchmarks, methods and columns that fit together."""
    for name, entry in completed(config)["tables"].items():
        key, methods, kind = f"tables.{name}", table_methods(config, name), entry["kind"]
        if name == "case_study" or name in config.get("figures", {}):
            yield f"{key}: another result has this name; rename it"
        yield from _label_errors(key, methods, config)
        if kind == "benchmarks":
            if methods:
                yield f"methods.{methods[0]}.tables: {name!r} lists benchmarks, not methods"
            continue
        if kind == "validity":
            yield from _validity_errors(name, methods, completed(config))
            continue
        if len(methods) < (1 if kind in ("accuracy", "streaming") else 2):
            yield f"{key}: too few methods name it in their `tables`: {', '.join(methods) or 'none'}"
        if kind in ("win_rates", "strengths"):
            yield from _described_errors(
                key, methods, set().union(*config["online"]["groups"].values()), config, describing=True
            )
        elif kind == "accuracy":
            if "compare_with" in entry:
                yield from unknown_name(f"{key}.compare_with", entry["compare_with"], methods)
            for title, column in entry["columns"].items():
                yield from _judged_errors(f"{key}.columns.{title}", column["judge"], column["benchmarks"], config)
                yield from _described_errors(key, methods, column["benchmarks"], config)
                if "change_from" in column:
                    yield from _change_errors(f"{key}.columns.{title}.change_from", title, entry["columns"], config)
        else:
            for judge in entry["judges"]:
                yield from _judged_errors(key, judge, entry["benchmarks"], config)
            if kind == "streaming":
                yield from _stream_errors(f"{key}.benchmarks", entry["benchmarks"], config)
            # A method without descriptions judges cases itself, so no judge could be compared on it.
            yield from _described_errors(key, methods, entry["benchmarks"], config, describing=True)


def _validity_errors(name: str, methods: Sequence[str], config: Config) -> Iterator[str]:
    """Yield an error unless a table of validity finds a method of each kind, and each judge has something to judge."""
    entry, key = config["tables"][name], f"tables.{name}"
    for method, other in config["methods"].items():
        if name in other.get("tables", ()):
            yield f"methods.{method}.tables: {name!r} lists judges, not methods"
    for kind in sorted(set(CONTROLS) - {config["methods"][method]["kind"] for method in methods}):
        yield f"{key}: needs a method of kind {kind!r}"
    for judge in entry["judges"]:
        judged = judged_benchmarks(config, judge, entry["benchmarks"])
        if not judged:
            yield f"{key}.judges: {judge!r} judges none of the table's benchmarks"
        yield from _described_errors(key, methods, judged, config)


def _stream_errors(key: str, benchmarks: Sequence[str], config: Config) -> Iterator[str]:
    """Yield an error for each benchmark whose cases are no steps of streams."""
    for name in benchmarks:
        if not may_have_streams(config, name):
            yield f"{key}: the cases of {name!r} are no steps of streams; make a benchmark with streamed_of from it"


def _change_errors(key: str, title: str, columns: Config, config: Config) -> Iterator[str]:
    """Yield an error unless a change is counted from another column over the same cases."""
    old = columns[title]["change_from"]
    yield from unknown_name(key, old, [name for name in columns if name != title])
    cases = [{origin_name(config, benchmark) for benchmark in columns[name]["benchmarks"]} for name in (old, title)]
    if cases[0] != cases[1]:
        yield f"{key}: {old!r} has other cases: {', '.join(columns[old]['benchmarks'])}"


def figure_errors(config: Config) -> Iterator[str]:
    """Yield what figures lack: variants, methods and judges that have what they draw."""
    for name, entry in config.get("figures", {}).items():
        key = f"figures.{name}"
        if name == "case_study":
            yield f"{key}: another result has this name; rename it"
        methods = entry.get("methods", ())
        yield from _label_errors(f"{key}.methods", methods, config)
        if entry["kind"] == "training":
            for variant in entry["variants"]:
                if variants(config)[variant]["stage"] != "grpo":
                    yield f"{key}.variants: {variant!r} is not a GRPO variant"
        elif entry["kind"] == "words":
            yield from _described_errors(key, methods, [entry["benchmark"]], config, describing=True)
        else:
            for judge in entry["judges"]:
                yield from _judged_errors(key, judge, entry["benchmarks"], config)
                if entry["by"] == "confidence" and config["judges"][judge]["kind"] != "jud":
                    yield f"{key}.judges: {judge!r} has no confidence, as only judges of kind 'jud' have"
            if entry["by"] == "chunk":
                yield from _stream_errors(f"{key}.benchmarks", entry["benchmarks"], config)
            yield from _described_errors(key, methods, entry["benchmarks"], config)
            for method in methods:
                if entry["by"] == "length" and config["methods"][method]["kind"] != "model":
                    yield f"{key}.methods: {method!r} writes no completion, so it has no length"


def study_errors(config: Config) -> Iterator[str]:
    """Yield what the case study lacks: descriptions and judgements of its benchmark."""
    if study := config.get("case_study"):
        yield from _judged_errors("case_study", study["judge"], [study["benchmark"]], config)
        yield from _described_errors("case_study", study["methods"], [study["benchmark"]], config, describing=True)


def _label_errors(key: str, methods: Sequence[str], config: Config) -> Iterator[str]:
    """Yield an error unless no two rows or lines have the same label."""
    labels = [config["methods"][method]["label"] for method in methods]
    if twice := [label for label in labels if labels.count(label) > 1]:
        yield f"{key}: duplicate label {twice[0]!r}; labels must be unique"


def _judged_errors(key: str, judge: str, benchmarks: Iterable[str], config: Config) -> Iterator[str]:
    """Yield an error unless a judge is asked about these benchmarks."""
    for benchmark in benchmarks:
        asked = config["judges"][judge].get("benchmarks", config["benchmarks"])
        yield from unknown_name(f"judges.{judge}.benchmarks, needed by {key}", benchmark, asked)


def _described_errors(
    key: str, methods: Iterable[str], benchmarks: Iterable[str], config: Config, describing: bool = False
) -> Iterator[str]:
    """Yield an error unless methods cover these benchmarks, and describe preferences if that is needed."""
    for method in methods:
        if describing and config["methods"][method]["kind"] == "vpl":
            yield f"{key}: method {method!r} writes no descriptions; remove it"
        described = config["methods"][method].get("benchmarks", config["benchmarks"])
        for benchmark in benchmarks:
            yield from unknown_name(f"methods.{method}.benchmarks, needed by {key}", benchmark, described)


def published_errors(config: Config) -> Iterator[str]:
    """Yield an error unless each `paper` in the config names a row or column of the published figures."""
    path = config.get("published", "")
    if not Path(path).is_file():
        return
    try:
        with open(path, encoding="utf-8", newline="") as file:
            published = csv.DictReader(file)
            missing = {"table", "method", "column", "percent"} - set(published.fieldnames or ())
            if missing:
                yield f"published: {path}: missing column {', '.join(sorted(missing))}"
            figures = list(published)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        yield (f"published: {path}: {error}")
        return
    for name, entry in config["methods"].items():
        if "paper" in entry:
            yield from unknown_name(f"methods.{name}.paper", entry["paper"], {figure["method"] for figure in figures})
    for name, entry in config["tables"].items():
        for title, column in entry.get("columns", {}).items():
            if "paper" in column:
                columns = {figure["column"] for figure in figures if figure["table"] == name}
                yield from unknown_name(f"tables.{name}.columns.{title}.paper", column["paper"], columns)
