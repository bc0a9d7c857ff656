# Helpers that several rules share. A helper of a single rule stands above that rule.

import re
from itertools import combinations

from alignxplore.workflow.config import (
    JUDGE_PROMPTS,
    made_directories,
    table_methods,
    variants,
)
from alignxplore.workflow.dependencies import library_modules
from alignxplore.workflow.shown import described, judged

MEM_MB_PER_GPU = 64000
DESCRIBED, JUDGED = described(config), judged(config)


def home(path):
    """A file of the workflow as jobs name it: relative in the workflow's directory, else (`--directory`) absolute."""
    return path if Path(path).exists() else f"{workflow.basedir}/{path}"


def setting(path, default=None):
    """An input function: the config's value at a path such as methods/{method}/label."""

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
    """The scripts and the library modules that they import, so that an edit reruns what depends on it.

    Of the engines' backends, only those of `engines` count.
    """
    paths = [SCRIPTS / script for script in scripts]
    found = set(paths).union(*(library_modules(path, engines) for path in paths))
    # Code comes with the workflow, even if its data are kept in remote storage.
    return [
        local(home(f"scripts/{path.relative_to(SCRIPTS)}")) for path in sorted(found)
    ]


def tracked_model(name):
    """A model in a job's params: its name, and all of its entry that can change an answer."""
    return {"name": name} | {
        key: value for key, value in config["models"][name].items() if key != "run"
    }


def tracked_judge(name):
    """A judge in a job's params, with its model; the seed only if it samples."""
    entry = {
        key: value
        for key, value in config["judges"][name].items()
        if key != "benchmarks"
    }
    seed = {"seed": config["seed"]} if "sampling" in entry else {}
    return entry | seed | {"model": tracked_model(entry["model"])}


def model_files(models):
    """The files that these models' entries name: directories that rules make, and chat templates."""
    made = [path for entry in models for path in made_directories(config, entry)]
    templates = [entry.get("chat_template") for entry in models]
    return list(dict.fromkeys([*made, *(t for t in templates if isinstance(t, str))]))


def asks(scripts, asked, prompts=()):
    """The inputs, other than data, of a job that asks these models and judges.

    They are the prompt templates (each judge adds its own), the library with the models' engines,
    and the models' files.
    """
    models = [entry.get("model", entry) for entry in asked]
    templates = [
        *prompts,
        *(JUDGE_PROMPTS[entry["kind"]] for entry in asked if "kind" in entry),
    ]
    return {
        **{f"{name}_prompt": config["prompts"][name] for name in templates},
        "models": model_files(models),
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
    """The conda environment of a job that asks these models and judges; `asked` may be an input function."""
    if callable(asked):
        return lambda wildcards: environment(asked(wildcards))
    if any(entry.get("model", entry)["engine"] == "vllm" for entry in asked):
        return "../envs/vllm.yaml"  # vLLM pins an older transformers
    return "../envs/gpu.yaml" if gpus_of(asked) else "../envs/cpu.yaml"


def needs(mem_mb, runtime, asked=(), gpu=0):
    """Resources: MB of memory, minutes, and GPUs: `gpu`, or more if a model or judge in `asked` needs more.

    Each GPU adds MEM_MB_PER_GPU, and each retry half of the first request.
    """

    def gpus(wildcards):
        return max(gpu, gpus_of(asked(wildcards) if callable(asked) else asked))

    def memory(wildcards, attempt):
        return (mem_mb + MEM_MB_PER_GPU * gpus(wildcards)) * (attempt + 1) // 2

    return {"mem_mb": memory, "runtime": runtime, "gpu": gpus}


def cases_of(benchmarks):
    """The case files of these benchmarks, sorted: the config's order reruns nothing."""
    return [f"data/cases/{name}.parquet" for name in sorted(benchmarks)]


def described_benchmarks(method):
    """Benchmarks on which results show a method; if none does, all that its entry allows."""
    own = config["methods"][method].get("benchmarks", config["benchmarks"])
    return DESCRIBED.get(method, set(own))


def judge_cases(wildcards):
    """Cases on which results show a judge's decisions under a method; if none does, all that have descriptions."""
    own = config["judges"][wildcards.judge].get("benchmarks", config["benchmarks"])
    able = described_benchmarks(wildcards.method).intersection(own)
    return cases_of(JUDGED.get((wildcards.judge, wildcards.method), able))


def methods_in(table):
    """The rows of a table: the methods that name it, in the config's order."""
    return table_methods(config, table)


def describing(methods):
    """Those of the methods that write descriptions. VPL judges with a latent variable instead."""
    return [name for name in methods if config["methods"][name]["kind"] != "vpl"]


def judgement_files(judges, methods):
    return expand(
        "results/judgements/{judge}/{method}.parquet", judge=judges, method=methods
    )


def wins_between(methods):
    """Comparisons of every pair of these methods."""
    return [
        f"results/wins/{first}/{second}.parquet"
        for first, second in combinations(methods, 2)
    ]


def judgements_shown(name, entry):
    """Judgements of a table or figure: every judge on every method."""
    judges = entry.get("judges") or [
        c["judge"] for c in entry.get("columns", {}).values()
    ]
    methods = entry.get("methods") or methods_in(name)
    return judgement_files(dict.fromkeys(judges), methods)


def methods_shown(methods):
    """What a table or figure needs of its methods; `paper` is a method's name in the published tables."""
    entries = {name: config["methods"][name] for name in methods}
    return [
        {
            "name": name,
            "label": entry["label"],
            "kind": entry["kind"],
            "paper": entry.get("paper", entry["label"]),
            "reference": entry.get("reference", False),
        }
        for name, entry in entries.items()
    ]


def trained_path(model):
    """The directory of a `models` entry's trained weights."""
    return model.get("adapter", model["path"])


def trained_labels(names):
    """Labels of checkpoints: that of the first method that uses one, or else its name."""
    methods = config["methods"]
    used = {
        trained_path(config["models"][entry["model"]]): entry["label"]
        for entry in reversed(methods.values())
        if "model" in entry
    }
    labels = {name: used.get(f"models/trained/{name}", name) for name in names}
    vpl = names_in("methods", kind="vpl")  # its checkpoint has the method's name
    return labels | {name: methods[name]["label"] for name in names if name in vpl}


def judge_columns(entry):
    """One column per judge that a table or figure compares."""
    benchmarks = entry["benchmarks"]
    return [{"name": j, "judge": j, "benchmarks": benchmarks} for j in entry["judges"]]


def result_labels(wildcards):
    """Labels of a table or figure in Snakemake's own report."""
    name = wildcards.get("table") or wildcards.get("figure")
    entry = config["tables"].get(name) or config["figures"][name]
    return {"result": entry["title"], "file": name}


def reported(path, caption, category):
    """A table or figure that Snakemake's own report also shows."""
    caption = f"../resources/report/{caption}.rst"
    return report(path, caption=caption, category=category, labels=result_labels)
