"""Name the key preference dimensions of each cold-start example (paper 3.2)."""

from alignxplore import records
from alignxplore.data.refine import key_dimensions
from alignxplore.data.wording import dimension_names
from alignxplore.workflow.job import script_main


def main(snakemake):
    examples = records.read(snakemake.input["split"], records.EXAMPLE)
    dimensions = key_dimensions(examples, dimension_names(snakemake.input["names"]), snakemake.params.source)
    records.write(dimensions, snakemake.output.dimensions, records.DIMENSIONS)


script_main(main, snakemake)  # noqa: F821
