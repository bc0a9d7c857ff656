"""Checks on the configuration: its schema, and what a schema cannot say."""

import csv
import difflib
import graphlib
import json
import math
import os
import posixpath
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from alignxplore.errors import UserError

DERIVED = ("reverse_of", "truncation_of")
"""Keys under which a benchmark names the one that it is made from."""

LOADING_ENGINES = ("transformers", "vllm")
"""Engines whose models are directories or of the hub."""

HUB_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
"""NAME or OWNER/NAME."""

JOB_LAUNCHERS = ("accelerate", "deepspeed", "torchrun")
"""Programs that `--sdm conda` brings to a training job, whether or not they are where the workflow is read."""

MAY_BE_SECRET = {
    "base_url": "must be an address such as https://HOST/v1, without user, password or query: a key belongs in the"
    " environment variable that key_env names",
    "key_env": "must be the name of an environment variable, of letters, digits and '_': the key itself belongs in"
    " that variable",
}
"""What is said of a wrong value of these keys, in place of the value."""

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
    _check_derived(config)
    _check_launch(config["training"]["launch"])
    for name, entry in config["training"]["variants"].items():
        key = f"training.variants.{name}"
        _known(f"{key}.from", entry["from"], config["models"])
        start = config["models"][entry["from"]]
        if "chat_template" in start:
            raise UserError(
                f"config: {key}.from: training applies no chat_template options, which models.{entry['from']} has"
            )
        if start["engine"] == "openai":
            raise UserError(
                f"config: {key}.from: {entry['from']!r} is served (engine 'openai'), and a served model cannot be"
                " trained: name one whose weights are at hand"
            )
        if "judge" in entry:
            _known(f"{key}.judge", entry["judge"], config["judges"])
    for name, entry in config.get("demo", {}).get("models", {}).items():
        if "base" in entry:
            _known(f"demo.models.{name}.base", entry["base"], config["demo"]["models"])
    _check_paths(config)
    _check_cycles(config)


def unpinned_models(config: Mapping[str, Any]) -> list[str]:
    """Names of the models that come from the hub at no pinned revision, so that they may change unseen."""
    return [
        name
        for name, entry in config["models"].items()
        if entry["engine"] in LOADING_ENGINES
        and "revision" not in entry
        and not entry["path"].startswith("models/")
        and not Path(entry["path"]).is_dir()
    ]


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
    _check_plain(document, name, [])
    schema = yaml.safe_load(schema_file.read_text(encoding="utf-8"))
    definitions = schema.get("$defs", {})
    for key in part:
        schema = schema[key]
    schema = {"$defs": definitions, **schema}
    validator = jsonschema.Draft202012Validator(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        raise UserError(f"{name}: {_describe(error)}")


def known(key: str, value: str, names: Iterable[str]) -> None:
    """Raise a UserError that says which name may be meant, if `value` is none of `names`."""
    names = list(names)
    if value not in names:
        close = difflib.get_close_matches(value, names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"
        raise UserError(f"{key}: no such name {value!r}{hint}")


def _check_plain(value: Any, name: str, path: list[str]) -> None:
    """That keys are text and numbers finite, which a schema does not ask."""
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
    """What is said of a plain value in place of text, as YAML has it."""
    written = json.dumps(value) if value is None or isinstance(value, bool | int | float) else str(value)
    return f"{path or 'top level'}: {written} is not of type 'string': write it in quotes"


def _has_comments(config: Mapping[str, Any], benchmark: str) -> bool:
    """Whether a benchmark's signals are comments, and no pairs."""
    return benchmark_origin(config, benchmark).get("split", "").endswith("_ugc")


def _check_derived(config: Mapping[str, Any]) -> None:
    """That benchmarks can be reversed and truncated, as far as the configuration tells."""
    history = config["data"]["refine"]["history"]
    for name, entry in config["benchmarks"].items():
        key, origin = f"benchmarks.{name}", benchmark_origin(config, name)
        if "reverse_of" in entry and _has_comments(config, name):
            raise UserError(
                f"config: {key}.reverse_of: {entry['reverse_of']!r} has comments, which cannot be reversed: they have"
                " no rejected text"
            )
        # Published P-SOUPS cases have signals of their own, however many.
        if "truncation_of" in entry and origin["source"] == "alignx" and entry["signals"] >= history:
            raise UserError(
                f"config: {key}.signals: must be fewer than the {history} of every case (data.refine.history), not"
                f" {entry['signals']}"
            )


def _check_launch(command: str) -> None:
    """That a training job will find the program, and the configuration file that the program is told of."""
    key = "config: training.launch"
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"{key}: cannot be cut into words ({error}): {command!r}") from None
    if not words:
        raise UserError(f"{key}: names no program: write python, or accelerate launch with its options")
    # As cli.prefer_own_programs puts it for jobs.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if words[0] not in JOB_LAUNCHERS and shutil.which(words[0], path=path) is None:
        close = difflib.get_close_matches(words[0], ["python", *JOB_LAUNCHERS], 1)
        hint = f"did you mean {close[0]!r}?" if close else "install it, or write its path"
        raise UserError(f"{key}: there is no program {words[0]!r}; {hint}")
    options = [word.partition("=") for word in words]
    values = [value for option, _, value in options if option == "--config_file" and value]
    values += [after for word, after in zip(words, words[1:], strict=False) if word == "--config_file"]
    for file in values:
        if file.endswith((".yaml", ".json")) and not Path(file).is_file():
            raise UserError(f"{key}: there is no file {file!r}, which --config_file names")


def _check_paths(config: Mapping[str, Any]) -> None:
    """That the journal can be a directory, and that models are made, there, or of the hub."""
    journal = Path(config["journal"])
    there = next(path for path in [journal, *journal.parents, Path("/")] if path.exists())
    if not there.is_dir():
        raise UserError(f"config: journal: {str(there)!r} is a file: name a directory, which need not be there yet")
    makers = _makers(config)
    for name, entry in config["models"].items():
        key, path = f"config: models.{name}.path", entry["path"]
        plain = posixpath.normpath(path)
        if plain in makers and path != plain:
            raise UserError(f"{key}: write {plain!r} for {path!r}, as the rule that makes it does")
        # To an endpoint, or an engine of your own, any other name may mean something.
        loads = entry["engine"] in LOADING_ENGINES
        if path in makers or not (loads or path.startswith("models/")):
            continue
        if path.startswith("~"):
            raise UserError(f"{key}: nothing replaces the ~ of {path!r}: write the directory out")
        if Path(path).is_dir():
            continue
        if path.startswith("models/") or Path(path).exists() or not HUB_ID.fullmatch(path):
            raise UserError(
                f"{key}: there is no directory {path!r}, and no rule makes it; a model of the hub is NAME or OWNER/NAME"
            )


def _makers(config: Mapping[str, Any]) -> dict[str, str]:
    """The directories of models that rules make, with the key that each is made for."""
    tables = {
        "demo.models": ("models/demo", config.get("demo", {}).get("models", {})),
        "gguf": ("models/gguf", config.get("gguf", {})),
        "training.variants": ("models/trained", config["training"]["variants"]),
    }
    return {f"{place}/{name}": f"{key}.{name}" for key, (place, names) in tables.items() for name in names}


def _check_cycles(config: Mapping[str, Any]) -> None:
    """That no model is made from itself, by whatever way."""
    makers = _makers(config)

    def made(*models: str) -> list[str]:
        return [makers[path] for path in (config["models"][model]["path"] for model in models) if path in makers]

    cold = config["cold_start"]
    needs = {"cold_start": made(cold["teacher"], config["judges"][cold["judge"]]["model"])}
    for name, entry in config["training"]["variants"].items():
        judge = [config["judges"][entry["judge"]]["model"]] if "judge" in entry else []
        data = ["cold_start"] if entry["stage"] == "sft" else []
        needs[f"training.variants.{name}"] = [*made(entry["from"], *judge), *data]
    for name, entry in config.get("demo", {}).get("models", {}).items():
        needs[f"demo.models.{name}"] = [f"demo.models.{entry['base']}"] if "base" in entry else []
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        chain = list(reversed(error.args[1]))
        raise UserError(
            f"config: {chain[0]}: is made from itself: {', which needs '.join(chain)}; let one of them start elsewhere"
        ) from None


def _check_baselines(config: Mapping[str, Any]) -> None:
    for name, entry in config["methods"].items():
        if entry["kind"] in ("vpl", "lminductreason"):
            for benchmark in entry.get("benchmarks", config["benchmarks"]):
                if _has_comments(config, benchmark):
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


def _describe(error: jsonschema.ValidationError) -> str:
    path = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = sorted(set(error.instance) - set(known))[0]
        key = f"{path}.{unknown}" if path else unknown
        close = difflib.get_close_matches(unknown, known, 1)
        return f"{key}: unknown key" + (f"; did you mean {close[0]!r}?" if close else "")
    if error.validator == "not":
        return f"{path}: not for an entry of this kind: leave it out"
    if error.absolute_path and error.absolute_path[-1] in MAY_BE_SECRET:
        return f"{path}: {MAY_BE_SECRET[error.absolute_path[-1]]}"
    if error.validator == "type" and error.validator_value == "string" and not isinstance(error.instance, list | dict):
        return _no_text(path, error.instance)
    return f"{path or 'top level'}: {error.message}"
