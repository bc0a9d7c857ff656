"""Markdown that shows the user's text as plain text."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl


def escape(text: str) -> str:
    """Text on one line in which Markdown finds no markup, link, table cell or HTML."""
    return re.sub(r"([\\`*_{}\[\]()#+\-=.!|<>&~])", r"\\\1", " ".join(text.splitlines()))


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose cells are already Markdown."""
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_rows(rows: pl.DataFrame, title: str, note: str, csv: str | Path, markdown: str | Path) -> None:
    """Write a table, row by row, as CSV and as Markdown."""
    rows.write_csv(csv)
    Path(markdown).write_text(rows_markdown(title, note, rows), encoding="utf-8")


def rows_markdown(title: str, note: str, rows: pl.DataFrame) -> str:
    """A page with a table, row by row; `note` is Markdown, everything else is plain text."""
    head = [name.replace("_", " ") for name in rows.columns]
    body = [[_value(value) for value in row] for row in rows.iter_rows()]
    return "\n".join([f"# {escape(title)}", "", *table_lines(head, body), "", note, ""])


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else escape(str(value))
