"""Result CSVs as the site shows them: as they are, and wide where a file has one row for each method and column."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignxplore.errors import UserError

CELL = ("method", "column", "percent", "low", "high")
"""Columns of a file that is shown wide."""
CHANGE = ("change", "change_low", "change_high")


@dataclass(frozen=True)
class Figure:
    """One cell of a wide table, in percent: ours with its interval and mark, the paper's, and the difference to it.

    `change` is from another column, with its interval, where the file has one.
    """

    percent: float
    low: float
    high: float
    mark: str
    paper: float | None
    change: tuple[float, float, float] | None = None

    @property
    def difference(self) -> float | None:
        return None if self.paper is None else self.percent - self.paper


@dataclass(frozen=True)
class Table:
    """A CSV: `header` and `rows` as text; `columns` and `wide` (figures by method, then column) where it has CELL."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    columns: Sequence[str] = ()
    wide: Mapping[str, Mapping[str, Figure]] | None = None

    def numeric(self, column: int) -> bool:
        """Whether any row has a number in the column with this place."""
        return any(is_number(row[column]) for row in self.rows)


def read_table(path: str | Path) -> Table:
    """Raises UserError, naming file, row and field, where the file is no CSV or a figure is no number."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from error
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise UserError(f"{path}: line {number} has {len(row)} fields, the first has {len(header)}")
    if not set(CELL) <= set(header):
        return Table(header, rows)
    wide: dict[str, dict[str, Figure]] = {}
    columns: dict[str, None] = {}
    for number, values in enumerate(rows, 2):
        cell = dict(zip(header, values, strict=True))
        percent, low, high = (_number(cell[name], path, number, name) for name in CELL[2:])
        paper = _number(cell["paper"], path, number, "paper") if cell.get("paper") else None
        change = None
        if cell.get("change"):
            points, down, up = (_number(cell[name], path, number, name) for name in CHANGE)
            change = (points, down, up)
        columns[cell["column"]] = None
        figure = Figure(percent, low, high, cell.get("mark", ""), paper, change)
        wide.setdefault(cell["method"], {})[cell["column"]] = figure
    return Table(header, rows, tuple(columns), wide)


def _number(value: str, path: str | Path, line: int, field: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{path}: line {line}, field {field!r}: {value!r} is not a number") from None


def plain(value: str) -> str:
    """Figures to two decimals (small ones to two digits); everything else as it is."""
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
