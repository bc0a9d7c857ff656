"""Markdown in which the user's text is text."""

import re
from collections.abc import Sequence


def escape(text: str) -> str:
    """Text on one line in which Markdown finds no markup, link, table cell or HTML."""
    return re.sub(r"([\\`*_{}\[\]()#+\-=.!|<>&~])", r"\\\1", " ".join(text.splitlines()))


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, of cells that are Markdown already."""
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
