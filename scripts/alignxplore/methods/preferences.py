"""PREFERENCE rows, and the methods that ask no model for them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from alignxplore.formats import Parsed
from alignxplore.prompts import signals_text

Result = tuple[Parsed, str, int, int]
"""What a method says of a case, its finish reason, and the tokens of prompt and completion."""


GIVEN: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "none": lambda case: "",
    "signals": signals_text,
    "golden": lambda case: case["golden_preference"],
}
"""How a method that asks no model describes the user of a case, by the method's kind."""


def given_preferences(kind: str, cases: pl.DataFrame, method: str) -> pl.DataFrame:
    """PREFERENCE rows of a method that asks no model, of a kind in GIVEN."""
    rows = list(cases.iter_rows(named=True))
    return worded_rows(rows, method, [("", GIVEN[kind](case)) for case in rows])


def worded_rows(cases: Sequence[Mapping[str, Any]], method: str, texts: Sequence[tuple[str, str]]) -> pl.DataFrame:
    """PREFERENCE rows of a method that writes no completion, from its reasoning and description of each case."""
    rows = preference_rows(cases, method, [(Parsed(*text, format_ok=True), "stop", 0, 0) for text in texts])
    return rows.with_columns(format_ok=pl.lit(None, pl.Boolean))


def preference_rows(cases: Sequence[Mapping[str, Any]], method: str, results: Sequence[Result]) -> pl.DataFrame:
    """PREFERENCE rows of what a method says of each case."""
    return pl.DataFrame(
        [
            {
                "case_id": case["case_id"],
                "benchmark": case["benchmark"],
                "method": method,
                "reasoning": parsed.reasoning,
                "preference": parsed.preference,
                "format_ok": parsed.format_ok,
                "finish_reason": finish_reason,
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
            }
            for case, (parsed, finish_reason, prompt_tokens, completion_tokens) in zip(cases, results, strict=True)
        ]
    )
