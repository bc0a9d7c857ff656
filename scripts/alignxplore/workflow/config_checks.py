"""Checks of the configuration: its schema, its foreign keys, and what one entry needs of another."""

import csv
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignxplore.errors import UserError
from alignxplore.prompts import VARIABLES, check_template
from alignxplore.workflow.config import (
    CONTROLS,
    DERIVED,
    JUDGE_PROMPTS,
    Config,
    benchmark_origin,
    completed,
    drawn_splits,
    given_splits,
    judged_benchmarks,
    method_prompts,
    origin_name,
    table_methods,
    variants,
)
from alignxplore.workflow.config_paths import cycle_errors, launch_errors, model_errors, path_errors, values_at
from alignxplore.workflow.launcher import uses_deepspeed
from alignxplore.workflow.schema import document_errors, raise_all, unknown_name

REFERENCES = {
    "benchmarks.*.reverse_of": "benchmarks",
    "benchmarks.*.truncation_of": "benchmarks",
    "benchmarks.*.split": "data.splits",
    "benchmarks.*.psoups": "data.psoups",
    "judges.*.model": "models",
    "judges.*.benchmarks": "benchmarks",
    "methods.*.model": "models",
    "methods.*.judge": "judges (jud)",
    "methods.*.benchmarks": "benchmarks",
    "methods.*.tables": "tables",
    "cold_start.teacher": "models",
    "cold_start.judge": "judges",
    "cold_start.prompt": "prompts (preference)",
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


WITHOUT_DIRECTIONS = ("pairs", "rl", "cold_start", "psoups")
"""Forms of given splits whose records have no directions."""

RENDERED = "has a rendered prompt instead of signals (form 'rl')"


def check_config(config: Config, schema_file: Path) -> None:
    """Raise a UserError that lists the mistakes of a resolved configuration, if there are any."""
    errors = list(document_errors(config, schema_file))
    for check in (
        _reference_errors,
        _section_errors,
        _benchmark_errors,
        _form_errors,
        _model_use_errors,
        _online_errors,
        _table_errors,
        _figure_errors,
        _study_errors,
        _published_errors,
        launch_errors,
        _precision_errors,
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
        if benchmark_origin(config, name).get("split") in drawn_splits(config) and "truncation_of" not in entry:
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
        keys = ["prompts.preference", f"training.{stage}"]
        if "data" not in entry:
            keys.append({"sft": "cold_start", "grpo": "data.splits.rl"}[stage])
        yield f"training.variants.{name}", keys
    if "cold_start" in config:
        yield "cold_start", ["data.splits.cold", *([] if "prompt" in config["cold_start"] else ["prompts.preference"])]
    if "online" in config:
        yield "online", ["prompts.respond"]
    for name in drawn_splits(config):
        yield f"data.splits.{name}", ["data.alignx.sources"]
    if "demo" in config:
        yield "demo", ["prompts.preference", "prompts.concise", "prompts.judge", "prompts.respond"]
    for name, entry in config["tables"].items():
        if any("paper" in column for column in entry.get("columns", {}).values()):
            yield f"tables.{name}", ["published"]
        if entry["kind"] in ("win_rates", "strengths"):
            yield f"tables.{name}", ["online"]


def _template_errors(config: Config) -> Iterator[str]:
    """Yield templates that cannot be rendered, without those that do not exist."""
    used = {name for _, name in values_at(config, ["methods.*.prompt", "cold_start.prompt"])}
    for name, path in config.get("prompts", {}).items():
        if Path(path).is_file():
            try:
                check_template(name, path)
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


def _study_errors(config: Config) -> Iterator[str]:
    if study := config.get("case_study"):
        yield from _judged_errors("case_study", study["judge"], [study["benchmark"]], config)
        yield from _described_errors("case_study", study["methods"], [study["benchmark"]], config, describing=True)


def _names(config: Config, section: str) -> Iterable[str]:
    if section == "judges (jud)":
        return [name for name, entry in config["judges"].items() if entry["kind"] == "jud"]
    if section == "prompts (preference)":
        return [
            name for name in config.get("prompts", {}) if name in ("preference", "concise") or name not in VARIABLES
        ]
    found = config
    for key in section.split("."):
        found = found.get(key, {})
    return found


def _has_comments(config: Config, benchmark: str) -> bool:
    """Whether a drawn benchmark's signals are comments; the configuration does not say it of given splits."""
    split = benchmark_origin(config, benchmark).get("split", "")
    return split in drawn_splits(config) and split.endswith("_ugc")


def _benchmark_errors(config: Config) -> Iterator[str]:
    """Yield an error unless benchmarks can be reversed and truncated, as far as the configuration shows."""
    history = config.get("data", {}).get("refine", {}).get("history", 0)
    for name, entry in config["benchmarks"].items():
        key, origin = f"benchmarks.{name}", benchmark_origin(config, name)
        if not {"split", "psoups"} & origin.keys():
            derived = next(k for k in DERIVED if k in entry)
            yield f"{key}.{derived}: {entry[derived]!r} is itself made from another benchmark"
        if "reverse_of" in entry and _has_comments(config, name):
            yield (
                f"{key}.reverse_of: {entry['reverse_of']!r} has comments, which cannot be reversed: they have no"
                " rejected text"
            )
        # Other cases bring their own signals, however many.
        if "truncation_of" in entry and origin.get("split") in drawn_splits(config) and entry["signals"] >= history:
            yield (
                f"{key}.signals: must be fewer than the {history} of every case (data.refine.history), not"
                f" {entry['signals']}"
            )


def _form_errors(config: Config) -> Iterator[str]:
    """Yield an error where something needs what a given split does not have, as far as its `form` is named."""
    forms = {name: entry.get("form", "") for name, entry in given_splits(config).items()}
    for name, entry in config["benchmarks"].items():
        form = forms.get(benchmark_origin(config, name).get("split", ""), "")
        if form == "cold_start":
            yield f"benchmarks.{name}: the split has demonstrations (form 'cold_start'), which have no two responses"
        derived = next((key for key in DERIVED if key in entry), None)
        if form == "rl" and derived:
            yield f"benchmarks.{name}.{derived}: {entry[derived]!r} {RENDERED}"
    for name, entry in config["methods"].items():
        for benchmark in entry.get("benchmarks", config["benchmarks"]):
            form = forms.get(benchmark_origin(config, benchmark).get("split", ""), "")
            turned = "reverse_of" in config["benchmarks"][benchmark]
            key = f"methods.{name}.benchmarks: {benchmark!r}"
            if form in WITHOUT_DIRECTIONS and entry["kind"] == "opposite":
                yield f"{key} has no directions (form {form!r}), so no description has an opposite"
            elif entry["kind"] in ("golden", "shuffled") and (form == "rl" or (form in WITHOUT_DIRECTIONS and turned)):
                yield f"{key} has no golden preferences (form {form!r})"
            elif form in WITHOUT_DIRECTIONS and "scores" in entry:
                yield f"{key} has no annotated signals (form {form!r})"
            elif form == "rl" and entry["kind"] in ("signals", "liked", "lminductreason", "pba", "vpl"):
                yield f"{key} {RENDERED}"
        if entry["kind"] == "vpl" and forms.get("rl") in ("rl", "cold_start"):
            yield f"methods.{name}: data.splits.rl has no pairs to learn from (form {forms['rl']!r})"
    if "cold_start" in config and forms.get("cold") in WITHOUT_DIRECTIONS:
        yield (
            f"cold_start: data.splits.cold has no directions (form {forms['cold']!r}), from which the teacher's key"
            " dimensions come; without a teacher, write cold_start: null"
        )
    for name, entry in variants(config).items():
        data = entry.get("data", "data/splits/rl.parquet" if entry["stage"] == "grpo" else "")
        split = data.removeprefix("data/splits/").removesuffix(".parquet")
        wants = entry["stage"] == "sft"
        if forms.get(split) and wants != (forms[split] == "cold_start"):
            needed = "demonstrations (form 'cold_start')" if wants else "examples"
            yield f"training.variants.{name}.data: needs {needed}, but data.splits.{split} has form {forms[split]!r}"
        if wants and split in drawn_splits(config):
            yield f"training.variants.{name}.data: needs demonstrations, but data.splits.{split} has examples"
    for name, entry in config.get("figures", {}).items():
        if entry.get("by") == "dimension":
            origins = [benchmark_origin(config, benchmark).get("split", "") for benchmark in entry["benchmarks"]]
            if all(forms.get(split) in WITHOUT_DIRECTIONS for split in origins):
                yield f"figures.{name}.by: none of its benchmarks has directions"


def _model_use_errors(config: Config) -> Iterator[str]:
    """Yield an error unless each judge, method and variant gets what it needs from its model."""
    models = config["models"]
    for name, entry in models.items():
        if entry["engine"] == "openai" and isinstance(entry.get("chat_template"), str):
            yield (
                f"models.{name}.chat_template: a server renders chats by its own template; start it with this file"
                " (vLLM: --chat-template FILE), or write options here"
            )
    for name, entry in config["judges"].items():
        if entry["kind"] == "jud" and "sampling" not in entry:
            yield from _logprobs_errors(
                f"judges.{name}", entry["model"], config, "give it sampling, so that it writes its answer"
            )
        asked = models[entry["model"]]
        if entry["kind"] == "gen" and asked["engine"] == "openai" and "tokenizer" not in asked:
            yield (
                f"judges.{name}.model: a chat endpoint cannot score responses. If {entry['model']!r} is vLLM, give"
                f" models.{entry['model']} a tokenizer; else judge with the engine transformers or vllm, or remove the"
                " judge"
            )
    for name, entry in config["methods"].items():
        key = f"methods.{name}"
        if entry["kind"] == "pba" and "model" in entry:
            yield from _logprobs_errors(f"methods.{name}", entry["model"], config, "choose another model")
        if entry["kind"] in ("vpl", "lminductreason"):
            for benchmark in entry.get("benchmarks", config["benchmarks"]):
                if _has_comments(config, benchmark):
                    yield f"{key}.benchmarks: {benchmark!r} has no pairs to infer from"
        if entry["kind"] == "vpl":
            if name in variants(config):
                yield f"{key}: training.variants.{name} already makes models/trained/{name}; rename one"
            if models[entry["model"]]["engine"] != "transformers":
                yield f"{key}.model: {entry['model']!r} needs the engine 'transformers'"
    for name, entry in variants(config).items():
        key, start = f"training.variants.{name}.from", models[entry["from"]]
        for ignored in start.keys() & {"today", "thoughts"}:
            yield f"{key}: training ignores {ignored}, which models.{entry['from']} has"
        if start["engine"] == "openai":
            yield (
                f"{key}: {entry['from']!r} is served (engine 'openai') and cannot be trained; name a model whose"
                " weights you have"
            )


def _precision_errors(config: Config) -> Iterator[str]:
    """Yield the variants that would train reduced weights alone, in which most of Adam's small steps are rounded away.

    DeepSpeed keeps float32 weights beside them if it knows of the mixed precision.
    """
    if not variants(config):
        return
    training = config["training"]
    has_deepspeed = uses_deepspeed(training["launch"])
    for name, entry in variants(config).items():
        own, stage = entry.get("settings", {}), entry["stage"]
        settings = {**training[stage], **own}
        dtype = settings.get("dtype", "float32")
        keeps_float32 = has_deepspeed or "deepspeed" in settings
        if dtype != "float32" and not (keeps_float32 and (settings.get("bf16") or settings.get("fp16"))):
            key = f"training.variants.{name}.settings.dtype" if "dtype" in own else f"training.{stage}.dtype"
            yield (
                f"{key}: small steps vanish in {dtype} weights (variant {name}); leave it float32 and set bf16: true,"
                " which with DeepSpeed may also stand beside another dtype"
            )


def _logprobs_errors(key: str, model: str, config: Config, advice: str) -> Iterator[str]:
    if config["models"][model].get("logprobs") is False:
        yield f"{key}.model: {model!r} gives no log-probabilities, which this needs: {advice}"


def _online_errors(config: Config) -> Iterator[str]:
    group_of: dict[str, str] = {}
    for group, benchmarks in config.get("online", {}).get("groups", {}).items():
        for benchmark in benchmarks:
            if group_of.setdefault(benchmark, group) != group:
                yield (
                    f"online.groups.{group}: {benchmark!r} is already in {group_of[benchmark]!r}; cases of a"
                    " group are drawn from its own benchmarks"
                )


def _table_errors(config: Config) -> Iterator[str]:
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
        if len(methods) < (1 if kind == "accuracy" else 2):
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


def _change_errors(key: str, title: str, columns: Config, config: Config) -> Iterator[str]:
    """Yield an error unless a change is counted from another column over the same cases."""
    old = columns[title]["change_from"]
    yield from unknown_name(key, old, [name for name in columns if name != title])
    cases = [{origin_name(config, benchmark) for benchmark in columns[name]["benchmarks"]} for name in (old, title)]
    if cases[0] != cases[1]:
        yield f"{key}: {old!r} has other cases: {', '.join(columns[old]['benchmarks'])}"


def _figure_errors(config: Config) -> Iterator[str]:
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
                if entry["by"] == "confidence":
                    yield from unknown_name(f"{key}.judges", judge, _names(config, "judges (jud)"))
            yield from _described_errors(key, methods, entry["benchmarks"], config)
            for method in methods:
                if entry["by"] == "length" and config["methods"][method]["kind"] != "model":
                    yield f"{key}.methods: {method!r} writes no completion, so it has no length"


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


def _published_errors(config: Config) -> Iterator[str]:
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
