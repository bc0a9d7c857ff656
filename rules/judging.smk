# Offline judgements: one job per judge and method, for the cases that results show.


def judge_asked(wildcards):
    return [tracked_judge(wildcards.judge)]


rule judgements:
    input:
        unpack(lambda wildcards: asks(["judgements.py"], judge_asked(wildcards))),
        cases=judge_cases,
        preferences="results/preferences/{method}.parquet",
    output:
        judgements="results/judgements/{judge}/{method}.parquet",
    log:
        "logs/judgements/{judge}/{method}.log",
    benchmark:
        "logs/timings/judgements/{judge}/{method}.tsv"
    wildcard_constraints:
        judge=one_of(config["judges"]),
        method=one_of(describing(config["methods"])),
    conda:
        environment(judge_asked)
    resources:
        **needs(2000, 240, judge_asked),
    params:
        name="{judge}",
        judge=lambda wildcards: tracked_judge(wildcards.judge),
    message:
        "Judging the descriptions of {wildcards.method} with {wildcards.judge}"
    script:
        "../scripts/judgements.py"
