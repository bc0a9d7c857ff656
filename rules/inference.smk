# Preference descriptions: one job a method, for the cases of all its benchmarks.


rule preferences:
    input:
        unpack(preferences_inputs),
        cases=method_cases,
        library=library("preferences.py"),
    output:
        preferences="results/preferences/{method}.parquet",
    log:
        "logs/preferences/{method}.log",
    benchmark:
        "benchmarks/preferences/{method}.tsv"
    wildcard_constraints:
        method=one_of(describing_methods()),
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=240,
        gpu=method_gpus,
    params:
        method="{method}",
        entry=lambda wildcards: config["methods"][wildcards.method],
        model=method_model,
        judge=method_judge,
        sampling=lambda wildcards: sampling_param(wildcards, "evaluation"),
        seed=lambda wildcards: sampling_param(wildcards, "seed"),
    message:
        "Describing preferences by method {wildcards.method}"
    script:
        "../scripts/preferences.py"
