"""Draw word clouds of several methods' preference descriptions (figure 3)."""

import polars as pl
from alignxplore import records
from alignxplore.results import figures
from alignxplore.workflow.job import script_main


def main(snakemake):
    params = snakemake.params
    texts = {}
    for label, path in zip(params.labels, snakemake.input.preferences, strict=True):
        preferences = records.read(path, records.PREFERENCE)
        texts[label] = preferences.filter(pl.col("benchmark") == params.benchmark)["preference"].to_list()
    figures.save(figures.word_clouds(texts, params.seed), snakemake.output.svg, snakemake.output.png)


script_main(main, snakemake)  # noqa: F821
