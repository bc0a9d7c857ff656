"""Aggregate judgements into a table of accuracies (Tables 2, 4 and 5)."""

from alignxplore.results import queries, tables
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    parquet = {"judgements": inputs.judgements}
    found = queries.query_table(inputs.sql, parquet, params.methods, params.columns, inputs.published, params.table)
    changes = {c["name"]: c["change_from"] for c in params.columns if "change_from" in c}
    labels = {method["name"]: method["label"] for method in params.methods}
    compare_with = labels[params.compare_with] if params.compare_with else None
    null = next((method["label"] for method in params.methods if method["kind"] == "none"), None)
    cells = tables.accuracy_cells(found, params.resamples, params.seed, changes, params.origins, compare_with, null)
    tables.write_cells(found, cells, params.title, tables.accuracy_note(compare_with), output.csv, output.markdown)


script_main(main, snakemake)  # noqa: F821
