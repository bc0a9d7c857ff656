# Figures, and a site that shows every result.


rule figure_training:
    input:
        metrics=lambda wildcards: training_metrics(wildcards.figure),
        library=library("figure_training.py"),
    output:
        svg=report(
            "results/{figure}.svg",
            caption="../resources/report/training.rst",
            category="Figures",
            labels=result_labels,
        ),
        png="results/{figure}.png",
    log:
        "logs/figures/{figure}.log",
    benchmark:
        "logs/timings/figures/{figure}.tsv"
    wildcard_constraints:
        figure=one_of(figures_of("training")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
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
            labels=result_labels,
        ),
        png="results/{figure}.png",
    log:
        "logs/figures/{figure}.log",
    benchmark:
        "logs/timings/figures/{figure}.tsv"
    wildcard_constraints:
        figure=one_of(figures_of("words")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
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
            labels=result_labels,
        ),
        png="results/{figure}.png",
        csv="results/{figure}.csv",
    log:
        "logs/figures/{figure}.log",
    benchmark:
        "logs/timings/figures/{figure}.tsv"
    wildcard_constraints:
        figure=one_of(figures_of("accuracy")),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(1000),
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


if "case_study" in config:

    rule case_study:
        input:
            cases=f"data/cases/{config['case_study']['benchmark']}.parquet",
            preferences=preferences_of(config["case_study"]["methods"]),
            judgements=judgement_files(
                [config["case_study"]["judge"]], config["case_study"]["methods"]
            ),
            library=library("case_study.py"),
        output:
            markdown=report(
                "results/case_study.md",
                caption="../resources/report/case_study.rst",
                category="Cases",
                labels={"result": "Case study", "file": "case_study"},
            ),
            cases="results/case_study.json",
        log:
            "logs/case_study.log",
        benchmark:
            "logs/timings/case_study.tsv"
        conda:
            "../envs/cpu.yaml"
        resources:
            mem_mb=memory(1000),
            runtime=30,
        params:
            wanted=config["case_study"]["cases"],
            labels={
                method: config["methods"][method]["label"]
                for method in config["case_study"]["methods"]
            },
        message:
            "Case study: methods side by side"
        script:
            "../scripts/case_study.py"


rule report:
    input:
        tables=expand("results/{table}.csv", table=config["tables"]),
        figures=expand("results/{figure}.svg", figure=config["figures"]),
        points=expand("results/{figure}.csv", figure=figures_of("accuracy")),
        cases=cases_of(reported_benchmarks()),
        preferences=preferences_of(reported_methods()),
        judgements=reported_judgements(),
        responses=reported_responses(),
        wins=reported_wins(),
        metrics=reported_metrics(),
        study=(rules.case_study.output.cases if "case_study" in config else []),
        funnel=rules.gather_refined.output.funnel,
        rejects=rules.gather_refined.output.rejects,
        splits=rules.check_splits.output.counts,
        provenance="results/provenance.parquet",
        dimensions="resources/dimensions.csv",
        captions=list(dict.fromkeys(captions().values())),
        site=resource_files("report/*/*"),
        library=library("report.py"),
    output:
        site=directory("results/report"),
    log:
        "logs/report.log",
    benchmark:
        "logs/timings/report.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory(4000),
        runtime=120,
    params:
        titles={name: entry["title"] for name, entry in named_results()},
        captions=captions(),
        labels={
            method: config["methods"][method]["label"] for method in reported_methods()
        },
    message:
        "Writing the site {output.site}/index.html"
    script:
        "../scripts/report.py"
