"""Put into words the annotated directions that the signals of each case agree on: PBA as its authors run it."""

import polars as pl
from alignxplore import records
from alignxplore.data.wording import Wording
from alignxplore.methods.pba import annotated_preferences
from alignxplore.workflow.job import script_main


def main(snakemake):
    params = snakemake.params
    cases = pl.concat([records.read(path, records.CASE) for path in snakemake.input.cases])
    preferences = annotated_preferences(cases, params.method, params.entry, Wording.load(snakemake.input.wording))
    records.write(preferences, snakemake.output.preferences, records.PREFERENCE)


script_main(main, snakemake)  # noqa: F821
