"""Make benchmark cases of a split."""

from alignxplore import records
from alignxplore.data.benchmarks import sample, split_cases
from alignxplore.data.wording import Wording
from alignxplore.workflow.job import script_main


def main(snakemake):
    examples = records.read(snakemake.input["split"], records.EXAMPLE)
    wording = Wording.load(snakemake.input.wording) if snakemake.input.wording else None
    cases = split_cases(examples, snakemake.params.benchmark, wording)
    records.write(sample(cases, snakemake.params.limit), snakemake.output.cases, records.CASE)


script_main(main, snakemake)  # noqa: F821
