"""Checks on the configuration: its schema, and what a schema cannot say."""

import csv
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from alignxplore.errors import UserError

DERIVED = ("reverse_of", "truncation_of")
"""Keys under which a benchmark names the one that it is made from."""

SEQUENCES = ("benchmarks", "figures", "gguf", "groups", "judges", "methods", "models", "psoups", "splits", "tables")
"""Keys of mappings whose order is shown or means something."""


def ordered(value: Any, key: str = "") -> Any:
    """A configuration in which equal settings stand in equal order, as whoever compares them in print needs it."""
    if isinstance(value, Mapping):
        names = value if key in SEQUENCES else sorted(value, key=str)
        return {name: ordered(value[name], name) for name in names}
    return [ordered(item) for item in value] if isinstance(value, list) else value


def benchmark_origin(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The entry of the benchmark that `name` is made from, or its own where it is made from data."""
    return config["benchmarks"][origin_name(config, name)]


def origin_name(config: Mapping[str, Any], name: str) -> str:
    """The benchmark that `name` is made from, or itself where it is made from data."""
    entry = config["benchmarks"][name]
    return next((entry[key] for key in DERIVED if key in entry), name)


def check_config(config: Mapping[str, Any], schema_file: Path) -> None:
    """Raise a UserError that names the first offending key, if there is one; no file but models is looked at."""
    check_document(dict(config), schema_file, "config")
    for name, entry in config["benchmarks"].items():
        for key in DERIVED:
            if key in entry:
                _known(f"benchmarks.{name}.{key}", entry[key], config["benchmarks"])
                if "source" not in config["benchmarks"][entry[key]]:
                    raise UserError(f"config: benchmarks.{name}.{key}: {entry[key]!r} is itself made from another")
        if "source" not in entry:
            continue
        if entry["source"] == "alignx":
            _known(f"benchmarks.{name}.split", entry["split"], config["data"]["splits"])
        else:
            _known(f"benchmarks.{name}.dimension", entry["dimension"], config["data"]["psoups"])
    for table in ("methods", "judges"):
        for name, entry in config[table].items():
            if "model" in entry:
                _known(f"{table}.{name}.model", entry["model"], config["models"])
            if "judge" in entry:
                _known(f"{table}.{name}.judge", entry["judge"], _selecting(config["judges"]))
            for benchmark in entry.get("benchmarks", ()):
                _known(f"{table}.{name}.benchmarks", benchmark, config["benchmarks"])
    _check_baselines(config)
    for name, entry in config["judges"].items():
        if entry["kind"] == "jud" and "sampling" not in entry:
            _tells_logprobs(f"judges.{name}", entry["model"], config, "give it sampling, so that it writes its answer")
    for name, entry in config["methods"].items():
        if entry["kind"] == "pba":
            _tells_logprobs(f"methods.{name}", entry["model"], config, "choose another model")
    _known("cold_start.teacher", config["cold_start"]["teacher"], config["models"])
    _known("cold_start.judge", config["cold_start"]["judge"], config["judges"])
    _check_results(config)
    made = {f"models/demo/{name}" for name in config.get("demo", {}).get("models", {})}
    made |= {f"models/gguf/{name}" for name in config.get("gguf", {})}
    for name, entry in config["training"]["variants"].items():
        _known(f"training.variants.{name}.from", entry["from"], config["models"])
        if "chat_template" in config["models"][entry["from"]]:
            raise UserError(
                f"config: training.variants.{name}.from: training applies no chat_template options, which"
                f" models.{entry['from']} has"
            )
        if "judge" in entry:
            _known(f"training.variants.{name}.judge", entry["judge"], config["judges"])
    made |= {f"models/trained/{name}" for name in config["training"]["variants"]}
    for name, entry in config["models"].items():
        path = entry["path"]
        if path.startswith(("models/", "/", "./", "../")) and path not in made and not Path(path).is_dir():
            raise UserError(f"config: models.{name}.path: there is no directory {path!r}, and no rule makes it")
    for name, entry in config.get("demo", {}).get("models", {}).items():
        if "base" in entry:
            _known(f"demo.models.{name}.base", entry["base"], config["demo"]["models"])


def check_published(config: Mapping[str, Any]) -> None:
    """Raise a UserError that names the first name under `paper` which is none of the published figures, if any is."""
    path = config["published"]
    try:
        with open(path, encoding="utf-8", newline="") as file:
            published = csv.DictReader(file)
            missing = {"table", "method", "column", "percent"} - set(published.fieldnames or ())
            if missing:
                raise UserError(f"config: published: {path}: has no column {', '.join(sorted(missing))}")
            rows = list(published)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"config: published: {path}: {error}") from None
    for name, entry in config["methods"].items():
        if "paper" in entry:
            _known(f"methods.{name}.paper", entry["paper"], {row["method"] for row in rows})
    for name, entry in config["tables"].items():
        for place, column in enumerate(entry.get("columns", ())):
            if "paper" in column:
                columns = {row["column"] for row in rows if row["table"] == name}
                _known(f"tables.{name}.columns.{place}.paper", column["paper"], columns)


def check_document(document: Any, schema_file: Path, name: str, part: Sequence[str] = ()) -> None:
    """Raise a UserError that names the first key of `document` that is not as the schema says, if there is one.

    `part` is the way to the schema of a part, for a document that is no more than that.
    """
    schema = yaml.safe_load(schema_file.read_text(encoding="utf-8"))
    definitions = schema.get("$defs", {})
    for key in part:
        schema = schema[key]
    schema = {"$defs": definitions, **schema}
    validator = jsonschema.Draft202012Validator(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        raise UserError(f"{name}: {_describe(error, document, schema)}")


def known(key: str, value: str, names: Iterable[str]) -> None:
    """Raise a UserError that says which name may be meant, if `value` is none of `names`."""
    names = list(names)
    if value not in names:
        close = difflib.get_close_matches(value, names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"
        raise UserError(f"{key}: no such name {value!r}{hint}")


def _check_baselines(config: Mapping[str, Any]) -> None:
    for name, entry in config["methods"].items():
        if entry["kind"] in ("vpl", "lminductreason"):
            for benchmark in entry.get("benchmarks", config["benchmarks"]):
                if benchmark_origin(config, benchmark).get("split", "").endswith("_ugc"):
                    raise UserError(f"config: methods.{name}.benchmarks: {benchmark!r} has no pairs to infer from")
        if entry["kind"] != "vpl":
            continue
        if "vpl" not in config:
            raise UserError(f"config: methods.{name}: kind 'vpl' needs the key 'vpl'")
        if name in config["training"]["variants"]:
            raise UserError(f"config: methods.{name}: models/trained/{name} is that of training.variants.{name}")
        if config["models"][entry["model"]]["engine"] != "transformers":
            raise UserError(f"config: methods.{name}.model: {entry['model']!r} needs the engine 'transformers'")


def _tells_logprobs(key: str, model: str, config: Mapping[str, Any], advice: str) -> None:
    if config["models"][model].get("logprobs") is False:
        raise UserError(f"config: {key}.model: {model!r} tells no log-probabilities, which are read here: {advice}")


def _check_results(config: Mapping[str, Any]) -> None:
    online = config.get("online")
    if online:
        _known("online.generator", online["generator"], config["models"])
        _known("online.judge", online["judge"], _selecting(config["judges"]))
        group_of: dict[str, str] = {}
        for group, benchmarks in online["groups"].items():
            for benchmark in benchmarks:
                _known(f"online.groups.{group}", benchmark, config["benchmarks"])
                if group_of.setdefault(benchmark, group) != group:
                    raise UserError(
                        f"config: online.groups.{group}: {benchmark!r} is in {group_of[benchmark]!r} already, and a"
                        " group's cases are drawn at random from its own benchmarks"
                    )
    for name in [*config["tables"], *config["figures"]]:
        if name == "case_study" or (name in config["tables"] and name in config["figures"]):
            raise UserError(f"config: figures.{name}: there is another result of this name; choose one of its own")
    for name, entry in config["tables"].items():
        key = f"tables.{name}"
        rows = [config["methods"].get(method, {}) for method in entry.get("methods", ())]
        _distinct(f"{key}.methods: label", [row.get("label") for row in rows])
        _distinct(f"{key}.columns: name", [column["name"] for column in entry.get("columns", ())])
        if entry["kind"] in ("win_rates", "strengths"):
            if not online:
                raise UserError(f"config: {key}: comparisons of responses need the key 'online'")
            _check_methods(key, entry["methods"], online["groups"].values(), config, describing=True)
        elif entry["kind"] == "accuracy":
            columns = {column["name"]: column for column in entry["columns"]}
            for place, column in enumerate(entry["columns"]):
                _check_judged(f"{key}.columns.{place}", column["judge"], column["benchmarks"], config)
                _check_methods(key, entry["methods"], [column["benchmarks"]], config)
                if "change_from" in column:
                    changed = f"{key}.columns.{place}.change_from"
                    _known(changed, column["change_from"], [name for name in columns if name != column["name"]])
                    _check_change(changed, columns[column["change_from"]], column, config)
        elif entry["kind"] == "judges":
            for judge in entry["judges"]:
                _check_judged(key, judge, entry["benchmarks"], config)
            # The verdicts of one that describes nothing are its own, whoever judges.
            _check_methods(key, entry["methods"], [entry["benchmarks"]], config, describing=True)
        for benchmark in entry.get("benchmarks", ()):
            _known(f"{key}.benchmarks", benchmark, config["benchmarks"])
    if study := config.get("case_study"):
        _check_judged("case_study", study["judge"], [study["benchmark"]], config)
        _check_methods("case_study", study["methods"], [[study["benchmark"]]], config, describing=True)
    for name, entry in config["figures"].items():
        key = f"figures.{name}"
        labels = [config["methods"].get(method, {}).get("label") for method in entry.get("methods", ())]
        _distinct(f"{key}.methods: label", labels)
        if entry["kind"] == "training":
            variants = config["training"]["variants"]
            for variant in entry["variants"]:
                _known(f"{key}.variants", variant, variants)
                if variants[variant]["stage"] != "grpo":
                    raise UserError(f"config: {key}.variants: {variant!r} is no reinforcement learning")
        elif entry["kind"] == "words":
            _known(f"{key}.benchmark", entry["benchmark"], config["benchmarks"])
            _check_methods(key, entry["methods"], [[entry["benchmark"]]], config, describing=True)
        else:
            for judge in entry["judges"]:
                _check_judged(key, judge, entry["benchmarks"], config)
                if entry["by"] == "confidence":
                    _known(f"{key}.judges", judge, _selecting(config["judges"]))
            _check_methods(key, entry["methods"], [entry["benchmarks"]], config)
            for method in entry["methods"]:
                if entry["by"] == "length" and config["methods"][method]["kind"] != "model":
                    raise UserError(f"config: {key}.methods: {method!r} writes no completion that has a length")


def _distinct(key: str, names: Sequence[str | None]) -> None:
    """That no two rows, columns or lines have one name."""
    twice = [name for name in names if name is not None and names.count(name) > 1]
    if twice:
        raise UserError(f"config: {key} {twice[0]!r} is there twice: they are told apart by it")


def _check_change(key: str, old: Mapping[str, Any], new: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """That two columns of a table are of the same cases."""
    if len({frozenset(origin_name(config, name) for name in column["benchmarks"]) for column in (old, new)}) > 1:
        raise UserError(f"config: {key}: {old['name']!r} has other cases: {', '.join(old['benchmarks'])}")


def _check_judged(key: str, judge: str, benchmarks: Iterable[str], config: Mapping[str, Any]) -> None:
    """That there is such a judge, and that it is asked about these benchmarks."""
    _known(f"{key}.judge", judge, config["judges"])
    for benchmark in benchmarks:
        _known(f"{key}.benchmarks", benchmark, config["judges"][judge].get("benchmarks", config["benchmarks"]))


def _check_methods(
    key: str,
    methods: Iterable[str],
    groups: Iterable[Iterable[str]],
    config: Mapping[str, Any],
    describing: bool = False,
) -> None:
    """That there are such methods with these benchmarks, which describe preferences where that is needed."""
    for method in methods:
        _known(f"{key}.methods", method, config["methods"])
        if describing:
            _describes(f"{key}.methods", method, config)
        described = config["methods"][method].get("benchmarks", config["benchmarks"])
        for benchmark in (benchmark for group in groups for benchmark in group):
            _known(f"methods.{method}.benchmarks, which {key} needs", benchmark, described)


def _describes(key: str, method: str, config: Mapping[str, Any]) -> None:
    if config["methods"][method]["kind"] == "vpl":
        raise UserError(f"config: {key}: {method!r} describes no preferences; leave it out")


def _selecting(judges: Mapping[str, Any]) -> list[str]:
    """The judges that select a response."""
    return [name for name, entry in judges.items() if entry["kind"] == "jud"]


def _known(key: str, value: str, names: Iterable[str]) -> None:
    known(f"config: {key}", value, names)


def _describe(error: jsonschema.ValidationError, document: Any, schema: Any) -> str:
    path = ".".join(str(part) for part in error.absolute_path)
    if error.validator is None:  # `false` in the schema; which of the keys it is said of, the error does not tell
        for key in error.absolute_schema_path:
            schema = schema[key]
        for key in error.absolute_path:
            document = document[key]
        refused = next(key for key in document if schema.get(key) is False)
        return f"{path + '.' if path else ''}{refused}: not for an entry of this kind"
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = sorted(set(error.instance) - set(known))[0]
        key = f"{path}.{unknown}" if path else unknown
        close = difflib.get_close_matches(unknown, known, 1)
        return f"{key}: unknown key" + (f"; did you mean {close[0]!r}?" if close else "")
    return f"{path or 'top level'}: {error.message}"
