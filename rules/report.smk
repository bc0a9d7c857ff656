# Figures, and a page that shows every result.


rule figure_training:
    input:
        metrics=lambda wildcards: training_metrics(wildcards.figure),
        library=library("figure_training.py"),
    output:
        svg=report(
            "results/{figure}.svg",
            caption="../resources/report/training.rst",
            category="Figures",
        ),
        png="results/{figure}.png",
    log:
        "logs/figures/{figure}.log",
    benchmark:
        "benchmarks/figures/{figure}.tsv"
    wildcard_constraints:
        figure=one_of(figures_of("training")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        metric=lambda wildcards: config["figures"][wildcards.figure]["metric"],
        labels=lambda wildcards: config["figures"][wildcards.figure]["variants"],
    message:
        "{wildcards.figure}: training curves"
    script:
        "../scripts/figure_training.py"


rule figure_words:
    input:
        preferences=lambda wildcards: [
            f"results/preferences/{method}.parquet"
            for method in config["figures"][wildcards.figure]["methods"]
        ],
        library=library("figure_words.py"),
    output:
        svg=report(
            "results/{figure}.svg",
            caption="../resources/report/words.rst",
            category="Figures",
        ),
        png="results/{figure}.png",
    log:
        "logs/figures/{figure}.log",
    benchmark:
        "benchmarks/figures/{figure}.tsv"
    wildcard_constraints:
        figure=one_of(figures_of("words")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        benchmark=lambda wildcards: config["figures"][wildcards.figure]["benchmark"],
        labels=lambda wildcards: [
            config["methods"][method]["label"]
            for method in config["figures"][wildcards.figure]["methods"]
        ],
        seed=config["seed"],
    message:
        "{wildcards.figure}: word clouds of the descriptions"
    script:
        "../scripts/figure_words.py"


rule figure_accuracy:
    input:
        unpack(figure_inputs),
        judgements=lambda wildcards: judgement_files(
            config["figures"][wildcards.figure]["judges"],
            config["figures"][wildcards.figure]["methods"],
        ),
        library=library("figure_accuracy.py"),
    output:
        svg=report(
            "results/{figure}.svg",
            caption="../resources/report/accuracy_by.rst",
            category="Figures",
        ),
        png="results/{figure}.png",
        csv="results/{figure}.csv",
    log:
        "logs/figures/{figure}.log",
    benchmark:
        "benchmarks/figures/{figure}.tsv"
    wildcard_constraints:
        figure=one_of(figures_of("accuracy")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        by=lambda wildcards: config["figures"][wildcards.figure]["by"],
        methods=lambda wildcards: methods_shown(
            config["figures"][wildcards.figure]["methods"]
        ),
        columns=lambda wildcards: judge_columns(config["figures"][wildcards.figure]),
    message:
        "{wildcards.figure}: accuracy against what it may depend on"
    script:
        "../scripts/figure_accuracy.py"


rule report:
    input:
        funnel=rules.gather_refined.output.funnel,
        rejects=rules.gather_refined.output.rejects,
        tables=expand("results/{table}.csv", table=config["tables"]),
        figures=expand("results/{figure}.svg", figure=config["figures"]),
        template="resources/report/index.html.jinja",
        library=library("report.py"),
    output:
        page="results/report/index.html",
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/report.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        titles={
            name: entry["title"]
            for name, entry in {**config["tables"], **config["figures"]}.items()
        },
    message:
        "Writing {output.page}"
    script:
        "../scripts/report.py"
