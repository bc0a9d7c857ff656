"""Write one table of the records of all jobs that the results came from."""

from alignxplore.records import replacing
from alignxplore.workflow import provenance
from alignxplore.workflow.job import script_main


def main(snakemake):
    found = provenance.gather(snakemake.input.results)
    with replacing(snakemake.output.provenance) as path:
        found.write_parquet(path)


script_main(main, snakemake)  # noqa: F821
