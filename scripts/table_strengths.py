"""Rank methods by all comparisons of their responses (Bradley-Terry strengths)."""

from alignxplore.results.markdown import write_rows
from alignxplore.results.queries import query_table
from alignxplore.results.rankings import STRENGTHS_NOTE, strength_rows
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    parquet = {"wins": inputs.wins}
    found = query_table(inputs.sql, parquet, params.methods, params.columns, inputs.published, params.table)
    rows = strength_rows(found, params.resamples, params.seed)
    write_rows(rows, params.title, STRENGTHS_NOTE, output.csv, output.markdown)


script_main(main, snakemake)  # noqa: F821
