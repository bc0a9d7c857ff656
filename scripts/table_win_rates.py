"""Aggregate comparisons of responses into a table of win rates (Table 3)."""

from pathlib import Path

from alignxplore import tables
from alignxplore.cli import script_main


def main(snakemake):
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    relations = {
        "methods": tables.methods_relation(params.methods),
        "columns": tables.columns_relation(params.columns),
        "paper": tables.paper_relation(inputs.published, params.table),
    }
    found = tables.query(inputs.sql, {"wins": inputs.wins}, relations)
    cells = tables.win_rate_cells(found, params.resamples, params.seed)
    cells.write_csv(output.csv)
    markdown = tables.cells_markdown(params.title, params.note, cells, tables.column_order(found))
    Path(output.markdown).write_text(markdown, encoding="utf-8")


script_main(main, snakemake)  # noqa: F821
