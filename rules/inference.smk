# Preference descriptions: one job a method, for the cases of all its benchmarks.


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
        method=one_of(methods_of(*GIVEN)),
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=30,
    params:
        method="{method}",
        entry=method_settings,
    message:
        "Writing what method {wildcards.method} says of preferences"
    script:
        "../scripts/preferences_given.py"


rule preferences_model:
    input:
        unpack(method_prompts),
        model=method_model_files,
        cases=method_cases,
        library=lambda wildcards: method_library(wildcards, "preferences_model.py"),
    output:
        preferences="results/preferences/{method}.parquet",
    log:
        "logs/preferences/{method}.log",
    benchmark:
        "logs/timings/preferences/{method}.tsv"
    wildcard_constraints:
        method=one_of(methods_of("model")),
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
        sampling=config["evaluation"],
        seed=config["seed"],
    message:
        "Describing preferences by method {wildcards.method}"
    script:
        "../scripts/preferences_model.py"
