"""Result tables: DuckDB queries over Parquet, then intervals, significance, and Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
from scipy.stats import kendalltau

from alignxplore import records
from alignxplore.errors import UserError
from alignxplore.results.markdown import escape, table_lines
from alignxplore.results.stats import (
    bootstrap_interval,
    bradley_terry,
    cohen_kappa,
    holm,
    mcnemar_test,
    paired_t_test,
    resampled_counts,
    wilson_interval,
)

SIGNIFICANT = 0.05
P_DIGITS = 4
"""Significant figures of p-values."""
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
"""What accuracy and win-rate CSVs share: percentages, with a 95% interval `low` to `high`. All intervals are from
bootstraps that draw the cases of one target together; tests take cases for independent, as the paper's do."""
ACCURACY_CELLS = pl.Schema(
    {
        **CELLS,
        "mcnemar_holm": pl.Float64(),
        "position_flip": pl.Float64(),
        "unparsed": pl.Float64(),
        "in_format": pl.Float64(),
        "change": pl.Float64(),
        "change_low": pl.Float64(),
        "change_high": pl.Float64(),
    }
)
"""Columns of an accuracy CSV: also the p-value of McNemar's exact test against the column's best, adjusted over the
column by Holm's method; the percentages of cases in which the judge's two orders disagree, and of orders in which a
judge that writes selected nothing; that of the method's completions in format, null where it writes none; and the
change, in points, from the column that `change_from` names."""
WIN_RATE_CELLS = pl.Schema(
    {**CELLS, "ties": pl.Float64(), "disagreements": pl.Float64(), "unparsed": pl.Float64()},
)
"""Columns of a win-rate CSV: also the percentages of ties, of cases in which the judge's two orders disagree, and of
orders in which a judge that writes selected nothing."""
STRENGTHS = pl.Schema(
    {
        "method": pl.String(),
        "column": pl.String(),
        "n": pl.Int64(),
        "strength": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
    }
)
"""Bradley-Terry log strengths with 95% bootstrap intervals; `n` counts the cases in which all methods meet."""
POINTS = pl.Schema(
    {
        "panel": pl.String(),
        "series": pl.String(),
        "x": pl.Float64(),
        "label": pl.String(),
        "n": pl.Int64(),
        "accuracy": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
    }
)
"""Points of a figure of accuracy: percentages of `n` cases with Wilson's 95% intervals, by judge and method."""
JUDGES = pl.Schema(
    {
        "judge": pl.String(),
        "verdicts": pl.Int64(),
        "position_flip": pl.Float64(),
        "unparsed": pl.Float64(),
        "agreement": pl.Float64(),
        "kappa": pl.Float64(),
        "kendall_tau": pl.Float64(),
        "tau_low": pl.Float64(),
        "tau_high": pl.Float64(),
        "swapped": pl.Int64(),
        "ranking": pl.String(),
    }
)
"""A judge's failings over all its `verdicts`, one a method and case, and how these (`agreement` in percent, Cohen's
kappa) and its ranking of the methods (Kendall's tau-b, `swapped` pairs of methods) compare with those of the table's
first judge."""


def query(sql: str | Path, parquet: Mapping[str, Sequence[str]], relations: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The result of the query in file `sql` over views of Parquet files and over given relations."""
    with duckdb.connect(config={"threads": 1}) as connection:
        for name, paths in parquet.items():
            for path in paths:
                records.verify(path)
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


def accuracy_cells(
    found: pl.DataFrame,
    resamples: int,
    seed: int,
    changes: Mapping[str, str] | None = None,
    origins: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """ACCURACY_CELLS of an accuracy table. `p_value` compares a method with the best of its column by a paired t-test.

    The best is sought among methods that are not for reference (golden preference, large models), as in the
    paper's Table 2; `mark` is "*" where that best is significantly better, "best" on it and on others that are as good,
    of which the first is compared with. `changes` maps columns to those from which a change is counted, over the same
    cases: those with one id in benchmarks of one origin, which for a benchmark that `origins` does not name is itself.
    """
    rows = found.to_dicts()
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        leader = best.get(row["column"])
        if not row["reference"] and (leader is None or row["percent"] > leader["percent"]):
            best[row["column"]] = row
    by_place = {(row["method"], row["column"]): row for row in rows}
    cells = []
    for row in rows:
        leader = best.get(row["column"])
        p_value, mcnemar, mark = None, None, None
        if leader is not None and not row["reference"] and row["percent"] == leader["percent"]:
            mark = "best"
        if leader is not None and leader is not row:
            if leader["cases"] != row["cases"]:
                raise UserError(f"{row['method']} and {leader['method']} were judged on other cases: {row['column']}")
            p_value = paired_t_test(leader["outcomes"], row["outcomes"])
            mcnemar = mcnemar_test(leader["outcomes"], row["outcomes"])
            if p_value < SIGNIFICANT and leader["percent"] > row["percent"]:
                mark = "*"
        change: dict[str, float | None] = {"change": None, "change_low": None, "change_high": None}
        if changes and row["column"] in changes:
            change = _change(by_place[row["method"], changes[row["column"]]], row, origins or {}, resamples, seed)
        cells.append({**row, **change, "p_value": p_value, "mcnemar_holm": mcnemar, "mark": mark})
    for column in best:
        compared = [cell for cell in cells if cell["column"] == column and cell["mcnemar_holm"] is not None]
        for cell, adjusted in zip(compared, holm([cell["mcnemar_holm"] for cell in compared]), strict=True):
            cell["mcnemar_holm"] = adjusted
    return _cells(cells, ACCURACY_CELLS, resamples, seed)


def _change(
    old: Mapping[str, Any], new: Mapping[str, Any], origins: Mapping[str, str], resamples: int, seed: int
) -> dict[str, float | None]:
    """The paired change between two columns, whose benchmarks may differ in name but not in origin and cases."""
    pairs: list[dict[tuple[str, str], float]] = []
    for row in (old, new):
        names = [case.partition(" ")[::2] for case in row["cases"]]
        keys = [(origins.get(benchmark, benchmark), case_id) for benchmark, case_id in names]
        pairs.append(dict(zip(keys, row["outcomes"], strict=True)))
        if len(pairs[-1]) < len(keys):
            raise UserError(f"{row['method']}: column {row['column']!r} has cases twice: no change can be counted")
    before, after = pairs
    if before.keys() != after.keys():
        raise UserError(f"{new['method']}: columns {old['column']!r} and {new['column']!r} are of other cases")
    difference = np.array([after[key] - before[key] for key in after])
    low, high = bootstrap_interval(difference, new["targets"], resamples, seed)
    return {"change": 100 * float(difference.mean()), "change_low": 100 * low, "change_high": 100 * high}


def win_rate_cells(found: pl.DataFrame, resamples: int, seed: int) -> pl.DataFrame:
    """WIN_RATE_CELLS. `p_value` tests the rate against 50%; `mark` is "*" on a significant win."""
    cells = []
    for row in found.to_dicts():
        p_value = paired_t_test(row["outcomes"], [0.5] * row["n"])
        mark = "*" if p_value < SIGNIFICANT and row["percent"] > 50 else None
        cells.append({**row, "p_value": p_value, "mark": mark})
    return _cells(cells, WIN_RATE_CELLS, resamples, seed)


def _cells(rows: list[dict[str, Any]], schema: pl.Schema, resamples: int, seed: int) -> pl.DataFrame:
    for row in rows:
        low, high = bootstrap_interval(row["outcomes"], row["targets"], resamples, seed)
        row |= {"low": 100 * low, "high": 100 * high}
    cells = pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=schema)
    tests = [name for name in ("p_value", "mcnemar_holm") if name in schema]
    shares = [name for name in schema if schema[name] == pl.Float64 and name not in (*tests, "paper")]
    return cells.with_columns(pl.col(shares).round(2), pl.col(tests).round_sig_figs(P_DIGITS))


def strength_rows(found: pl.DataFrame, resamples: int, seed: int) -> pl.DataFrame:
    """STRENGTHS of the methods in a win-rate query's result; a case's games are drawn together in the bootstrap."""
    methods = found["method"].unique(maintain_order=True).to_list()
    rows: list[tuple[Any, ...]] = []
    for group in found["group"].unique(maintain_order=True):
        games = found.filter(pl.col("group") == group).to_dicts()
        cases = games[0]["cases"]
        for game in games:
            if game["cases"] != cases:
                raise UserError(f"{game['method']} and {game['opponent']} met on other cases: {game['column']}")
        counts = np.vstack([np.ones(len(cases)), resampled_counts(games[0]["targets"], resamples, seed)])
        wins = np.zeros((len(counts), len(methods), len(methods)))
        for game in games:
            won = counts @ np.asarray(game["outcomes"])
            wins[:, methods.index(game["method"]), methods.index(game["opponent"])] = won
        strengths = bradley_terry(wins)
        low, high = np.percentile(strengths[1:], [2.5, 97.5], axis=0)
        rows += zip(methods, [group] * len(methods), [len(cases)] * len(methods), strengths[0], low, high, strict=True)
    table = pl.DataFrame(rows, schema=STRENGTHS, orient="row")
    return table.with_columns(pl.col("strength", "low", "high").round(4))


def judge_rows(found: pl.DataFrame, resamples: int, seed: int) -> pl.DataFrame:
    """JUDGES from an accuracy query's result whose columns are judges over the same benchmarks."""
    methods = found["method"].unique(maintain_order=True).to_list()
    judges = column_order(found)
    cases = found["cases"][0].to_list()
    for row in found.to_dicts():
        if row["cases"] != cases:
            raise UserError(f"judges are compared on one set of cases; {row['column']} has others of {row['method']}")
    verdicts = {}
    for judge in judges:
        by_method = {row["method"]: row for row in found.filter(pl.col("column") == judge).to_dicts()}
        verdicts[judge] = np.array([by_method[method]["outcomes"] for method in methods])
    counts = resampled_counts(found["targets"][0].to_list(), resamples, seed)
    first = verdicts[judges[0]]
    rows = []
    for judge in judges:
        mine = verdicts[judge]
        accuracies, others = mine.mean(1), first.mean(1)
        taus = [_tau(*pair) for pair in zip(counts @ mine.T, counts @ first.T, strict=True)]
        place = np.argsort(-accuracies, kind="stable")
        compared = {
            "agreement": 100 * (mine == first).mean(),
            "kappa": cohen_kappa(mine.ravel(), first.ravel()),
            "kendall_tau": _tau(accuracies, others),
            "tau_low": np.nanpercentile(taus, 2.5),
            "tau_high": np.nanpercentile(taus, 97.5),
            "swapped": _swapped(accuracies, others),
        }
        own = found.filter(pl.col("column") == judge)
        rows.append(
            {
                "judge": judge,
                "verdicts": mine.size,
                "position_flip": own["position_flip"].mean(),
                "unparsed": own["unparsed"].mean(),
                **(compared if judge != judges[0] else dict.fromkeys(compared)),
                "ranking": " > ".join(methods[index] for index in place),
            }
        )
    figures = [name for name in JUDGES if JUDGES[name] == pl.Float64]
    # Rankings in which all methods are equal have no tau.
    return pl.DataFrame(rows, schema=JUDGES).with_columns(pl.col(figures).round(4).fill_nan(None))


def points(found: pl.DataFrame) -> pl.DataFrame:
    """POINTS from the result of a query accuracy_by_*.sql, which counts `correct` of `n` cases."""
    rows = []
    for row in found.to_dicts():
        low, high = wilson_interval(row["correct"], row["n"])
        rows.append({**row, "accuracy": 100 * row["correct"] / row["n"], "low": 100 * low, "high": 100 * high})
    return pl.DataFrame(rows, schema=POINTS).with_columns(pl.col("x", "accuracy", "low", "high").round(4))


def _tau(first: np.ndarray, second: np.ndarray) -> float:
    return float(kendalltau(first, second).statistic)


def _swapped(first: np.ndarray, second: np.ndarray) -> int:
    """Pairs of methods that two judges rank oppositely."""
    signs = [np.sign(values[:, None] - values[None, :]) for values in (first, second)]
    return int((signs[0] * signs[1] < 0).sum()) // 2


def column_order(found: pl.DataFrame) -> list[str]:
    """A query's columns from left to right."""
    return found.sort("column_position", maintain_order=True)["column"].unique(maintain_order=True).to_list()


def cells_markdown(title: str, note: str, cells: pl.DataFrame, columns: Sequence[str]) -> str:
    """A wide table: methods down, `columns` across; percent, mark, interval, and the paper's figure."""
    by_place = {(row["method"], row["column"]): row for row in cells.to_dicts()}
    rows = []
    for method in cells["method"].unique(maintain_order=True):
        places = [by_place.get((method, column)) for column in columns]
        rows.append([escape(method), *("–" if place is None else _cell(place) for place in places)])
    lines = [f"# {escape(title)}", "", *table_lines(["method", *map(escape, columns)], rows)]
    sizes = sorted({row["n"] for row in by_place.values()})
    cases = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return "\n".join([*lines, "", f"{note} n is {cases} cases a figure; the CSV beside this file has each n.", ""])


def _cell(row: Mapping[str, Any]) -> str:
    figure = f"{row['percent']:.1f}{'*' if row['mark'] == '*' else ''}"
    figure = f"**{figure}**" if row["mark"] == "best" else figure
    paper = "" if row["paper"] is None else f"<br>paper {row['paper']:.2f}"
    change = "" if row.get("change") is None else f"<br>{row['change']:+.1f}"
    return f"{figure} [{row['low']:.1f}, {row['high']:.1f}]{change}{paper}"


def write_cells(
    found: pl.DataFrame, cells: pl.DataFrame, title: str, note: str, csv: str | Path, markdown: str | Path
) -> None:
    """Write `cells`, made from a query's result `found`, as CSV and as a Markdown table."""
    cells.write_csv(csv)
    Path(markdown).write_text(cells_markdown(title, note, cells, column_order(found)), encoding="utf-8")


def write_rows(rows: pl.DataFrame, title: str, note: str, csv: str | Path, markdown: str | Path) -> None:
    """Write a table as it is, as CSV and Markdown."""
    rows.write_csv(csv)
    Path(markdown).write_text(rows_markdown(title, note, rows), encoding="utf-8")


def rows_markdown(title: str, note: str, rows: pl.DataFrame) -> str:
    """A table as it is."""
    head = [name.replace("_", " ") for name in rows.columns]
    body = [[_plain(value) for value in row] for row in rows.iter_rows()]
    return "\n".join([f"# {escape(title)}", "", *table_lines(head, body), "", note, ""])


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else escape(str(value))
