"""Count what the benchmarks hold (Table 1)."""

from alignxplore.results import tables
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    rows = tables.query(inputs.sql, {"cases": inputs.cases}, {"columns": tables.benchmarks_relation(params.benchmarks)})
    tables.write_rows(rows, params.title, params.note, output.csv, output.markdown)


script_main(main, snakemake)  # noqa: F821
