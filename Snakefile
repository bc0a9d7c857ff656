from pathlib import Path

from snakemake.common.configfile import load_configfile
from snakemake.utils import min_version, update_config

min_version("9.0")

# The lowest layer, then the files of --configfile, or else the embedded default. Snakemake 9.27 would merge
# the files with each other first, before it puts them over the lowest layer: what one removes (null) and a
# later one writes anew would get back its old entries, and tables would have their rows in another order.
# Test: tests/workflow/test_dag.py, test_layers_go_over_each_other_one_by_one.
CONFIG = Path(workflow.basedir) / "config"
config.clear()
for layer in [
    CONFIG / "base.yaml",
    *(workflow.config_settings.configfiles or [CONFIG / "demo.yaml"]),
]:
    update_config(config, load_configfile(layer))


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
