"""Fetch one raw file from the Hugging Face hub or the web."""

from alignxplore.data.locations import download
from alignxplore.workflow.job import script_main


def main(snakemake):
    download(snakemake.params.source, snakemake.output.raw)


script_main(main, snakemake)  # noqa: F821
