"""Result CSVs as the site shows them: row by row and, if a file has one row per method and column, as a wide table."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignxplore.errors import UserError

WIDE = ("method", "column", "percent", "low", "high")
"""Fields that make a file a wide table."""
AGAINST = ", against "
"""What win_rates.sql writes between the group and the opponent of a column."""
CHANGE = ("change", "change_low", "change_high")


@dataclass(frozen=True)
class Cell:
    """One cell of a wide table, in percent: our figure with its interval and mark, and the paper's.

    `change` is the change from another column with its interval, if the file has one.
    """

    percent: float
    low: float
    high: float
    mark: str
    paper: float | None
    change: tuple[float, float, float] | None = None

    @property
    def difference(self) -> float | None:
        """How far our figure is above the paper's."""
        return None if self.paper is None else self.percent - self.paper


@dataclass(frozen=True)
class Table:
    """A CSV as text; with WIDE fields, also its `columns` in order and `wide`, its cells by method, then column.

    A line without a percentage has no cell.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    columns: Sequence[str] = ()
    wide: Mapping[str, Mapping[str, Cell]] | None = None

    def numeric(self, column: int) -> bool:
        """Whether any row has a number in the column at this position."""
        return any(is_number(row[column]) for row in self.rows)


def read_table(path: str | Path) -> Table:
    """The table in a CSV file.

    Raises UserError that names the file, line and field if it is not valid CSV or a figure is not a number.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from error
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise UserError(f"{path}: line {number} has {len(row)} fields, but the header has {len(header)}")
    if not set(WIDE) <= set(header):
        return Table(header, rows)
    wide: dict[str, dict[str, Cell]] = {}
    columns: dict[str, None] = {}
    for number, values in enumerate(rows, 2):
        fields = dict(zip(header, values, strict=True))
        columns[fields["column"]] = None
        figures = wide.setdefault(fields["method"], {})
        if not fields["percent"]:
            continue
        percent, low, high = (_number(fields[name], path, number, name) for name in WIDE[2:])
        paper = _number(fields["paper"], path, number, "paper") if fields.get("paper") else None
        change = None
        if fields.get("change"):
            points, change_low, change_high = (_number(fields[name], path, number, name) for name in CHANGE)
            change = (points, change_low, change_high)
        figures[fields["column"]] = Cell(percent, low, high, fields.get("mark", ""), paper, change)
    return Table(header, rows, _in_order_of_rows(list(columns), list(wide)), wide)


def _in_order_of_rows(columns: Sequence[str], methods: Sequence[str]) -> Sequence[str]:
    """The columns as they are, but those of a win-rate table, "GROUP, against METHOD", in the order of its rows.

    A method is not compared with itself, so the first row lacks the first column.
    """
    named = {f"{AGAINST}{method}": place for place, method in enumerate(methods)}
    groups = dict.fromkeys(column.partition(AGAINST)[0] for column in columns)
    order = {group: place for place, group in enumerate(groups)}

    def place(column: str) -> tuple[int, int]:
        group, against, method = column.partition(AGAINST)
        return order[group], named.get(against + method, 0)

    return tuple(sorted(columns, key=place))


def _number(value: str, path: str | Path, line: int, field: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{path}: line {line}, field {field!r}: {value!r} is not a number") from None


def plain(value: str) -> str:
    """A decimal number with two decimals, or two digits if it is small; any other text unchanged."""
    try:
        number = float(value)
    except ValueError:
        return value
    if "." not in value and "e" not in value.lower():
        return value
    return f"{number:.2f}" if abs(number) >= 0.01 or number == 0 else f"{number:.2g}"


def is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
