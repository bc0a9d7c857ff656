from snakemake.utils import min_version

min_version("9.0")


report: "resources/report/workflow.rst"


include: "rules/runtime.smk"
include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/benchmarks.smk"


if "cold_start" in config:

    include: "rules/cold_start.smk"


if "training" in config:

    include: "rules/training.smk"


include: "rules/methods.smk"
include: "rules/judging.smk"
include: "rules/online.smk"
include: "rules/tables.smk"
include: "rules/figures.smk"
include: "rules/report.smk"


if "demo" in config:

    include: "rules/demo.smk"


if "gguf" in config:

    include: "rules/gguf.smk"


rule all:
    default_target: True
    input:
        expand("results/{table}.csv", table=config["tables"]),
        expand("results/{figure}.svg", figure=config.get("figures", {})),
        SPLITS_CHECKED,
        "results/provenance.parquet",
        "results/report",
