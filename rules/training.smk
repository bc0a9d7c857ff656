# SFT on D_cold (Eq. 8) and GRPO on D_rl (Eq. 9-11): one checkpoint per variant.

from alignxplore.workflow import launcher
from alignxplore.workflow.config import (
    DATA_OF_STAGE,
    held_out_file,
    variant_prompts,
    variant_settings,
)

TRAINING = config["training"]
VARIANTS = TRAINING["variants"]


def variant_start(wildcards):
    """Files of the model that a variant starts from: its directory, if a rule makes it, and its chat template."""
    return model_files([config["models"][VARIANTS[wildcards.variant]["from"]]])


def variant_model(wildcards):
    """What a variant uses of the entry of the model that it starts from."""
    entry = config["models"][VARIANTS[wildcards.variant]["from"]]
    used = {"path", "adapter", "revision", "chat_template"}
    if VARIANTS[wildcards.variant]["stage"] == "grpo":
        used.add("stop")  # of rollouts
    return {key: value for key, value in entry.items() if key in used}


def variant_inputs(wildcards):
    """A variant's data, and the templates of its prompts."""
    entry = VARIANTS[wildcards.variant]
    templates = variant_prompts(config, entry)
    return {
        "data": entry.get("data", DATA_OF_STAGE[entry["stage"]]),
        **{f"{name}_prompt": config["prompts"][name] for name in templates},
    }


def tracked_settings(wildcards):
    """A variant's settings, without training.run, which changes no result."""
    return variant_settings(config, wildcards.variant)


def variant_held_out(wildcards):
    """The file of examples on which a variant is evaluated while it trains, if it is."""
    return held_out_file(config, wildcards.variant) or []


def variant_judge(wildcards):
    return tracked_judge(VARIANTS[wildcards.variant]["judge"])


rule sft:
    input:
        unpack(variant_inputs),
        start=variant_start,
        launch=launcher.files(TRAINING["launch"]),
        program=home("scripts/train_sft.py"),
        library=library("sft.py", "train_sft.py"),
    output:
        model=directory("models/trained/{variant}"),
        metrics="results/training/{variant}.parquet",
    log:
        "logs/training/{variant}.log",
    benchmark:
        "logs/timings/training/{variant}.tsv"
    wildcard_constraints:
        variant=one_of(
            name for name, entry in VARIANTS.items() if entry["stage"] == "sft"
        ),
    priority: 3
    conda:
        "../envs/gpu.yaml" if TRAINING["gpus"] else "../envs/cpu.yaml"
    resources:
        **needs(4000, 1440, gpu=TRAINING["gpus"]),
    params:
        launch=TRAINING["launch"],
        model=variant_model,
        settings=tracked_settings,
        seed=setting("training/variants/{variant}/seed", config["seed"]),
    message:
        "Cold start: fine-tuning {wildcards.variant} on D_cold (Eq. 8)"
    script:
        "../scripts/sft.py"


rule grpo:
    input:
        unpack(
            lambda wildcards: asks(
                ["grpo.py", "train_grpo.py"], [variant_judge(wildcards)]
            )
        ),
        unpack(variant_inputs),
        start=variant_start,
        held_out=variant_held_out,
        launch=launcher.files(TRAINING["launch"]),
        program=home("scripts/train_grpo.py"),
    output:
        model=directory("models/trained/{variant}"),
        metrics="results/training/{variant}.parquet",
        rollouts="results/rollouts/{variant}.parquet",
    log:
        "logs/training/{variant}.log",
    benchmark:
        "logs/timings/training/{variant}.tsv"
    wildcard_constraints:
        variant=one_of(
            name for name, entry in VARIANTS.items() if entry["stage"] == "grpo"
        ),
    priority: 3
    conda:
        "../envs/gpu.yaml" if TRAINING["gpus"] else "../envs/cpu.yaml"
    resources:
        **needs(4000, 2880, gpu=TRAINING["gpus"]),
    params:
        launch=TRAINING["launch"],
        model=variant_model,
        settings=tracked_settings,
        seed=setting("training/variants/{variant}/seed", config["seed"]),
        judge=variant_judge,
    message:
        "Reinforcement learning: training {wildcards.variant} by GRPO (Eq. 9-11)"
    script:
        "../scripts/grpo.py"
