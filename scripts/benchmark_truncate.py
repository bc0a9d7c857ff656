"""Keep the first signals of every case of a benchmark."""

from alignxplore import records
from alignxplore.data.benchmarks import truncate
from alignxplore.workflow.job import script_main


def main(snakemake):
    params = snakemake.params
    cases = truncate(records.read(snakemake.input.cases, records.CASE), params.benchmark, params.signals)
    records.write(cases, snakemake.output.cases, records.CASE)


script_main(main, snakemake)  # noqa: F821
