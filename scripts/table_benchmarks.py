"""Count what the benchmarks hold (Table 1)."""

from pathlib import Path

from alignxplore import tables
from alignxplore.cli import script_main


def main(snakemake):
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    rows = tables.query(inputs.sql, {"cases": inputs.cases}, {"columns": tables.benchmarks_relation(params.benchmarks)})
    rows.write_csv(output.csv)
    Path(output.markdown).write_text(tables.rows_markdown(params.title, params.note, rows), encoding="utf-8")


script_main(main, snakemake)  # noqa: F821
