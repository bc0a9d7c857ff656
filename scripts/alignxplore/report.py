"""One page with every table and figure; it opens from disk and needs nothing else."""

import base64
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from alignxplore.errors import UserError


def render(
    template: str | Path,
    tables: Mapping[str, str | Path],
    figures: Mapping[str, str | Path],
    funnel: str | Path,
    rejects: pl.DataFrame,
) -> str:
    """The page as HTML. `tables` and `funnel` are CSV files, `figures` SVG files, by title; all text is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["number"] = _number
    try:
        page = environment.from_string(Path(template).read_text(encoding="utf-8"))
    except (OSError, jinja2.TemplateSyntaxError) as error:
        raise UserError(f"report template {template}: {error}") from error
    reasons = rejects.group_by("field", "reason").len("records").sort("records", "field", "reason", descending=True)
    return page.render(
        tables={title: _rows(path) for title, path in tables.items()},
        # As images, so that no script of an SVG can run and its ids stay its own.
        figures={
            title: "data:image/svg+xml;base64," + base64.b64encode(Path(path).read_bytes()).decode()
            for title, path in figures.items()
        },
        funnel=_rows(funnel),
        rejects=reasons.to_dicts(),
    )


def _rows(path: str | Path) -> Sequence[Mapping[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _number(value: Any) -> str:
    """Figures to two decimals; everything else as it is."""
    try:
        number = float(value)
    except ValueError:
        return str(value)
    return str(value) if number.is_integer() and "." not in str(value) else f"{number:.2f}"
