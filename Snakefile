from snakemake.utils import min_version

min_version("9.0")

# A file given by --configfile stands alone: nothing of the default leaks into it.
if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/cold_start.smk"
include: "rules/training.smk"
include: "rules/inference.smk"
include: "rules/judging.smk"


if "demo" in config:

    include: "rules/demo.smk"


rule all:
    default_target: True
    input:
        "data/splits/rl.parquet",
        "data/cold/d_cold.parquet",
        expand(
            "results/judgements/{judge}/{method}.parquet",
            judge=config["judges"],
            method=config["methods"],
        ),
