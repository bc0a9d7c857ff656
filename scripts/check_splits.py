"""Check that drawn splits share no user, post or interaction, say what given ones share, and count examples."""

from alignxplore import records
from alignxplore.data.split import read_split, summary
from alignxplore.workflow.job import script_main


def main(snakemake):
    files = zip(snakemake.params.names, snakemake.input.splits, strict=True)
    counts = summary({name: read_split(path) for name, path in files}, snakemake.params.drawn)
    with records.replacing(snakemake.output.counts) as path:
        counts.write_csv(path)


script_main(main, snakemake)  # noqa: F821
