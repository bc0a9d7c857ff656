"""Aggregate comparisons of responses into a table of win rates (Table 3)."""

from alignxplore.results import queries, tables
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    parquet = {"wins": inputs.wins}
    found = queries.query_table(inputs.sql, parquet, params.methods, params.columns, inputs.published, params.table)
    cells = tables.win_rate_cells(found, params.resamples, params.seed)
    tables.write_cells(found, cells, params.title, tables.WIN_RATE_NOTE, output.csv, output.markdown)


script_main(main, snakemake)  # noqa: F821
