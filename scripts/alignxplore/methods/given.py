"""Methods that ask no model: no description, the signals, what the user liked, or the benchmark's own description."""

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from alignxplore.data.benchmarks import check_golden, check_signals
from alignxplore.methods.descriptions import unwritten_rows


def _signals(case: Mapping[str, Any]) -> str:
    """A case's raw signals as one text."""
    lines = [f"{pair['prompt']}\nChosen: {pair['chosen']}\nRejected: {pair['rejected']}" for pair in case["pairs"]]
    lines += [f"{item['prompt']}\nComment: {item['comment']}" for item in case["ugc"]]
    return "\n".join(f"{number}. Post: {line}" for number, line in enumerate(lines, 1))


def _liked(case: Mapping[str, Any]) -> str:
    """The responses that the user chose, and the user's own comments."""
    return "\n".join([pair["chosen"] for pair in case["pairs"]] + [item["comment"] for item in case["ugc"]])


GIVEN: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "none": lambda case: "",
    "signals": _signals,
    "liked": _liked,
    "golden": lambda case: case["golden_preference"],
}
"""How a method of each kind describes the user of a case."""


def given_preferences(kind: str, cases: pl.DataFrame, method: str) -> pl.DataFrame:
    """PREFERENCE rows of a method whose kind is in GIVEN. Raises UserError if cases lack what it needs."""
    if kind == "golden":
        check_golden(cases, f"methods.{method}")
    elif kind != "none":
        check_signals(cases, f"methods.{method}")
    rows = list(cases.iter_rows(named=True))
    return unwritten_rows(rows, method, [("", GIVEN[kind](case)) for case in rows])
