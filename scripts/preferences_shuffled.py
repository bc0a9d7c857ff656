"""Write the golden preference of another case for each case."""

import polars as pl
from alignxplore import records
from alignxplore.methods.controls import shuffled_preferences
from alignxplore.workflow.job import script_main


def main(snakemake):
    params = snakemake.params
    cases = pl.concat([records.read(path, records.CASE) for path in snakemake.input.cases])
    preferences = shuffled_preferences(cases, params.method, params.seed)
    records.write(preferences, snakemake.output.preferences, records.PREFERENCE)


script_main(main, snakemake)  # noqa: F821
