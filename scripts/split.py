"""Draw one split: cold start, RL, test, or test with user-generated content."""

import polars as pl
from alignxplore import records
from alignxplore.data.split import split, split_keys, take
from alignxplore.workflow.job import script_main


def main(snakemake):
    params = snakemake.params
    records.check_intact(snakemake.input.refined)
    refined = pl.scan_parquet(snakemake.input.refined, glob=False)
    keys = split_keys(refined)
    chosen = split(keys, params.name, params.size, params.shares, params.seed, params.balance, params.parent)
    records.write(take(refined, chosen), snakemake.output.examples, records.EXAMPLE)


script_main(main, snakemake)  # noqa: F821
