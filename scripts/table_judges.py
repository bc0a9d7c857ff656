"""Compare judges: their failings, and how far the ranking of the methods depends on them."""

from alignxplore.results import tables
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    parquet = {"judgements": inputs.judgements}
    found = tables.compare_methods(inputs.sql, parquet, params.methods, params.columns, inputs.published, params.table)
    rows = tables.judge_rows(found, params.resamples, params.seed)
    tables.write_rows(rows, params.title, params.note, output.csv, output.markdown)


script_main(main, snakemake)  # noqa: F821
