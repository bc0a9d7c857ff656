# Figures: training curves, word clouds, and accuracy against a possible influence.


def figure_entry(wildcards):
    return config["figures"][wildcards.figure]


rule figure_training:
    input:
        metrics=lambda wildcards: expand(
            "results/training/{variant}.parquet",
            variant=figure_entry(wildcards)["variants"],
        ),
        library=library("figure_training.py"),
    output:
        svg=reported("results/{figure}.svg", "training", "Figures"),
        png="results/{figure}.png",
    log:
        "logs/figures/{figure}.log",
    benchmark:
        "logs/timings/figures/{figure}.tsv"
    wildcard_constraints:
        figure=one_of(names_in("figures", kind="training")),
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(1000, 30),
    params:
        labels=lambda wildcards: list(
            trained_labels(figure_entry(wildcards)["variants"]).values()
        ),
        metric=setting("figures/{figure}/metric"),
    message:
        "Drawing {wildcards.figure}"
    script:
        "../scripts/figure_training.py"


rule figure_words:
    input:
        preferences=lambda wildcards: expand(
            "results/preferences/{method}.parquet",
            method=figure_entry(wildcards)["methods"],
        ),
        library=library("figure_words.py"),
    output:
        svg=reported("results/{figure}.svg", "words", "Figures"),
        png="results/{figure}.png",
    log:
        "logs/figures/{figure}.log",
    benchmark:
        "logs/timings/figures/{figure}.tsv"
    wildcard_constraints:
        figure=one_of(names_in("figures", kind="words")),
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(1000, 30),
    params:
        benchmark=setting("figures/{figure}/benchmark"),
        labels=lambda wildcards: [
            shown["label"]
            for shown in methods_shown(figure_entry(wildcards)["methods"])
        ],
        seed=config["seed"],
    message:
        "Drawing {wildcards.figure}"
    script:
        "../scripts/figure_words.py"


def accuracy_inputs(wildcards):
    """The query of an accuracy figure, and the inputs that it needs besides judgements."""
    entry = figure_entry(wildcards)
    inputs = {"sql": home(f"scripts/sql/accuracy_by_{entry['by']}.sql")}
    if entry["by"] in ("dimension", "signals", "chunk"):
        inputs["cases"] = cases_of(entry["benchmarks"])
    if entry["by"] == "dimension":
        inputs["names"] = home("resources/dimensions.csv")
    if entry["by"] == "length":
        inputs["preferences"] = expand(
            "results/preferences/{method}.parquet", method=entry["methods"]
        )
    return inputs


rule figure_accuracy:
    input:
        unpack(accuracy_inputs),
        judgements=lambda wildcards: judgements_shown(
            wildcards.figure, figure_entry(wildcards)
        ),
        library=library("figure_accuracy.py"),
    output:
        svg=reported("results/{figure}.svg", "accuracy_by", "Figures"),
        png="results/{figure}.png",
        csv="results/{figure}.csv",
    log:
        "logs/figures/{figure}.log",
    benchmark:
        "logs/timings/figures/{figure}.tsv"
    wildcard_constraints:
        figure=one_of(names_in("figures", kind="accuracy")),
    conda:
        "../envs/cpu.yaml"
    resources:
        **needs(1000, 30),
    params:
        by=setting("figures/{figure}/by"),
        methods=lambda wildcards: methods_shown(figure_entry(wildcards)["methods"]),
        columns=lambda wildcards: judge_columns(figure_entry(wildcards)),
    message:
        "Drawing {wildcards.figure}"
    script:
        "../scripts/figure_accuracy.py"
