"""Reverse all preferences of a benchmark."""

from alignxplore import records
from alignxplore.data.benchmarks import reverse
from alignxplore.data.wording import Wording
from alignxplore.workflow.job import script_main


def main(snakemake):
    cases = records.read(snakemake.input.cases, records.CASE)
    wording = Wording.load(snakemake.input.wording) if snakemake.input.wording else None
    reversed_cases = reverse(cases, snakemake.params.benchmark, wording)
    records.write(reversed_cases, snakemake.output.cases, records.CASE)


script_main(main, snakemake)  # noqa: F821
