"""Write the opposite of each case's golden preference."""

import polars as pl
from alignxplore import records
from alignxplore.data.wording import Wording
from alignxplore.methods.controls import opposite_preferences
from alignxplore.workflow.job import script_main


def main(snakemake):
    cases = pl.concat([records.read(path, records.CASE) for path in snakemake.input.cases])
    wording = Wording.load(snakemake.input.wording) if snakemake.input.wording else None
    preferences = opposite_preferences(cases, snakemake.params.method, wording)
    records.write(preferences, snakemake.output.preferences, records.PREFERENCE)


script_main(main, snakemake)  # noqa: F821
