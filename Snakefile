from snakemake.utils import min_version

min_version("9.0")


configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/data.smk"


if "demo" in config:

    include: "rules/demo.smk"


rule all:
    default_target: True
    input:
        expand("data/cases/{benchmark}.parquet", benchmark=config["benchmarks"]),
        "data/splits/cold.parquet",
        "data/splits/rl.parquet",
        "data/cold/dimensions.parquet",
        [f"models/demo/{name}" for name in config.get("demo", {}).get("models", ())],
