"""Result tables: DuckDB queries over Parquet, then intervals, significance, and Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from alignxplore.errors import UserError
from alignxplore.stats import bootstrap_interval, holm, mcnemar_test, paired_t_test

SIGNIFICANT = 0.05
CELLS = pl.Schema(
    {
        "method": pl.String(),
        "column": pl.String(),
        "n": pl.Int64(),
        "percent": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
        "p_value": pl.Float64(),
        "mark": pl.String(),
        "paper": pl.Float64(),
    }
)
"""Columns of a win-rate CSV: percentages, with a 95% interval `low` to `high` over cases."""
ACCURACY_CELLS = pl.Schema(
    {**CELLS, "mcnemar_holm": pl.Float64(), "position_flip": pl.Float64(), "unparsed": pl.Float64()}
)
"""Those of an accuracy CSV: also the p-value of McNemar's exact test against the column's best, adjusted over the
column by Holm's method, and the percentages of cases in which the judge's two orders disagree, and of orders in which
a judge that writes selected nothing."""


def query(sql: str | Path, parquet: Mapping[str, Sequence[str]], relations: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The result of the query in file `sql` over views of Parquet files and over given relations."""
    with duckdb.connect(config={"threads": 1}) as connection:
        for name, paths in parquet.items():
            connection.read_parquet(list(paths)).create_view(name)
        for name, relation in relations.items():
            connection.register(name, relation.to_arrow())
        return connection.sql(Path(sql).read_text(encoding="utf-8")).pl()


def methods_relation(methods: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """methods(position, method, label, paper, reference): a table's rows in their order."""
    rows = [
        {
            "position": position,
            "method": method["name"],
            "label": method["label"],
            "paper": method.get("paper"),
            "reference": method.get("reference", False),
        }
        for position, method in enumerate(methods)
    ]
    schema = {
        "position": pl.Int64,
        "method": pl.String,
        "label": pl.String,
        "paper": pl.String,
        "reference": pl.Boolean,
    }
    return pl.DataFrame(rows, schema=schema)


def columns_relation(columns: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """columns(position, name, judge, benchmark, paper): one row a benchmark of a column."""
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
    """columns(position, benchmark, in_domain) for the query of Table 1."""
    rows = [{"position": position, **benchmark} for position, benchmark in enumerate(benchmarks)]
    return pl.DataFrame(rows, schema={"position": pl.Int64, "benchmark": pl.String, "in_domain": pl.Boolean})


def paper_relation(path: str | Path, table: str) -> pl.DataFrame:
    """paper(method, column, percent): the published figures of one table."""
    published = pl.read_csv(path, schema_overrides={"percent": pl.Float64})
    return published.filter(pl.col("table") == table).select("method", "column", "percent")


def compare_methods(
    sql: str | Path,
    parquet: Mapping[str, Sequence[str]],
    methods: Sequence[Mapping[str, Any]],
    columns: Sequence[Mapping[str, Any]],
    published: str | Path,
    table: str,
) -> pl.DataFrame:
    """The result of an accuracy or win-rate query for a table's rows and columns, with the paper's figures."""
    relations = {
        "methods": methods_relation(methods),
        "columns": columns_relation(columns),
        "paper": paper_relation(published, table),
    }
    return query(sql, parquet, relations)


def accuracy_cells(found: pl.DataFrame, resamples: int, seed: int) -> pl.DataFrame:
    """ACCURACY_CELLS of an accuracy table. `p_value` compares a method with the best of its column by a paired t-test.

    The best is sought among methods that are not for reference (golden preference, large models), as in the
    paper's Table 2; `mark` is "*" where that best is significantly better, "best" on the best itself.
    """
    rows = found.to_dicts()
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        leader = best.get(row["column"])
        if not row["reference"] and (leader is None or row["percent"] > leader["percent"]):
            best[row["column"]] = row
    cells = []
    for row in rows:
        leader = best.get(row["column"])
        p_value, mcnemar, mark = None, None, None
        if leader is row:
            mark = "best"
        elif leader is not None:
            if leader["cases"] != row["cases"]:
                raise UserError(f"{row['method']} and {leader['method']} were judged on other cases: {row['column']}")
            p_value = paired_t_test(leader["outcomes"], row["outcomes"])
            mcnemar = mcnemar_test(leader["outcomes"], row["outcomes"])
            mark = "*" if p_value < SIGNIFICANT and leader["percent"] > row["percent"] else None
        cells.append({**row, "p_value": p_value, "mcnemar_holm": mcnemar, "mark": mark})
    for column in best:
        compared = [cell for cell in cells if cell["column"] == column and cell["mcnemar_holm"] is not None]
        for cell, adjusted in zip(compared, holm([cell["mcnemar_holm"] for cell in compared]), strict=True):
            cell["mcnemar_holm"] = adjusted
    return _cells(cells, ACCURACY_CELLS, resamples, seed)


def win_rate_cells(found: pl.DataFrame, resamples: int, seed: int) -> pl.DataFrame:
    """CELLS of a win-rate table. `p_value` tests the rate against 50%; `mark` is "*" on a significant win."""
    cells = []
    for row in found.to_dicts():
        p_value = paired_t_test(row["outcomes"], [0.5] * row["n"])
        mark = "*" if p_value < SIGNIFICANT and row["percent"] > 50 else None
        cells.append({**row, "p_value": p_value, "mark": mark})
    return _cells(cells, CELLS, resamples, seed)


def _cells(rows: list[dict[str, Any]], schema: pl.Schema, resamples: int, seed: int) -> pl.DataFrame:
    for row in rows:
        low, high = bootstrap_interval(row["outcomes"], resamples, seed)
        row |= {"low": 100 * low, "high": 100 * high}
    cells = pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=schema)
    tests = [name for name in ("p_value", "mcnemar_holm") if name in schema]
    shares = [name for name in ("percent", "low", "high", "position_flip", "unparsed") if name in schema]
    return cells.with_columns(pl.col(shares).round(2), pl.col(tests).round(6))


def column_order(found: pl.DataFrame) -> list[str]:
    """A query's columns from left to right."""
    return found.sort("column_position", maintain_order=True)["column"].unique(maintain_order=True).to_list()


def cells_markdown(title: str, note: str, cells: pl.DataFrame, columns: Sequence[str]) -> str:
    """A wide table: methods down, `columns` across; percent, mark, interval, and the paper's figure."""
    by_place = {(row["method"], row["column"]): row for row in cells.to_dicts()}
    lines = [f"# {title}", "", "| method | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for method in cells["method"].unique(maintain_order=True):
        places = [by_place.get((method, column)) for column in columns]
        lines.append(f"| {method} | " + " | ".join("–" if p is None else _cell(p) for p in places) + " |")
    sizes = sorted({row["n"] for row in by_place.values()})
    cases = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return "\n".join([*lines, "", f"{note} n is {cases} cases a figure; the CSV beside this file has each n.", ""])


def _cell(row: Mapping[str, Any]) -> str:
    figure = f"{row['percent']:.1f}{'*' if row['mark'] == '*' else ''}"
    figure = f"**{figure}**" if row["mark"] == "best" else figure
    paper = "" if row["paper"] is None else f"<br>paper {row['paper']:.2f}"
    return f"{figure} [{row['low']:.1f}, {row['high']:.1f}]{paper}"


def write_cells(
    found: pl.DataFrame, cells: pl.DataFrame, title: str, note: str, csv: str | Path, markdown: str | Path
) -> None:
    """Write `cells`, made from a query's result `found`, as CSV and as a Markdown table."""
    cells.write_csv(csv)
    Path(markdown).write_text(cells_markdown(title, note, cells, column_order(found)), encoding="utf-8")


def rows_markdown(title: str, note: str, rows: pl.DataFrame) -> str:
    """A table as it is."""
    head = ["| " + " | ".join(name.replace("_", " ") for name in rows.columns) + " |", "|" + " --- |" * rows.width]
    body = ["| " + " | ".join(_plain(value) for value in row) + " |" for row in rows.iter_rows()]
    return "\n".join([f"# {title}", "", *head, *body, "", note, ""])


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
