"""Draw accuracy against one thing that it may depend on, and write the points beside the figure."""

import polars as pl
from alignxplore.results import figures, tables
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    files = dict(inputs.items())
    parquet = {name: files[name] for name in ("judgements", "cases", "preferences") if name in files}
    relations = {
        "methods": tables.methods_relation(params.methods),
        "columns": tables.columns_relation(params.columns),
    }
    if "names" in files:
        relations["names"] = pl.read_csv(inputs.names)
    points = tables.points(tables.query(inputs.sql, parquet, relations))
    points.write_csv(output.csv)
    figures.save(figures.accuracy_points(points, params.by), output.svg, output.png)


script_main(main, snakemake)  # noqa: F821
