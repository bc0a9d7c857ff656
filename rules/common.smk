import os
import re
import shlex
import sys
from pathlib import Path

SCRIPTS = Path(workflow.basedir) / "scripts"
# As inputs name it: alike in all trees that link to the workflow's directories, and relative, so that a tree can be moved.
SCRIPTS_HERE = (
    "scripts"
    if os.path.realpath("scripts") == os.path.realpath(SCRIPTS)
    else os.path.relpath(SCRIPTS)
)
MEM_MB_PER_GPU = 64000
sys.path.insert(0, str(SCRIPTS))

import yaml
from snakemake.dag import DAG
from snakemake.exceptions import WorkflowError
from snakemake.io import is_flagged

from alignxplore.workflow.onstart import check_keys, check_training
from alignxplore.workflow.job import prefer_own_library, prefer_own_programs
from alignxplore.workflow.config import (
    benchmark_origin,
    check_config,
    check_published,
    ordered,
    origin_name,
    unpinned_models,
)
from alignxplore.data.locations import HubFile, is_hub, local_files
from alignxplore.errors import UserError, check_writable
from alignxplore.workflow.dependencies import library_modules
from alignxplore.workflow.locks import hold_workflow
from alignxplore.options import MODEL_OPTIONS, TRAINING_OPTIONS, without
from alignxplore.methods.preferences import GIVEN
from alignxplore.workflow.provenance import sidecar

# Held until this process ends; jobs are processes of their own, and Snakemake locks nothing for them.
if workflow.is_main_process:
    RUNNING = hold_workflow(Path(".snakemake"))

prefer_own_programs()
prefer_own_library(SCRIPTS)


async def check_incomplete(dag, original=DAG.check_incomplete):
    """Snakemake removes a job's outputs before it makes them again, forgets the job if it fails, and would then take
    what was made of the former outputs for up to date (its issue 1978). Their record remains, and tells.
    """
    await original(dag)
    for job in dag.jobs:
        if job.output and sidecar(job.output[0]).exists():
            lost = [file for file in job.output if not Path(file).exists()]
            dag.forcefiles.update(file for file in lost if not is_flagged(file, "temp"))


if workflow.is_main_process:
    DAG.check_incomplete = check_incomplete

try:
    check_config(config, Path(workflow.basedir) / "config/schema.yaml")
    check_published(config)
    config.update(ordered(config))
except UserError as error:
    raise WorkflowError(str(error)) from None

# Jobs read the workflow again, and would say it again.
if workflow.is_main_process and (names := unpinned_models(config)):
    logger.warning(
        "config: models without a revision: "
        + ", ".join(names)
        + ". Where one changes on the hub, the journal still answers with what it said before; pin the commit that you use"
        " by the model's key `revision`."
    )


onstart:
    try:
        check_writable("data", "results", "models", "logs", config["journal"])
        # Not where files are only touched; jobs' own processes do not come here.
        planned = [] if workflow.touch else list(workflow.dag.needrun_jobs())
        asked = sorted(set().union(*map(models_asked, planned)))
        for warning in check_keys(
            {name: config["models"][name] for name in asked}, config["journal"]
        ):
            logger.warning(warning)
        check_training(
            {job.rule.name for job in planned} & {"sft", "grpo"}, config["training"]
        )
    except UserError as error:
        raise WorkflowError(str(error)) from None


def library(*scripts, models=None):
    """Scripts and the library modules that they import, so that an edited file reruns its dependents.

    Of the engines' backends, those of the `models` of these names, if they are given.
    """
    engines = None
    if models is not None:
        engines = frozenset(config["models"][name]["engine"] for name in models)
    paths = [SCRIPTS / script for script in scripts]
    found = frozenset().union(*(library_modules(path, engines) for path in paths))
    # Local, since they come with the workflow wherever its files are kept.
    return [
        local(f"{SCRIPTS_HERE}/{path.relative_to(SCRIPTS)}")
        for path in sorted(found.union(paths))
    ]


def prompt_files(*names):
    """The template files of these names, as rules take them: an edited template reruns just the rules that use it."""
    return {f"{name}_prompt": config["prompts"][name] for name in names}


# The template by which a judge of each kind asks its model.
JUDGE_PROMPTS = {"jud": "judge", "gen": "respond"}


def judge_prompts(name):
    """The one that a judge of its kind is asked by."""
    return prompt_files(JUDGE_PROMPTS[config["judges"][name]["kind"]])


def method_prompts(wildcards):
    """The one by which a method's model is asked for a description."""
    reasons = config["methods"][wildcards.method]["reasoning"]
    return prompt_files("preference" if reasons else "concise")


def raw_files(sources):
    """The files that sources stand for; those of the hub are fetched by a rule."""
    try:
        return local_files(sources)
    except UserError as error:
        raise WorkflowError(str(error)) from None


def hub_files():
    """The sources on the hub, by where they are kept below the hub's directory."""
    sources = [
        *config["data"]["alignx"]["sources"],
        *(entry["path"] for entry in config["data"]["psoups"].values()),
    ]
    return {HubFile.parse(s).path: s for s in sources if is_hub(s)}


def benchmarks_of(source):
    return [
        name
        for name, entry in config["benchmarks"].items()
        if entry.get("source") == source
    ]


def benchmarks_with(key):
    return [name for name, entry in config["benchmarks"].items() if key in entry]


def one_of(names):
    """A wildcard constraint that matches these names alone (and nothing, if there are none)."""
    return "|".join(names) or "(?!)"


def psoups_entry(wildcards):
    return config["data"]["psoups"][
        config["benchmarks"][wildcards.benchmark]["dimension"]
    ]


def model_entry(name):
    """What a model's entry in the config says of its answers; scripts look up how it is run (options.py)."""
    return without(MODEL_OPTIONS, config["models"][name])


def model_files(name):
    """The directory that a rule of this workflow makes for a model; nothing for models from elsewhere."""
    path = config["models"][name]["path"]
    return [path] if path.startswith("models/") else []


def judge_entry(name):
    """How a judge judges, with its model's entry; the seed only where it samples."""
    entry = {k: v for k, v in config["judges"][name].items() if k != "benchmarks"}
    seed = {"seed": config["seed"]} if "sampling" in entry else {}
    return {**entry, **seed, "model": model_entry(entry["model"])}


def judge_model(name):
    """The name of a judge's model."""
    return config["judges"][name]["model"]


def models_asked(job):
    """The names of the models that a job asks, where its script takes them from."""
    names = {job.resources.get("model"), job.resources.get("judge_model")}
    if {"name", "judge"} <= set(job.params.keys()):
        names.add(judge_model(job.params["name"]))
    return names - {None}


def judge_files(name):
    return model_files(judge_model(name))


def gpus_of(model):
    """GPUs that a job with this model asks for."""
    return config["models"][model].get("gpu", 0)


def judge_gpus(name):
    return gpus_of(judge_model(name))


def memory(mem_mb, gpus=0):
    """Main memory of a job, with room for what passes to its GPUs; each attempt has half as much again."""

    def of_attempt(wildcards, attempt):
        count = gpus(wildcards) if callable(gpus) else gpus
        return (mem_mb + MEM_MB_PER_GPU * count) * (attempt + 1) // 2

    return of_attempt


def environment(*models):
    """The environment of a job with the models of these names: vLLM has one of its own, and torch a build for GPUs."""
    if any(config["models"][name]["engine"] == "vllm" for name in models):
        return "../envs/vllm.yaml"
    return torch_environment(max(map(gpus_of, models)))


def torch_environment(gpus):
    return "../envs/gpu.yaml" if gpus else "../envs/cpu.yaml"


def cases_of(names):
    """Files of these benchmarks' cases, in the names' order however the config lists them."""
    return [f"data/cases/{name}.parquet" for name in sorted(names)]


def method_settings(wildcards):
    """What a method's entry says of its descriptions; its judge, model and place in the tables are taken elsewhere."""
    elsewhere = ("label", "paper", "reference", "benchmarks", "model", "judge")
    return without(elsewhere, config["methods"][wildcards.method])


def method_model_name(wildcards):
    return config["methods"][wildcards.method]["model"]


def method_model(wildcards):
    """The entry of a method's model."""
    return model_entry(method_model_name(wildcards))


def method_model_files(wildcards):
    return model_files(method_model_name(wildcards))


def method_gpus(wildcards):
    return gpus_of(method_model_name(wildcards))


def method_judge_name(wildcards):
    return config["methods"][wildcards.method]["judge"]


def method_models(wildcards):
    """The names of its model and its judge's, if it has one."""
    entry = config["methods"][wildcards.method]
    judges = [judge_model(entry["judge"])] if "judge" in entry else []
    return [entry["model"], *judges]


def method_library(wildcards, script):
    """The library of a method's script, with the engines of its models."""
    return library(script, models=method_models(wildcards))


def method_environment(wildcards):
    return environment(*method_models(wildcards))


def methods_of(*kinds):
    return [name for name, entry in config["methods"].items() if entry["kind"] in kinds]


def describing_methods():
    """Methods that describe preferences in words; VPL judges by a latent variable."""
    return [name for name in config["methods"] if name not in methods_of("vpl")]


def demo_base(wildcards):
    entry = config["demo"]["models"][wildcards.model]
    return {"base": f"models/demo/{entry['base']}"} if "base" in entry else {}


def demo_priority(wildcards):
    """Models that training waits for come first, and before those the models that they start from."""
    names = config["demo"]["models"]
    if any(entry.get("base") == wildcards.model for entry in names.values()):
        return 2
    wanted = [config["cold_start"]["teacher"]]
    wanted.append(config["judges"][config["cold_start"]["judge"]]["model"])
    wanted += [entry["from"] for entry in config["training"]["variants"].values()]
    return int(f"models/demo/{wildcards.model}" in sum(map(model_files, wanted), []))


def variants_of(stage):
    return [
        name
        for name, entry in config["training"]["variants"].items()
        if entry["stage"] == stage
    ]


def training_settings(stage):
    """TRL's settings that change what is trained."""
    settings = config["training"][stage]
    # Where the best checkpoint is the result, it matters when checkpoints are kept.
    kept = settings.get("load_best_model_at_end", False)
    return settings if kept else without(TRAINING_OPTIONS, settings)


def launch_files(command):
    """The configuration files that a launcher is told of, and those that they name in turn."""
    words = [part for word in shlex.split(command) for part in word.split("=")]
    ours = [word for word in words if word.endswith((".yaml", ".json"))]
    files = [word for word in ours if Path(word).is_file()]
    for file in files:
        values = yaml.safe_load(Path(file).read_text()) or {}
        named = values.get("deepspeed_config") or {}
        files += filter(None, [named.get("deepspeed_config_file")])
    return files


def variant_model(variant):
    """Path and pinned revision of the model that a variant starts from."""
    entry = config["models"][config["training"]["variants"][variant]["from"]]
    return {name: entry[name] for name in ("path", "revision") if name in entry}


def variant_judge(variant):
    return config["training"]["variants"][variant]["judge"]


def variant_start(variant):
    return model_files(config["training"]["variants"][variant]["from"])


def method_cases(wildcards):
    """Cases of the benchmarks of a method: all, unless its entry names some."""
    entry = config["methods"][wildcards.method]
    return cases_of(entry.get("benchmarks", config["benchmarks"]))


def judge_cases(wildcards):
    """Cases of the benchmarks that a judge is asked about: all, unless its entry names some."""
    judge = config["judges"][wildcards.judge]
    return cases_of(judge.get("benchmarks", config["benchmarks"]))


def tables_of(kind):
    return [name for name, entry in config["tables"].items() if entry["kind"] == kind]


def figures_of(kind):
    return [name for name, entry in config["figures"].items() if entry["kind"] == kind]


def table_title(wildcards):
    return config["tables"][wildcards.table]["title"]


def table_methods(wildcards):
    return methods_shown(config["tables"][wildcards.table]["methods"])


def methods_shown(names):
    """What a table or figure needs to know of its methods."""
    return [
        {
            "name": name,
            **{
                key: config["methods"][name][key]
                for key in ("label", "paper", "reference")
                if key in config["methods"][name]
            },
        }
        for name in names
    ]


def table_benchmarks(wildcards):
    """Benchmarks with whether training saw their dimensions."""

    def in_domain(name):
        return benchmark_origin(config, name)["source"] == "alignx"

    names = config["tables"][wildcards.table]["benchmarks"]
    return [{"benchmark": name, "in_domain": in_domain(name)} for name in names]


def table_origins(wildcards):
    """What each benchmark of a table is made from: changes are counted between cases of one origin."""
    columns = config["tables"][wildcards.table]["columns"]
    names = {name for column in columns for name in column["benchmarks"]}
    return {name: origin_name(config, name) for name in sorted(names)}


def judge_columns(entry):
    """A column for each of the judges that a table or figure compares."""
    return [
        {"name": judge, "judge": judge, "benchmarks": entry["benchmarks"]}
        for judge in entry["judges"]
    ]


def judgement_files(judges, methods):
    return expand(
        "results/judgements/{judge}/{method}.parquet", judge=judges, method=methods
    )


def table_judgements(wildcards):
    entry = config["tables"][wildcards.table]
    judges = entry.get("judges") or [column["judge"] for column in entry["columns"]]
    return judgement_files(dict.fromkeys(judges), entry["methods"])


def table_wins(wildcards):
    return wins_of(wildcards.table)


def wins_of(table):
    """Comparisons of every two methods of a table of win rates."""
    methods = config["tables"][table]["methods"]
    return [
        f"results/wins/{first}/{second}.parquet"
        for place, first in enumerate(methods)
        for second in methods[place + 1 :]
    ]


def win_rate_columns(wildcards):
    return [
        {"name": name, "benchmarks": group, "paper": f"win_rate/{name}"}
        for name, group in config["online"]["groups"].items()
    ]


def training_metrics(figure):
    return [
        f"results/training/{variant}.parquet"
        for variant in config["figures"][figure]["variants"]
    ]


def figure_inputs(wildcards):
    """The query of a figure of accuracy, and what it reads beside judgements."""
    entry = config["figures"][wildcards.figure]
    inputs = {"sql": f"scripts/sql/accuracy_by_{entry['by']}.sql"}
    if entry["by"] in ("dimension", "signals"):
        inputs["cases"] = cases_of(entry["benchmarks"])
    if entry["by"] == "dimension":
        inputs["names"] = "resources/dimensions.csv"
    if entry["by"] == "length":
        inputs["preferences"] = [
            f"results/preferences/{method}.parquet" for method in entry["methods"]
        ]
    return inputs


def named_results():
    """Tables and figures by name."""
    return [*config["tables"].items(), *config["figures"].items()]


def result_labels(wildcards):
    """How Snakemake's own report lists a table or figure."""
    name = wildcards.get("table") or wildcards.get("figure")
    return {"result": dict(named_results())[name]["title"], "file": name}


def reported_entries():
    """What the report shows: tables, figures and the case study."""
    entries = [entry for _, entry in named_results()]
    if "case_study" in config:
        study = config["case_study"]
        entries.append(
            {
                "methods": study["methods"],
                "judges": [study["judge"]],
                "benchmarks": [study["benchmark"]],
            }
        )
    return entries


def reported_methods():
    """Methods of the report, in the order of the config's methods."""
    wanted = {
        method for entry in reported_entries() for method in entry.get("methods", ())
    }
    return [name for name in config["methods"] if name in wanted]


def reported_benchmarks():
    """Benchmarks of the report, in the order of the config's benchmarks."""
    wanted = set()
    for entry in reported_entries():
        wanted.update(entry.get("benchmarks", ()))
        wanted.update({entry["benchmark"]} if "benchmark" in entry else ())
        for column in entry.get("columns", ()):
            wanted.update(column["benchmarks"])
    if online_tables():
        wanted.update(*config["online"]["groups"].values())
    return [name for name in config["benchmarks"] if name in wanted]


def reported_judgements():
    """Judgements of every judge and method that the report compares."""
    files = []
    for entry in reported_entries():
        columns = entry.get("columns", ())
        judges = entry.get("judges") or [column["judge"] for column in columns]
        files += judgement_files(dict.fromkeys(judges), entry.get("methods", ()))
    return list(dict.fromkeys(files))


def preferences_of(methods):
    """Descriptions by those of the methods that write them."""
    writing = describing_methods()
    return [
        f"results/preferences/{name}.parquet" for name in methods if name in writing
    ]


def online_tables():
    return tables_of("win_rates") + tables_of("strengths")


def reported_responses():
    methods = [
        method
        for table in online_tables()
        for method in config["tables"][table]["methods"]
    ]
    return [f"results/responses/{name}.parquet" for name in dict.fromkeys(methods)]


def reported_wins():
    return list(
        dict.fromkeys(path for table in online_tables() for path in wins_of(table))
    )


def reported_metrics():
    """Metrics of the checkpoints that a figure draws or a method of the report uses."""
    methods = {name: config["methods"][name] for name in reported_methods()}
    used = {
        model_entry(entry["model"])["path"]
        for entry in methods.values()
        if "model" in entry
    }
    used.update(
        f"models/trained/{variant}"
        for figure in figures_of("training")
        for variant in config["figures"][figure]["variants"]
    )
    trained = [
        variant
        for variant in config["training"]["variants"]
        if f"models/trained/{variant}" in used
    ]
    trained += [name for name in methods if name in methods_of("vpl")]
    return [f"results/training/{name}.parquet" for name in trained]


def resource_files(pattern):
    """Files of the workflow's resources, so that an edited one reruns the rules that read them."""
    resources = Path(workflow.basedir) / "resources"
    return sorted(
        f"resources/{path.relative_to(resources)}" for path in resources.glob(pattern)
    )


def captions():
    """What explains each table and figure: the caption of its kind, where there is one."""
    files = {Path(path).stem: path for path in resource_files("report/*.rst")}
    kinds = {name: entry["kind"] for name, entry in config["tables"].items()}
    for name, entry in config["figures"].items():
        kinds[name] = "accuracy_by" if "by" in entry else entry["kind"]
    return {name: files[kind] for name, kind in kinds.items() if kind in files}
