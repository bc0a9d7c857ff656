# SFT on D_cold (Eq. 8) and GRPO on D_rl (Eq. 9-11): one checkpoint a variant.

TRAINING = config["training"]


rule sft:
    input:
        **prompt_files("preference"),
        model=lambda wildcards: variant_start(wildcards.variant),
        data=rules.verify.output.d_cold,
        launch=launch_files(TRAINING["launch"]),
        program="scripts/train_sft.py",
        library=library("sft.py", "train_sft.py", models=[]),
    output:
        model=directory("models/trained/{variant}"),
        metrics="results/training/{variant}.parquet",
    log:
        "logs/training/{variant}.log",
    benchmark:
        "logs/timings/training/{variant}.tsv"
    wildcard_constraints:
        variant=one_of(variants_of("sft")),
    priority: 3
    conda:
        torch_environment(TRAINING["gpus"])
    threads: 1
    resources:
        mem_mb=memory(4000, TRAINING["gpus"]),
        runtime=1440,
        gpu=TRAINING["gpus"],
    params:
        launch=TRAINING["launch"],
        model=lambda wildcards: variant_model(wildcards.variant),
        settings=training_settings("sft"),
        seed=config["seed"],
    message:
        "Cold start: fine-tuning {wildcards.variant} on D_cold"
    script:
        "../scripts/sft.py"


rule grpo:
    input:
        unpack(lambda wildcards: judge_prompts(variant_judge(wildcards.variant))),
        **prompt_files("preference"),
        model=lambda wildcards: variant_start(wildcards.variant),
        judge=lambda wildcards: judge_files(variant_judge(wildcards.variant)),
        data="data/splits/rl.parquet",
        launch=launch_files(TRAINING["launch"]),
        program="scripts/train_grpo.py",
        library=lambda wildcards: library(
            "grpo.py",
            "train_grpo.py",
            models=[judge_model(variant_judge(wildcards.variant))],
        ),
    output:
        model=directory("models/trained/{variant}"),
        metrics="results/training/{variant}.parquet",
    log:
        "logs/training/{variant}.log",
    benchmark:
        "logs/timings/training/{variant}.tsv"
    wildcard_constraints:
        variant=one_of(variants_of("grpo")),
    priority: 3
    conda:
        torch_environment(TRAINING["gpus"])
    threads: 1
    resources:
        mem_mb=memory(4000, TRAINING["gpus"]),
        runtime=2880,
        gpu=TRAINING["gpus"],
        judge_model=lambda wildcards: judge_model(variant_judge(wildcards.variant)),
    params:
        launch=TRAINING["launch"],
        model=lambda wildcards: variant_model(wildcards.variant),
        settings=training_settings("grpo"),
        seed=config["seed"],
        judge=lambda wildcards: judge_entry(variant_judge(wildcards.variant)),
    message:
        "Reinforcement learning: {wildcards.variant}"
    script:
        "../scripts/grpo.py"
