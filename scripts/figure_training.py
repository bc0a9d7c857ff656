"""Draw one training metric, one line per variant (figures 2 and 4)."""

from alignxplore import records
from alignxplore.results import figures
from alignxplore.training.metrics import GRPO_METRICS
from alignxplore.workflow.job import script_main


def main(snakemake):
    params = snakemake.params
    tables = [records.read(path, GRPO_METRICS) for path in snakemake.input.metrics]
    figure = figures.training_curves(dict(zip(params.labels, tables, strict=True)), params.metric)
    figures.save(figure, snakemake.output.svg, snakemake.output.png)


script_main(main, snakemake)  # noqa: F821
