# SFT on D_cold (Eq. 8) and GRPO on D_rl (Eq. 9-11): one checkpoint per variant.

import shlex

import yaml

from alignxplore.workflow.config import DATA_OF_STAGE, variant_prompts

TRAINING = config["training"]
VARIANTS = TRAINING["variants"]


def launch_files(command):
    """The files in a launch command, and the DeepSpeed files that accelerate's name."""
    words = [part for word in shlex.split(command) for part in word.split("=")]
    files = [
        word
        for word in words
        if word.endswith((".yaml", ".json", ".sh")) and Path(word).is_file()
    ]
    for file in [file for file in files if not file.endswith(".sh")]:
        values = yaml.safe_load(Path(file).read_text()) or {}
        named = values.get("deepspeed_config") or {}
        files += filter(None, [named.get("deepspeed_config_file")])
    return files


def variant_start(wildcards):
    """Files of the model that a variant starts from: its directory, if a rule makes it, and its chat template."""
    return model_files([config["models"][VARIANTS[wildcards.variant]["from"]]])


def variant_model(wildcards):
    """What a variant uses of the entry of the model that it starts from."""
    entry = config["models"][VARIANTS[wildcards.variant]["from"]]
    used = {"path", "revision", "chat_template"}
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


def variant_settings(wildcards):
    """A variant's settings over those of its stage, without training.run, which changes no result."""
    variant = VARIANTS[wildcards.variant]
    return TRAINING[variant["stage"]] | variant.get("settings", {})


def variant_judge(wildcards):
    return tracked_judge(VARIANTS[wildcards.variant]["judge"])


rule sft:
    input:
        unpack(variant_inputs),
        start=variant_start,
        launch=launch_files(TRAINING["launch"]),
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
        settings=variant_settings,
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
        launch=launch_files(TRAINING["launch"]),
        program=home("scripts/train_grpo.py"),
    output:
        model=directory("models/trained/{variant}"),
        metrics="results/training/{variant}.parquet",
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
        settings=variant_settings,
        seed=setting("training/variants/{variant}/seed", config["seed"]),
        judge=variant_judge,
    message:
        "Reinforcement learning: training {wildcards.variant} by GRPO (Eq. 9-11)"
    script:
        "../scripts/grpo.py"
