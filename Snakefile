from snakemake.utils import min_version

min_version("9.0")

# A file given by --configfile stands alone: nothing of the default leaks into it.
if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


report: "resources/report/workflow.rst"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/cold_start.smk"
include: "rules/training.smk"
include: "rules/inference.smk"
include: "rules/judging.smk"
include: "rules/baselines.smk"
include: "rules/online.smk"
include: "rules/tables.smk"
include: "rules/provenance.smk"
include: "rules/report.smk"


if "demo" in config:

    include: "rules/demo.smk"


if "gguf" in config:

    include: "rules/gguf.smk"


from alignxplore.config import unpinned_models

# Jobs read the workflow again, and would say it again.
if workflow.is_main_process and (names := unpinned_models(config)):
    logger.warning(
        "config: models without a revision: "
        + ", ".join(names)
        + ". Where one changes on the hub, the journal still answers with what it said before; pin the commit that you use"
        " by the model's key `revision`."
    )


rule all:
    default_target: True
    input:
        expand("results/{table}.csv", table=config["tables"]),
        expand("results/{figure}.svg", figure=config["figures"]),
        "results/data/splits.csv",
        "results/provenance.parquet",
        "results/report",
