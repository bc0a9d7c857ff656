"""Aggregate judgements into a table of accuracies (Tables 2, 4 and 5)."""

from alignxplore.results import tables
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    parquet = {"judgements": inputs.judgements}
    found = tables.compare_methods(inputs.sql, parquet, params.methods, params.columns, inputs.published, params.table)
    changes = {c["name"]: c["change_from"] for c in params.columns if "change_from" in c}
    cells = tables.accuracy_cells(found, params.resamples, params.seed, changes, params.origins)
    tables.write_cells(found, cells, params.title, params.note, output.csv, output.markdown)


script_main(main, snakemake)  # noqa: F821
