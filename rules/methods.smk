# Methods: preference descriptions, one job per method for the cases of all its benchmarks. VPL
# writes no descriptions: it is trained on D_rl and judges cases itself.

from alignxplore.methods.given import GIVEN
from alignxplore.workflow.config import method_prompts


def method_cases(wildcards):
    return cases_of(described_benchmarks(wildcards.method))


def method_settings(wildcards):
    """The part of a method's entry that is not used elsewhere or passed as a parameter of its own."""
    elsewhere = {
        "label",
        "paper",
        "reference",
        "benchmarks",
        "tables",
        "model",
        "judge",
        "sampling",
    }
    entry = config["methods"][wildcards.method]
    return {key: value for key, value in entry.items() if key not in elsewhere}


def method_asks(wildcards):
    """The model that a method asks, and the judge if it has one."""
    entry = config["methods"][wildcards.method]
    judges = [tracked_judge(entry["judge"])] if "judge" in entry else []
    return [tracked_model(entry["model"]), *judges]


def method_inputs(script, prompts=lambda entry: ()):
    """An input function: what a method's script reads besides cases; `prompts` maps its entry to templates."""

    def of_job(wildcards):
        entry = config["methods"][wildcards.method]
        return asks([script], method_asks(wildcards), prompts(entry))

    return of_job


# Methods of kind pba that read annotated directions instead of asking a model.
ANNOTATED = names_in("methods", kind="pba", scores="annotations")


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
        method=one_of(
            n for n, entry in config["methods"].items() if entry["kind"] in GIVEN
        ),
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(1000, 30),
    params:
        method="{method}",
        entry=method_settings,
        script="preferences_given",
    message:
        "Writing the descriptions of {wildcards.method}"
    script:
        "../scripts/{params.script}.py"


use rule preferences_given as preferences_opposite with:
    input:
        cases=method_cases,
        wording=setting("data/wording", []),
        library=library("preferences_opposite.py"),
    wildcard_constraints:
        method=one_of(names_in("methods", kind="opposite")),
    params:
        script="preferences_opposite",


use rule preferences_given as preferences_shuffled with:
    input:
        cases=method_cases,
        library=library("preferences_shuffled.py"),
    wildcard_constraints:
        method=one_of(names_in("methods", kind="shuffled")),
    params:
        script="preferences_shuffled",
        seed=config["seed"],


use rule preferences_given as preferences_annotated with:
    input:
        cases=method_cases,
        wording=setting("data/wording", []),
        library=library("preferences_annotated.py"),
    wildcard_constraints:
        method=one_of(ANNOTATED),
    params:
        script="preferences_annotated",


rule preferences_pba:
    input:
        unpack(method_inputs("preferences_pba.py", method_prompts)),
        wording=setting("data/wording", []),
        cases=method_cases,
    output:
        preferences="results/preferences/{method}.parquet",
    log:
        "logs/preferences/{method}.log",
    benchmark:
        "logs/timings/preferences/{method}.tsv"
    wildcard_constraints:
        method=one_of(n for n in names_in("methods", kind="pba") if n not in ANNOTATED),
    conda:
        environment(method_asks)
    resources:
        **needs(2000, 240, method_asks),
    params:
        method="{method}",
        entry=method_settings,
        model=lambda wildcards: method_asks(wildcards)[0],
    message:
        "Describing preferences with {wildcards.method}"
    script:
        "../scripts/preferences_{params.entry[kind]}.py"


use rule preferences_pba as preferences_model with:
    input:
        unpack(method_inputs("preferences_model.py", method_prompts)),
        cases=method_cases,
    wildcard_constraints:
        method=one_of(names_in("methods", kind="model")),
    params:
        sampling=setting("methods/{method}/sampling", config.get("evaluation")),
        seed=config["seed"],


use rule preferences_model as preferences_lminductreason with:
    input:
        unpack(method_inputs("preferences_lminductreason.py", method_prompts)),
        cases=method_cases,
    wildcard_constraints:
        method=one_of(names_in("methods", kind="lminductreason")),
    params:
        judge=lambda wildcards: method_asks(wildcards)[1],


rule vpl:
    input:
        unpack(method_inputs("vpl.py")),
        data="data/splits/rl.parquet",
    output:
        model=directory("models/trained/{method}"),
        metrics="results/training/{method}.parquet",
    log:
        "logs/training/{method}.log",
    benchmark:
        "logs/timings/training/{method}.tsv"
    wildcard_constraints:
        method=one_of(names_in("methods", kind="vpl")),
    conda:
        environment(method_asks)
    resources:
        **needs(4000, 480, method_asks),
    params:
        model=lambda wildcards: method_asks(wildcards)[0],
        settings=config.get("vpl"),
        seed=config["seed"],
    message:
        "Training {wildcards.method} on the features of a frozen model"
    script:
        "../scripts/vpl.py"


rule vpl_judgements:
    input:
        unpack(method_inputs("vpl_judgements.py")),
        heads="models/trained/{method}",
        cases=judge_cases,
    output:
        judgements="results/judgements/{judge}/{method}.parquet",
    log:
        "logs/judgements/{judge}/{method}.log",
    benchmark:
        "logs/timings/judgements/{judge}/{method}.tsv"
    wildcard_constraints:
        judge=one_of(config["judges"]),
        method=one_of(names_in("methods", kind="vpl")),
    conda:
        environment(method_asks)
    resources:
        **needs(2000, 240, method_asks),
    params:
        name="{judge}",
        method="{method}",
        model=lambda wildcards: method_asks(wildcards)[0],
    message:
        "Judging with {wildcards.method} itself instead of {wildcards.judge}"
    script:
        "../scripts/vpl_judgements.py"
