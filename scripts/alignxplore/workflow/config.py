"""The configuration: what its files say together, and checks of its schema and of what a schema cannot say."""

import csv
import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from alignxplore.errors import UserError
from alignxplore.workflow.config_paths import check_cycles, check_launch, check_paths

Config = Mapping[str, Any]

DERIVED = ("reverse_of", "truncation_of")
"""Keys under which a benchmark names the one that it is made from."""

ORDERED = (
    "benchmarks", "columns", "figures", "gguf", "groups", "judges", "methods", "models", "psoups", "splits", "tables",
)  # fmt: skip
"""Keys of mappings whose order is shown, or means something: a user in several splits belongs to the last."""

VERBATIM = ("chat_template", "grpo", "request", "settings", "sft")
"""Keys of mappings that we pass on, in which null is a value."""

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
"""Foreign keys: where a name (or a list of names) stands, and the section that must have it. "judges (jud)" are the
judges that select a response (R_jud)."""

MAY_BE_SECRET = {
    "base_url": "must be an address such as https://HOST/v1, without user, password or query: a key belongs in the"
    " environment variable that key_env names",
    "key_env": "must be the name of an environment variable, of letters, digits and '_': the key itself belongs in"
    " that variable",
}
"""The message on a wrong value of these keys, which does not repeat the value."""


def resolved(config: Config) -> dict[str, Any]:
    """The merged configuration without the entries that are null, and with equal settings in equal order.

    Null removes what a file below says. Keys are sorted, so that the order in which settings are written reruns
    nothing, except those of ORDERED mappings.
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


def benchmark_origin(config: Config, name: str) -> Mapping[str, Any]:
    """The entry of the benchmark that `name` is made from, or its own if it is made from data."""
    return config["benchmarks"][origin_name(config, name)]


def origin_name(config: Config, name: str) -> str:
    """The benchmark that `name` is made from, or itself if it is made from data."""
    entry = config["benchmarks"][name]
    return next((entry[key] for key in DERIVED if key in entry), name)


def rows(config: Config, table: str) -> list[str]:
    """The methods that name a table, in the order of the config's methods."""
    return [name for name, entry in config["methods"].items() if table in entry.get("tables", ())]


def unpinned_models(config: Config) -> list[str]:
    """Names of the models that come from the hub without a pinned revision, so that they may change unseen."""
    return [
        name
        for name, entry in config["models"].items()
        if entry["engine"] in ("transformers", "vllm")
        and "revision" not in entry
        and not entry["path"].startswith("models/")
        and not Path(entry["path"]).is_dir()
    ]


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


def check_document(document: Any, schema_file: Path, name: str, part: Sequence[str] = ()) -> None:
    """Raise a UserError that names the first key of `document` that breaks the schema, if there is one.

    `part` is the way to the schema of a part, for a document that is no more than that.
    """
    _check_plain(document, name, [])
    schema = yaml.safe_load(schema_file.read_text(encoding="utf-8"))
    definitions = schema.get("$defs", {})
    for key in part:
        schema = schema[key]
    validator = jsonschema.Draft202012Validator({"$defs": definitions, **schema})
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        raise UserError(f"{name}: {_describe(error)}")


def known(key: str, value: str, names: Iterable[str]) -> None:
    """Raise a UserError that suggests a name, if `value` is not among `names`."""
    names = list(names)
    if value not in names:
        close = difflib.get_close_matches(value, names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"
        raise UserError(f"{key}: no such name {value!r}{hint}")


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


def _check_plain(value: Any, name: str, path: list[str]) -> None:
    """Check that keys are text and numbers finite, which a schema cannot ask."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise UserError(f"{name}: {_no_text('.'.join(path), key)}")
            _check_plain(part, name, [*path, key])
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            _check_plain(part, name, [*path, str(place)])
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}: {'.'.join(path)}: must be a finite number, not {value}")


def _no_text(path: str, value: Any) -> str:
    """The message on a plain value where text is expected, as YAML reads it."""
    written = json.dumps(value) if value is None or isinstance(value, bool | int | float) else str(value)
    return f"{path or 'top level'}: {written} is not of type 'string': write it in quotes"


def _describe(error: jsonschema.ValidationError) -> str:
    path = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = sorted(set(error.instance) - set(known))[0]
        key = f"{path}.{unknown}" if path else unknown
        close = difflib.get_close_matches(unknown, known, 1)
        return f"{key}: unknown key" + (f"; did you mean {close[0]!r}?" if close else "")
    if error.validator == "not":
        return f"{path}: does not apply to an entry of this kind; remove it"
    if error.absolute_path and error.absolute_path[-1] in MAY_BE_SECRET:
        return f"{path}: {MAY_BE_SECRET[error.absolute_path[-1]]}"
    if error.validator == "type" and error.validator_value == "string" and not isinstance(error.instance, list | dict):
        return _no_text(path, error.instance)
    return f"{path or 'top level'}: {error.message}"


def _has_comments(config: Config, benchmark: str) -> bool:
    """Whether a benchmark's signals are comments and not pairs."""
    return benchmark_origin(config, benchmark).get("split", "").endswith("_ugc")


def _check_benchmarks(config: Config) -> None:
    """Check that benchmarks can be reversed and truncated, as far as the configuration tells."""
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
        if "chat_template" in start:
            raise UserError(f"{key}: training ignores chat_template options, which models.{entry['from']} has")
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
        key, methods, kind = f"tables.{name}", rows(config, name), entry["kind"]
        if name == "case_study" or name in config["figures"]:
            raise UserError(f"config: {key}: another result has this name; rename it")
        _distinct(key, methods, config)
        if kind == "benchmarks":
            if methods:
                raise UserError(f"config: methods.{methods[0]}.tables: {name!r} lists benchmarks, not methods")
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
            # A method that describes nothing brings its own verdicts, whoever judges.
            _check_methods(key, methods, entry["benchmarks"], config, describing=True)


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
    """Check that what the config says of published figures (`paper`) is in their table."""
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
