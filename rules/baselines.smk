# Baselines that are trained on D_rl and judge for themselves: VPL.


rule vpl:
    input:
        model=lambda wildcards: model_files(
            config["methods"][wildcards.method]["model"]
        ),
        data="data/splits/rl.parquet",
        library=library("vpl.py"),
    output:
        model=directory("models/trained/{method}"),
        metrics="results/training/{method}.parquet",
    log:
        "logs/training/{method}.log",
    benchmark:
        "benchmarks/training/{method}.tsv"
    wildcard_constraints:
        method=one_of(methods_of("vpl")),
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=4000,
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
        model=lambda wildcards: model_files(
            config["methods"][wildcards.method]["model"]
        ),
        heads="models/trained/{method}",
        cases=method_cases,
        library=library("vpl_judgements.py"),
    output:
        judgements="results/judgements/{judge}/{method}.parquet",
    log:
        "logs/judgements/{judge}/{method}.log",
    benchmark:
        "benchmarks/judgements/{judge}/{method}.tsv"
    wildcard_constraints:
        judge=one_of(config["judges"]),
        method=one_of(methods_of("vpl")),
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
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
