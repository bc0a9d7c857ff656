"""Divide the refined examples into cold-start, RL and test sets."""

from alignxplore import records
from alignxplore.cli import script_main
from alignxplore.data.split import split


def main(snakemake):
    refined = records.read(snakemake.input.refined, records.REFINED)
    for name, examples in split(refined, snakemake.params.sizes, snakemake.params.seed).items():
        records.write(examples, snakemake.output[name], records.EXAMPLE)


script_main(main, snakemake)  # noqa: F821
