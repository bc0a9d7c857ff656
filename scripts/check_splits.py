"""Check that the splits share no user, post or interaction, and count their examples."""

from alignxplore import records
from alignxplore.data.split import summary
from alignxplore.workflow.job import script_main


def main(snakemake):
    files = zip(snakemake.params.names, snakemake.input.splits, strict=True)
    counts = summary({name: records.read(path, records.EXAMPLE) for name, path in files})
    with records.replacing(snakemake.output.counts) as path:
        counts.write_csv(path)


script_main(main, snakemake)  # noqa: F821
