"""Draw accuracy against a possible influence, and write the figure's points as CSV."""

import polars as pl
from alignxplore.results import figures, queries
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    files = dict(inputs.items())
    parquet = {name: files[name] for name in ("judgements", "cases", "preferences") if name in files}
    relations = {
        "methods": queries.methods_relation(params.methods),
        "columns": queries.columns_relation(params.columns),
    }
    if "names" in files:
        relations["names"] = pl.read_csv(inputs.names)
    points = figures.accuracy_points(queries.query(inputs.sql, parquet, relations))
    points.write_csv(output.csv)
    figures.save(figures.accuracy_panels(points, params.by), output.svg, output.png)


script_main(main, snakemake)  # noqa: F821
