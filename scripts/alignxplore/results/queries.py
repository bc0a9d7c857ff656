"""DuckDB queries over the records, and the small relations that a configuration adds to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from alignxplore import records


def query(sql: str | Path, parquet: Mapping[str, Sequence[str]], relations: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The result of the query in the file `sql`.

    The query sees each list of Parquet files in `parquet` as one view, and each frame in `relations` as a table.
    Raises UserError if a Parquet file is damaged.
    """
    with duckdb.connect(config={"threads": 1}) as connection:
        for name, paths in parquet.items():
            for path in paths:
                records.check_intact(path)
            connection.read_parquet(list(paths)).create_view(name)
        for name, relation in relations.items():
            connection.register(name, relation.to_arrow())
        return connection.sql(Path(sql).read_text(encoding="utf-8")).pl()


def query_table(
    sql: str | Path,
    parquet: Mapping[str, Sequence[str]],
    methods: Sequence[Mapping[str, Any]],
    columns: Sequence[Mapping[str, Any]],
    published: str | Path,
    table: str,
) -> pl.DataFrame:
    """The result of an accuracy or win-rate query for a table's methods and columns, with the paper's figures."""
    relations = {
        "methods": methods_relation(methods),
        "columns": columns_relation(columns),
        "paper": paper_relation(published, table),
    }
    return query(sql, parquet, relations)


def column_order(found: pl.DataFrame) -> list[str]:
    """The columns in a query's result, from left to right."""
    return found.sort("column_position", maintain_order=True)["column"].unique(maintain_order=True).to_list()


def methods_relation(methods: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """methods(position, method, label, kind, paper, reference): the methods of a table in their order."""
    rows = [
        {
            "position": position,
            "method": method["name"],
            "label": method["label"],
            "kind": method.get("kind"),
            "paper": method.get("paper"),
            "reference": method.get("reference", False),
        }
        for position, method in enumerate(methods)
    ]
    schema = {
        "position": pl.Int64,
        "method": pl.String,
        "label": pl.String,
        "kind": pl.String,
        "paper": pl.String,
        "reference": pl.Boolean,
    }
    return pl.DataFrame(rows, schema=schema)


def columns_relation(columns: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """columns(position, name, judge, benchmark, paper): one row per column and benchmark."""
    rows = [
        {
            "position": position,
            "name": column["name"],
            "judge": column.get("judge"),
            "benchmark": benchmark,
            "paper": column.get("paper"),
        }
        for position, column in enumerate(columns)
        for benchmark in column["benchmarks"]
    ]
    schema = {
        "position": pl.Int64,
        "name": pl.String,
        "judge": pl.String,
        "benchmark": pl.String,
        "paper": pl.String,
    }
    return pl.DataFrame(rows, schema=schema)


def benchmarks_relation(benchmarks: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """columns(position, benchmark, in_domain): the relation that the query of Table 1 takes."""
    rows = [{"position": position, **benchmark} for position, benchmark in enumerate(benchmarks)]
    return pl.DataFrame(rows, schema={"position": pl.Int64, "benchmark": pl.String, "in_domain": pl.Boolean})


def updating_relation(methods: Sequence[str]) -> pl.DataFrame:
    """updating(method): the methods that update descriptions."""
    return pl.DataFrame({"method": list(methods)}, schema={"method": pl.String})


def drifts_relation(drifts: Mapping[str, int]) -> pl.DataFrame:
    """drifts(benchmark, chunk): the first chunk under new preferences, where they change."""
    columns = {"benchmark": list(drifts), "chunk": list(drifts.values())}
    return pl.DataFrame(columns, schema={"benchmark": pl.String, "chunk": pl.Int64})


def paper_relation(path: str | Path, table: str) -> pl.DataFrame:
    """paper(method, column, percent): the published figures of one table."""
    if not path:
        return pl.DataFrame(schema={"method": pl.String, "column": pl.String, "percent": pl.Float64})
    published = pl.read_csv(path, schema_overrides={"percent": pl.Float64})
    return published.filter(pl.col("table") == table).select("method", "column", "percent")
