"""Make benchmark cases of a test split of AlignX."""

from alignxplore import records
from alignxplore.data.benchmarks import alignx_cases, sample
from alignxplore.data.wording import Wording
from alignxplore.workflow.job import script_main


def main(snakemake):
    examples = records.read(snakemake.input["split"], records.EXAMPLE)
    cases = alignx_cases(examples, snakemake.params.benchmark, Wording.load(snakemake.input.wording))
    records.write(sample(cases, snakemake.params.limit), snakemake.output.cases, records.CASE)


script_main(main, snakemake)  # noqa: F821
