# SFT on D_cold (Eq. 8) and GRPO on D_rl (Eq. 9-11): one checkpoint a variant.

TRAINING = config["training"]
SFT_PROMPTS = ("preference",)
GRPO_PROMPTS = ("preference", "judge", "respond")


rule sft:
    input:
        **prompt_files(*SFT_PROMPTS),
        model=lambda wildcards: variant_start(wildcards.variant),
        data=rules.verify.output.d_cold,
        program="scripts/train_sft.py",
        library=library("train_sft.py"),
    output:
        model=directory("models/trained/{variant}"),
        metrics="results/training/{variant}.parquet",
    log:
        "logs/training/{variant}.log",
    benchmark:
        "benchmarks/training/{variant}.tsv"
    wildcard_constraints:
        variant=one_of(variants_of("sft")),
    priority: 3
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=1440,
        gpu=TRAINING["gpus"],
    params:
        launch=TRAINING["launch"],
        model=lambda wildcards: config["models"][
            TRAINING["variants"][wildcards.variant]["from"]
        ]["path"],
        prompts=json.dumps(prompts(*SFT_PROMPTS)),
        settings=lambda wildcards: training_settings("sft", wildcards.variant),
    message:
        "Cold start: fine-tuning {wildcards.variant} on D_cold"
    shell:
        "OMP_NUM_THREADS={threads} {params.launch} {input.program} --settings {params.settings:q} "
        "--model {params.model:q} --data {input.data:q} --prompts {params.prompts:q} "
        "--output {output.model:q} --metrics {output.metrics:q} --log {log:q}"


rule grpo:
    input:
        **prompt_files(*GRPO_PROMPTS),
        model=lambda wildcards: variant_start(wildcards.variant),
        judge=lambda wildcards: judge_files(
            TRAINING["variants"][wildcards.variant]["judge"]
        ),
        data="data/splits/rl.parquet",
        program="scripts/train_grpo.py",
        library=library("train_grpo.py"),
    output:
        model=directory("models/trained/{variant}"),
        metrics="results/training/{variant}.parquet",
    log:
        "logs/training/{variant}.log",
    benchmark:
        "benchmarks/training/{variant}.tsv"
    wildcard_constraints:
        variant=one_of(variants_of("grpo")),
    priority: 3
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=2880,
        gpu=TRAINING["gpus"],
        # Not a parameter: where answers are kept changes no result.
        journal=config["journal"],
    params:
        launch=TRAINING["launch"],
        model=lambda wildcards: config["models"][
            TRAINING["variants"][wildcards.variant]["from"]
        ]["path"],
        prompts=json.dumps(prompts(*GRPO_PROMPTS)),
        settings=lambda wildcards: training_settings("grpo", wildcards.variant),
        judge=lambda wildcards: json.dumps(
            judge_entry(TRAINING["variants"][wildcards.variant]["judge"])
        ),
    message:
        "Reinforcement learning: {wildcards.variant}"
    shell:
        "OMP_NUM_THREADS={threads} {params.launch} {input.program} --settings {params.settings:q} "
        "--model {params.model:q} --data {input.data:q} --prompts {params.prompts:q} --judge {params.judge:q} "
        "--journal {resources.journal:q} "
        "--output {output.model:q} --metrics {output.metrics:q} --log {log:q}"
