"""Fetch one raw file from a dataset on the Hugging Face hub, at a pinned revision."""

from alignxplore.workflow.job import script_main
from alignxplore.data.download import download


def main(snakemake):
    download(snakemake.params.source, snakemake.output.raw)


script_main(main, snakemake)  # noqa: F821
