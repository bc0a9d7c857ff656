"""Divide the refined examples into cold-start, RL and test sets."""

import polars as pl
from alignxplore import records
from alignxplore.cli import script_main
from alignxplore.data.split import check_disjoint, split, split_keys, take


def main(snakemake):
    params = snakemake.params
    refined = pl.scan_parquet(snakemake.input.refined, glob=False)
    chosen = split(split_keys(refined), params.sizes, params.seed, params.balance)
    sets = {name: take(refined, rows) for name, rows in chosen.items()}
    check_disjoint(sets)
    for name, examples in sets.items():
        records.write(examples, snakemake.output[name], records.EXAMPLE)


script_main(main, snakemake)  # noqa: F821
