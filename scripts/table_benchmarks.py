"""Count what the benchmarks contain (Table 1)."""

from alignxplore.results.markdown import write_rows
from alignxplore.results.queries import benchmarks_relation, query
from alignxplore.workflow.job import script_main

NOTE = "Labelled directions are counted by sign; signals are means per case."


def main(snakemake):
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    rows = query(inputs.sql, {"cases": inputs.cases}, {"columns": benchmarks_relation(params.columns)})
    write_rows(rows, params.title, NOTE, output.csv, output.markdown)


script_main(main, snakemake)  # noqa: F821
