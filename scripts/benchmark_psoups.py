"""Make benchmark cases of a published P-SOUPS file."""

from alignxplore import records
from alignxplore.cli import script_main
from alignxplore.data.benchmarks import psoups_cases


def main(snakemake):
    params = snakemake.params
    cases = psoups_cases(snakemake.input.raw, params.benchmark, params.dimension, params.positive)
    records.write(cases, snakemake.output.cases, records.CASE)


script_main(main, snakemake)  # noqa: F821
