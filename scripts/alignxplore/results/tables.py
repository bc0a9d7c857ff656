"""Tables of accuracies and win rates: one cell per method and column, written as CSV and Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from alignxplore.errors import UserError
from alignxplore.results.markdown import escape, table_lines
from alignxplore.results.queries import column_order
from alignxplore.results.stats import bootstrap_interval, holm, mcnemar_test, paired_t_test

SIGNIFICANT = 0.05
P_DIGITS = 4
"""Significant figures of p-values."""
MANY_TIES = 5
"""Percentage of ties above which a Markdown table points them out."""
P_VALUES = ("p_value", "mcnemar_holm", "p_holm")

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
"""Fields that accuracy and win-rate CSVs share: a percentage with its 95% interval from `low` to `high`.

Every interval comes from a bootstrap that draws the cases of one target together. The tests treat cases as
independent, as the paper's do.
"""
ACCURACY_CELLS = pl.Schema(
    {
        **CELLS,
        "mcnemar_holm": pl.Float64(),
        "position_flip": pl.Float64(),
        "ties": pl.Float64(),
        "unparsed": pl.Float64(),
        "in_format": pl.Float64(),
        "change": pl.Float64(),
        "change_low": pl.Float64(),
        "change_high": pl.Float64(),
        "harmed": pl.Float64(),
        "tokens": pl.Float64(),
    }
)
"""Fields of an accuracy CSV. A cell in which no case is decided has no `percent`, interval, test, change or difference.

- `mcnemar_holm`: p-value of McNemar's exact test against the column's best, adjusted over the column by Holm's method.
- `position_flip`: percentage of cases in which the judge's two orders disagree.
- `ties`: percentage of cases in which both orders have a verdict and their mean probability is exactly one half. A tie
  is no win. Judges in bfloat16 tie where their precision ends, and judges that write where their orders disagree.
- `unparsed`: percentage of orders without a verdict: the judge's answer selected neither response, or its prompt was
  refused.
- `in_format`: percentage of the method's completions in the right format; null if the method writes none.
- `change`: points gained over the column that `change_from` names, on the same cases, with a 95% interval.
- `harmed`: percentage of cases that are right without a description and wrong under the method's; null without such a
  row on the same cases, and for that row itself.
- `tokens`: mean completion tokens of a description, its reasoning included; null if the method writes no completions.
"""
COMPARED_CELLS = pl.Schema(
    {
        **ACCURACY_CELLS,
        "difference": pl.Float64(),
        "difference_low": pl.Float64(),
        "difference_high": pl.Float64(),
        "p_holm": pl.Float64(),
    }
)
"""Fields of an accuracy CSV whose table names `compare_with`.

`difference` is the points gained over that method on the same cases, with a 95% interval. `p_holm` is the p-value of
the paired t-test, adjusted over the column's other methods by Holm's method. All four are null for that method itself
and for a method that was judged on other cases.
"""
WIN_RATE_CELLS = pl.Schema(
    {**CELLS, "ties": pl.Float64(), "disagreements": pl.Float64(), "unparsed": pl.Float64()},
)
"""Fields of a win-rate CSV: also the percentages of ties, of cases in which the judge's two orders disagree, and of
orders without a verdict."""

STREAMING_CELLS = pl.Schema(
    {
        "method": pl.String(),
        "column": pl.String(),
        "judge": pl.String(),
        "benchmark": pl.String(),
        "chunk": pl.Int64(),
        "n": pl.Int64(),
        "percent": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
        "tokens_read": pl.Float64(),
        "tokens_written": pl.Float64(),
        "since_drift": pl.Int64(),
        "recovery": pl.Int64(),
    }
)
"""Fields of a streaming CSV: a method after each `chunk` of a benchmark's streams, with accuracy and interval.

- `tokens_read`, `tokens_written`: mean tokens of the step's own prompt and completion; null if the method writes none.
  A method that does not update descriptions reads the whole prompt again at each step.
- `since_drift`: chunks since the user's preferences changed: 0 at the last chunk before, 1 at the first one after; null
  in a benchmark without drift.
- `recovery`: chunks after the drift until accuracy is within RECOVERED points of what it was before, in the row of the
  last chunk before; null in other rows, and if it never is.
"""
RECOVERED = 5
"""Points below the accuracy before a drift at which a method counts as recovered."""

ACCURACY_NOTE = (
    "Percent of cases in which the judge prefers the chosen response, with 95% bootstrap intervals over targets. Bold "
    "is the best method of a column, reference methods aside; * marks methods significantly below it (paired t-test, "
    "p < 0.05). A tie is no win."
)
WIN_RATE_NOTE = (
    "Percent of cases won, a tie counting as half a win, with 95% bootstrap intervals over targets. * marks rates "
    "significantly above 50% (t-test, p < 0.05). The CSV also gives the percentages of ties, of cases in which the "
    "judge's two orders disagree, and of orders in which it selected neither response."
)


STREAMING_NOTE = (
    "Percent of cases in which the judge prefers the chosen response after each chunk of a stream's signals, with 95% "
    "bootstrap intervals over targets, so that a stream is drawn whole. In parentheses, the tokens that the method "
    "read and wrote for this step. Where preferences drift, the CSV counts the chunks since then, and those that a "
    f"method needs until it is within {RECOVERED} points of its accuracy before. A tie is no win."
)


def accuracy_note(compare_with: str | None) -> str:
    """What an accuracy table's cells show; `compare_with` is the label of the method that the others are compared with.

    The result is Markdown.
    """
    if compare_with is None:
        return ACCURACY_NOTE
    return (
        f"{ACCURACY_NOTE} The difference from {escape(compare_with)} is in points on the same cases; * marks it as "
        "significant (paired t-test, p < 0.05 after Holm's adjustment over the column). Methods judged on other cases "
        "have none."
    )


def accuracy_cells(
    found: pl.DataFrame,
    resamples: int,
    seed: int,
    changes: Mapping[str, str] | None = None,
    origins: Mapping[str, str] | None = None,
    compare_with: str | None = None,
    null: str | None = None,
) -> pl.DataFrame:
    """ACCURACY_CELLS from the result of accuracy.sql, or COMPARED_CELLS if `compare_with` is the label of a method.

    `p_value` compares a method with the best of its column by a paired t-test. As in the paper's Table 2, reference
    methods (golden preference, large models) cannot be the best. `mark` is "best" on the best method and on any that
    equals it, and "*" on a method that is significantly worse. Methods that tie for best are tested against the first.

    `changes` maps a column to the column from which its change is counted, over the same cases. Two cases are the same
    if they have one id and their benchmarks have one origin; a benchmark that `origins` does not name is its own
    origin. `null` is the label of the method without a description, from which `harmed` is counted.

    A cell in which no case is decided takes part in no comparison.

    Raises UserError if the methods of a column were judged on different cases and the table has no `compare_with`, or
    if the cases of two columns do not match.
    """
    rows = found.to_dicts()
    best = _best(rows)
    by_place = {(row["method"], row["column"]): row for row in rows}
    cells = []
    for row in rows:
        cell = {**row, **_against_best(row, best.get(row["column"]), skip_other_cases=compare_with is not None)}
        source = (changes or {}).get(row["column"])
        before = by_place[row["method"], source] if source is not None else None
        cell |= _change(before, row, origins or {}, resamples, seed)
        cell["harmed"] = _harmed(by_place.get((null, row["column"])), row)
        if compare_with is not None:
            cell |= _difference(by_place.get((compare_with, row["column"])), row, resamples, seed)
        cells.append(cell)
    _adjust(cells, "mcnemar_holm")
    if compare_with is None:
        return _cells(cells, ACCURACY_CELLS, resamples, seed)
    _adjust(cells, "p_holm")
    return _cells(cells, COMPARED_CELLS, resamples, seed)


def win_rate_cells(found: pl.DataFrame, resamples: int, seed: int) -> pl.DataFrame:
    """WIN_RATE_CELLS from the result of win_rates.sql.

    `p_value` tests the rate against 50%; `mark` is "*" on a significant win.
    """
    cells = []
    for row in found.to_dicts():
        p_value = paired_t_test(row["outcomes"], [0.5] * row["n"])
        mark = "*" if p_value < SIGNIFICANT and row["percent"] > 50 else None
        cells.append({**row, "p_value": p_value, "mark": mark})
    return _cells(cells, WIN_RATE_CELLS, resamples, seed)


def streaming_cells(found: pl.DataFrame, resamples: int, seed: int) -> pl.DataFrame:
    """STREAMING_CELLS from the result of streaming.sql. Raises UserError if no case is a step of a stream."""
    if found.is_empty():
        raise UserError("no case of these benchmarks is a step of a stream")
    cells = [
        {**row, "recovery": _recovery(own) if row["since_drift"] == 0 else None}
        for _, own in found.group_by("method", "judge", "benchmark", maintain_order=True)
        for row in own.to_dicts()
    ]
    return _cells(cells, STREAMING_CELLS, resamples, seed)


def _recovery(steps: pl.DataFrame) -> int | None:
    """Chunks after the drift until accuracy is back; None if it never is, or was undecided before the drift."""
    accuracy = dict(steps.select("since_drift", "percent").rows())
    before = accuracy[0]
    if before is None:
        return None
    back = (since for since, now in accuracy.items() if since > 0 and now is not None and now >= before - RECOVERED)
    return min(back, default=None)


def _best(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The first of each column's most accurate methods, reference methods aside."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        leader = best.get(row["column"])
        if (
            row["percent"] is not None
            and not row["reference"]
            and (leader is None or row["percent"] > leader["percent"])
        ):
            best[row["column"]] = row
    return best


def _against_best(
    row: Mapping[str, Any], best: Mapping[str, Any] | None, skip_other_cases: bool
) -> dict[str, float | str | None]:
    """`p_value`, `mark` and the unadjusted `mcnemar_holm` of a method against the best of its column."""
    is_best = best is not None and not row["reference"] and row["percent"] == best["percent"]
    tests: dict[str, float | str | None] = {"p_value": None, "mcnemar_holm": None, "mark": "best" if is_best else None}
    if best is None or best is row or row["percent"] is None:
        return tests
    if best["cases"] != row["cases"]:
        if skip_other_cases:
            return tests
        raise UserError(f"{row['method']} and {best['method']} were judged on different cases: {row['column']}")
    p_value = paired_t_test(best["outcomes"], row["outcomes"])
    tests |= {"p_value": p_value, "mcnemar_holm": mcnemar_test(best["outcomes"], row["outcomes"])}
    if p_value < SIGNIFICANT and best["percent"] > row["percent"]:
        tests["mark"] = "*"
    return tests


def _change(
    old: Mapping[str, Any] | None, new: Mapping[str, Any], origins: Mapping[str, str], resamples: int, seed: int
) -> dict[str, float | None]:
    """The paired change between two columns, whose benchmarks may differ in name but not in origin and cases."""
    if old is None or None in (old["percent"], new["percent"]):
        return dict.fromkeys(("change", "change_low", "change_high"))
    pairs: list[dict[tuple[str, str], float]] = []
    for row in (old, new):
        names = [case.partition(" ")[::2] for case in row["cases"]]
        keys = [(origins.get(benchmark, benchmark), case_id) for benchmark, case_id in names]
        pairs.append(dict(zip(keys, row["outcomes"], strict=True)))
        if len(pairs[-1]) < len(keys):
            raise UserError(
                f"{row['method']}: column {row['column']!r} has the same case twice: no change can be counted"
            )
    before, after = pairs
    if before.keys() != after.keys():
        raise UserError(f"{new['method']}: columns {old['column']!r} and {new['column']!r} have different cases")
    gained = [after[key] - before[key] for key in after]
    change, low, high = _points(gained, new["targets"], resamples, seed)
    return {"change": change, "change_low": low, "change_high": high}


def _difference(
    baseline: Mapping[str, Any] | None, row: Mapping[str, Any], resamples: int, seed: int
) -> dict[str, float | None]:
    """The paired difference of a method from the baseline in its column, with the unadjusted p-value."""
    if (
        baseline is None
        or baseline is row
        or baseline["cases"] != row["cases"]
        or None in (baseline["percent"], row["percent"])
    ):
        return dict.fromkeys(("difference", "difference_low", "difference_high", "p_holm"))
    gained = np.subtract(row["outcomes"], baseline["outcomes"])
    difference, low, high = _points(gained, row["targets"], resamples, seed)
    p_value = paired_t_test(row["outcomes"], baseline["outcomes"])
    return {"difference": difference, "difference_low": low, "difference_high": high, "p_holm": p_value}


def _harmed(null: Mapping[str, Any] | None, row: Mapping[str, Any]) -> float | None:
    """The percentage of cases that are right in `null`, the row without a description, and wrong in `row`."""
    if null is None or null is row or null["cases"] != row["cases"] or None in (null["percent"], row["percent"]):
        return None
    return 100 * float(np.mean(np.greater(null["outcomes"], row["outcomes"])))


def _points(gained: Sequence[float] | np.ndarray, targets: Sequence[str], resamples: int, seed: int) -> list[float]:
    """The mean of what each case gained and its 95% interval, in percentage points."""
    low, high = bootstrap_interval(gained, targets, resamples, seed)
    return [100 * float(np.mean(gained)), 100 * low, 100 * high]


def _adjust(cells: Sequence[dict[str, Any]], field: str) -> None:
    """Replace the p-values in `field`, skipping nulls, by Holm-adjusted ones over each column."""
    for column in dict.fromkeys(cell["column"] for cell in cells):
        tested = [cell for cell in cells if cell["column"] == column and cell[field] is not None]
        for cell, adjusted in zip(tested, holm([cell[field] for cell in tested]), strict=True):
            cell[field] = adjusted


def _cells(rows: list[dict[str, Any]], schema: pl.Schema, resamples: int, seed: int) -> pl.DataFrame:
    """The rows' fields that `schema` names, with intervals, rounded."""
    for row in rows:
        if row["percent"] is None:
            row |= {"low": None, "high": None}
            continue
        low, high = bootstrap_interval(row["outcomes"], row["targets"], resamples, seed)
        row |= {"low": 100 * low, "high": 100 * high}
    cells = pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=schema)
    p_values = [name for name in P_VALUES if name in schema]
    shares = [name for name in schema if schema[name] == pl.Float64 and name not in (*p_values, "paper")]
    return cells.with_columns(pl.col(shares).round(2), pl.col(p_values).round_sig_figs(P_DIGITS))


def write_cells(
    found: pl.DataFrame, cells: pl.DataFrame, title: str, note: str, csv: str | Path, markdown: str | Path
) -> None:
    """Write `cells`, made from the query result `found`, as CSV and as a Markdown table."""
    cells.write_csv(csv)
    Path(markdown).write_text(cells_markdown(title, note, cells, column_order(found)), encoding="utf-8")


def cells_markdown(title: str, note: str, cells: pl.DataFrame, columns: Sequence[str]) -> str:
    """A wide table with one row per method; `note` is Markdown, the other names are plain text."""
    by_place = {(row["method"], row["column"]): row for row in cells.to_dicts()}
    rows = []
    for method in cells["method"].unique(maintain_order=True):
        places = [by_place.get((method, column)) for column in columns]
        rows.append([escape(method), *("–" if place is None else _cell(place) for place in places)])
    lines = [f"# {escape(title)}", "", *table_lines(["method", *map(escape, columns)], rows)]
    sizes = sorted({row["n"] for row in by_place.values()})
    cases = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    note += f" n is {cases} cases per cell; the CSV beside this file lists each n."
    return "\n".join([*lines, "", note + _ties_note(cells), ""])


def _ties_note(cells: pl.DataFrame) -> str:
    """Sentences about the cells of an accuracy table in which many or all cases tie; empty if there are none."""
    if "position_flip" not in cells.columns:
        return ""
    note = ""
    if (tied := cells.filter(pl.col("ties") > MANY_TIES)).height:
        note += (
            f" In {tied.height} of {cells.height} cells more than {MANY_TIES}% of the cases tie (`ties` in the CSV)."
        )
    if cells["percent"].null_count():
        note += " – marks cells in which no case is decided."
    return note


def _cell(row: Mapping[str, Any]) -> str:
    """Percentage, mark and interval; below them, if the row has them, change, difference and the paper's figure."""
    if row["percent"] is None:
        lines = ["–"]
    else:
        mark = row.get("mark")
        figure = f"{row['percent']:.1f}{'*' if mark == '*' else ''}"
        figure = f"**{figure}**" if mark == "best" else figure
        lines = [f"{figure} [{row['low']:.1f}, {row['high']:.1f}]"]
    if row.get("change") is not None:
        lines.append(f"{row['change']:+.1f}")
    if row.get("difference") is not None:
        lines.append(f"difference {row['difference']:+.1f}{'*' if row['p_holm'] < SIGNIFICANT else ''}")
    if row.get("tokens_read") is not None:
        lines.append(f"({row['tokens_read']:.0f} + {row['tokens_written']:.0f} tokens)")
    if row.get("paper") is not None:
        lines.append(f"paper {row['paper']:.2f}")
    return "<br>".join(lines)
