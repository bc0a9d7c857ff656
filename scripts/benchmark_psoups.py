"""Make benchmark cases of a P-SOUPS file."""

from alignxplore import records
from alignxplore.data.benchmarks import psoups_cases, sample
from alignxplore.data.psoups import Signals
from alignxplore.workflow.job import script_main


def main(snakemake):
    params = snakemake.params
    signals = Signals(params.signals, params.seed)
    cases = psoups_cases(snakemake.input.raw, params.benchmark, params.dimension, params.positive, signals)
    records.write(sample(cases, params.limit), snakemake.output.cases, records.CASE)


script_main(main, snakemake)  # noqa: F821
