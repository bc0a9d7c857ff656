# Baselines: LMInductReason and PBA describe preferences; VPL is trained on D_rl and judges for itself.


rule preferences_lminductreason:
    input:
        **prompt_files("propose_rule", "refine_rule", "judge"),
        model=method_model_files,
        judge=lambda wildcards: judge_files(method_judge_name(wildcards)),
        cases=method_cases,
        library=lambda wildcards: method_library(
            wildcards, "preferences_lminductreason.py"
        ),
    output:
        preferences="results/preferences/{method}.parquet",
    log:
        "logs/preferences/{method}.log",
    benchmark:
        "logs/timings/preferences/{method}.tsv"
    wildcard_constraints:
        method=one_of(methods_of("lminductreason")),
    conda:
        method_environment
    threads: 1
    resources:
        mem_mb=memory(2000, method_gpus),
        runtime=240,
        gpu=method_gpus,
        model=method_model_name,
        judge_model=lambda wildcards: judge_model(method_judge_name(wildcards)),
    params:
        method="{method}",
        entry=method_settings,
        model=method_model,
        judge=lambda wildcards: judge_entry(method_judge_name(wildcards)),
        sampling=config["evaluation"],
        seed=config["seed"],
    message:
        "Inducing rules of preference by method {wildcards.method}"
    script:
        "../scripts/preferences_lminductreason.py"


rule preferences_pba:
    input:
        **prompt_files("score_dimension"),
        model=method_model_files,
        wording=config["data"]["wording"],
        cases=method_cases,
        library=lambda wildcards: method_library(wildcards, "preferences_pba.py"),
    output:
        preferences="results/preferences/{method}.parquet",
    log:
        "logs/preferences/{method}.log",
    benchmark:
        "logs/timings/preferences/{method}.tsv"
    wildcard_constraints:
        method=one_of(methods_of("pba")),
    conda:
        method_environment
    threads: 1
    resources:
        mem_mb=memory(2000, method_gpus),
        runtime=240,
        gpu=method_gpus,
        model=method_model_name,
    params:
        method="{method}",
        entry=method_settings,
        model=method_model,
    message:
        "Placing signals on dimensions by method {wildcards.method}"
    script:
        "../scripts/preferences_pba.py"


rule vpl:
    input:
        model=method_model_files,
        data="data/splits/rl.parquet",
        library=lambda wildcards: method_library(wildcards, "vpl.py"),
    output:
        model=directory("models/trained/{method}"),
        metrics="results/training/{method}.parquet",
    log:
        "logs/training/{method}.log",
    benchmark:
        "logs/timings/training/{method}.tsv"
    wildcard_constraints:
        method=one_of(methods_of("vpl")),
    conda:
        method_environment
    threads: 1
    resources:
        mem_mb=memory(4000, method_gpus),
        runtime=480,
        gpu=method_gpus,
        model=method_model_name,
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
        model=method_model_files,
        heads="models/trained/{method}",
        cases=method_cases,
        library=lambda wildcards: method_library(wildcards, "vpl_judgements.py"),
    output:
        judgements="results/judgements/{judge}/{method}.parquet",
    log:
        "logs/judgements/{judge}/{method}.log",
    benchmark:
        "logs/timings/judgements/{judge}/{method}.tsv"
    wildcard_constraints:
        judge=one_of(config["judges"]),
        method=one_of(methods_of("vpl")),
    conda:
        method_environment
    threads: 1
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
