"""Compare judges: how often each fails, and how far the ranking of the methods depends on them."""

from alignxplore.results.markdown import write_rows
from alignxplore.results.queries import query_table
from alignxplore.results.rankings import JUDGES_NOTE, judge_rows
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    parquet = {"judgements": inputs.judgements}
    found = query_table(inputs.sql, parquet, params.methods, params.columns, inputs.published, params.table)
    rows = judge_rows(found, params.resamples, params.seed)
    write_rows(rows, params.title, JUDGES_NOTE, output.csv, output.markdown)


script_main(main, snakemake)  # noqa: F821
