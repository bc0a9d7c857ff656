# The verbs that rules share. Whatever one rule alone needs stands above that rule.

import re

from alignxplore.workflow.dependencies import library_modules

MEM_MB_PER_GPU = 64000


def setting(path, default=None):
    """The config's value at a path such as methods/{method}/label, for the job's wildcards."""

    def of_job(wildcards):
        value = config
        for key in path.format(**dict(wildcards.items())).split("/"):
            if key not in value:
                return default
            value = value[key]
        return value

    return of_job


def names_in(section, **values):
    """The names in a section of the config whose entries have these values."""
    entries = config.get(section, {}).items()
    return [name for name, entry in entries if values.items() <= entry.items()]


def one_of(names):
    """A wildcard constraint that matches these names alone."""
    return "|".join(map(re.escape, names)) or "(?!)"


def library(*scripts, engines=frozenset()):
    """Scripts and the library modules that they import: an edited file reruns what depends on it.

    Of the engines' backends, those of `engines` alone.
    """
    paths = [SCRIPTS / script for script in scripts]
    found = set(paths).union(*(library_modules(path, engines) for path in paths))
    # Local, because they come with the workflow wherever its data are kept.
    return [local(f"scripts/{path.relative_to(SCRIPTS)}") for path in sorted(found)]


def model_entry(name):
    """What a job's params say of a model: all of its entry that can change an answer, and its name."""
    return {"name": name} | {
        key: value for key, value in config["models"][name].items() if key != "run"
    }


def judge_entry(name):
    """What a job's params say of a judge and its model; the seed only if it samples."""
    entry = {
        key: value
        for key, value in config["judges"][name].items()
        if key != "benchmarks"
    }
    seed = {"seed": config["seed"]} if "sampling" in entry else {}
    return entry | seed | {"model": model_entry(entry["model"])}


# The template by which a judge of each kind asks its model.
JUDGE_PROMPTS = {"jud": "judge", "gen": "respond"}


def asks(scripts, asked, prompts=()):
    """What a job that asks these models and judges reads beside its data.

    Prompt templates (each judge brings its own), the library with the engines of these models, and
    the directories of models that a rule makes.
    """
    models = [entry.get("model", entry) for entry in asked]
    templates = [
        *prompts,
        *(JUDGE_PROMPTS[entry["kind"]] for entry in asked if "kind" in entry),
    ]
    made = [entry["path"] for entry in models if entry["path"].startswith("models/")]
    return {
        **{f"{name}_prompt": config["prompts"][name] for name in templates},
        "models": list(dict.fromkeys(made)),
        "library": library(
            *scripts, engines=frozenset(entry["engine"] for entry in models)
        ),
    }


def gpus_of(asked):
    """The most GPUs that one of these models and judges asks for."""
    models = [entry.get("model", entry)["name"] for entry in asked]
    return max(
        (config["models"][name].get("run", {}).get("gpu", 0) for name in models),
        default=0,
    )


def environment(asked):
    """The conda environment of a job that asks these models and judges, or those of its wildcards."""
    if callable(asked):
        return lambda wildcards: environment(asked(wildcards))
    if any(entry.get("model", entry)["engine"] == "vllm" for entry in asked):
        return "../envs/vllm.yaml"  # vLLM pins an older transformers
    return "../envs/gpu.yaml" if gpus_of(asked) else "../envs/cpu.yaml"


def needs(mem_mb, runtime, asked=(), gpu=0):
    """Resources: MB of memory, minutes, and GPUs, which the models and judges asked may add.

    Memory has room for what passes to GPUs, and each attempt has half as much again.
    """

    def gpus(wildcards):
        return max(gpu, gpus_of(asked(wildcards) if callable(asked) else asked))

    def memory(wildcards, attempt):
        return (mem_mb + MEM_MB_PER_GPU * gpus(wildcards)) * (attempt + 1) // 2

    return {"mem_mb": memory, "runtime": runtime, "gpu": gpus}


def cases_of(benchmarks):
    """Files of these benchmarks' cases, in an order that does not depend on the config's."""
    return [f"data/cases/{name}.parquet" for name in sorted(benchmarks)]


def methods_in(table):
    """The methods that name this table, in the config's order: its rows."""
    return [
        name
        for name, entry in config["methods"].items()
        if table in entry.get("tables", ())
    ]


def describing(methods):
    """Those of the methods that describe preferences; VPL judges by a latent variable instead."""
    return [name for name in methods if config["methods"][name]["kind"] != "vpl"]


def judgement_files(judges, methods):
    return expand(
        "results/judgements/{judge}/{method}.parquet", judge=judges, method=methods
    )
