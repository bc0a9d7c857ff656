"""Write the descriptions of a method that asks no model: empty, from the signals, or the golden preference."""

import polars as pl
from alignxplore import records
from alignxplore.methods.given import given_preferences
from alignxplore.workflow.job import script_main


def main(snakemake):
    params = snakemake.params
    cases = pl.concat([records.read(path, records.CASE) for path in snakemake.input.cases])
    preferences = given_preferences(params.entry["kind"], cases, params.method)
    records.write(preferences, snakemake.output.preferences, records.PREFERENCE)


script_main(main, snakemake)  # noqa: F821
