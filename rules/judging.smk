# Offline judgements: one job a judge and method, for the cases of all the judge's benchmarks. They may be grouped, so no
# resource of theirs is a word: jobs of a group have to agree on those.


rule judgements:
    input:
        unpack(lambda wildcards: judge_prompts(wildcards.judge)),
        model=lambda wildcards: judge_files(wildcards.judge),
        cases=judge_cases,
        preferences="results/preferences/{method}.parquet",
        library=lambda wildcards: library(
            "judgements.py", models=[judge_model(wildcards.judge)]
        ),
    output:
        judgements="results/judgements/{judge}/{method}.parquet",
    log:
        "logs/judgements/{judge}/{method}.log",
    benchmark:
        "logs/timings/judgements/{judge}/{method}.tsv"
    wildcard_constraints:
        judge=one_of(config["judges"]),
        method=one_of(describing_methods()),
    conda:
        lambda wildcards: environment(judge_model(wildcards.judge))
    threads: 1
    resources:
        mem_mb=memory(2000, lambda wildcards: judge_gpus(wildcards.judge)),
        runtime=240,
        gpu=lambda wildcards: judge_gpus(wildcards.judge),
    params:
        name="{judge}",
        judge=lambda wildcards: judge_entry(wildcards.judge),
    message:
        "Judging {wildcards.method} by {wildcards.judge}"
    script:
        "../scripts/judgements.py"
