# Methods: preference descriptions, one job per method for the cases of all its benchmarks. VPL
# describes nothing: it is trained on D_rl and judges for itself.

from alignxplore.methods.preferences import GIVEN


def method_cases(wildcards):
    """Cases of a method's benchmarks: all, unless its entry names some."""
    return cases_of(config["methods"][wildcards.method].get("benchmarks", config["benchmarks"]))


def method_settings(wildcards):
    """What a method's entry says about its descriptions; the rest has a place of its own."""
    elsewhere = {"label", "paper", "reference", "benchmarks", "tables", "model", "judge", "sampling"}
    entry = config["methods"][wildcards.method]
    return {key: value for key, value in entry.items() if key not in elsewhere}


def method_model(wildcards):
    return model(config["methods"][wildcards.method]["model"])


def method_judge(wildcards):
    return judge(config["methods"][wildcards.method]["judge"])


def method_gpus(wildcards):
    return gpus(method_model(wildcards))


def describing_prompt(wildcards):
    """The template by which a method's model is asked for a description."""
    return "preference" if config["methods"][wildcards.method]["reasoning"] else "concise"


rule preferences_given:
    input:
        cases=method_cases,
        library=library("preferences_given.py"),
    output:
        preferences="results/preferences/{method}.parquet",
    log:
        "logs/preferences/{method}.log",
    benchmark:
        "logs/timings/preferences/{method}.tsv"
    wildcard_constraints:
        method=one_of(names("methods", kind=GIVEN)),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
        runtime=30,
    params:
        method="{method}",
        entry=method_settings,
    message:
        "Writing the descriptions of {wildcards.method}"
    script:
        "../scripts/preferences_given.py"


rule preferences_model:
    input:
        unpack(
            lambda wildcards: asks(
                ["preferences_model.py"],
                method_model(wildcards),
                prompts=[describing_prompt(wildcards)],
            )
        ),
        cases=method_cases,
    output:
        preferences="results/preferences/{method}.parquet",
    log:
        "logs/preferences/{method}.log",
    benchmark:
        "logs/timings/preferences/{method}.tsv"
    wildcard_constraints:
        method=one_of(names("methods", kind=["model"])),
    conda:
        lambda wildcards: environment(method_model(wildcards))
    resources:
        mem_mb=memory(2000, method_gpus),
        runtime=240,
        gpu=method_gpus,
    params:
        method="{method}",
        entry=method_settings,
        model=method_model,
        sampling=setting("methods/{method}/sampling", config["evaluation"]),
        seed=config["seed"],
    message:
        "Describing preferences by {wildcards.method}"
    script:
        "../scripts/preferences_{params.entry[kind]}.py"


use rule preferences_model as preferences_lminductreason with:
    input:
        unpack(
            lambda wildcards: asks(
                ["preferences_lminductreason.py"],
                method_model(wildcards),
                method_judge(wildcards),
                prompts=["propose_rule", "refine_rule"],
            )
        ),
        cases=method_cases,
    wildcard_constraints:
        method=one_of(names("methods", kind=["lminductreason"])),
    conda:
        lambda wildcards: environment(method_model(wildcards), method_judge(wildcards))
    params:
        method="{method}",
        entry=method_settings,
        model=method_model,
        judge=method_judge,
        sampling=setting("methods/{method}/sampling", config["evaluation"]),
        seed=config["seed"],


use rule preferences_model as preferences_pba with:
    input:
        unpack(
            lambda wildcards: asks(
                ["preferences_pba.py"], method_model(wildcards), prompts=["score_dimension"]
            )
        ),
        wording=config["data"]["wording"],
        cases=method_cases,
    wildcard_constraints:
        method=one_of(names("methods", kind=["pba"])),
    params:
        method="{method}",
        entry=method_settings,
        model=method_model,


rule vpl:
    input:
        unpack(lambda wildcards: asks(["vpl.py"], method_model(wildcards))),
        data="data/splits/rl.parquet",
    output:
        model=directory("models/trained/{method}"),
        metrics="results/training/{method}.parquet",
    log:
        "logs/training/{method}.log",
    benchmark:
        "logs/timings/training/{method}.tsv"
    wildcard_constraints:
        method=one_of(names("methods", kind=["vpl"])),
    conda:
        lambda wildcards: environment(method_model(wildcards))
    resources:
        mem_mb=memory(4000, method_gpus),
        runtime=480,
        gpu=method_gpus,
    params:
        model=method_model,
        settings=config.get("vpl"),
        seed=config["seed"],
    message:
        "Training {wildcards.method} on the features of a frozen model"
    script:
        "../scripts/vpl.py"


rule vpl_judgements:
    input:
        unpack(lambda wildcards: asks(["vpl_judgements.py"], method_model(wildcards))),
        heads="models/trained/{method}",
        cases=method_cases,
    output:
        judgements="results/judgements/{judge}/{method}.parquet",
    log:
        "logs/judgements/{judge}/{method}.log",
    benchmark:
        "logs/timings/judgements/{judge}/{method}.tsv"
    wildcard_constraints:
        judge=one_of(config["judges"]),
        method=one_of(names("methods", kind=["vpl"])),
    conda:
        lambda wildcards: environment(method_model(wildcards))
    resources:
        mem_mb=memory(2000, method_gpus),
        runtime=240,
        gpu=method_gpus,
    params:
        name="{judge}",
        method="{method}",
        model=method_model,
    message:
        "Judging by {wildcards.method} itself, in place of {wildcards.judge}"
    script:
        "../scripts/vpl_judgements.py"
