"""What a method says about each case, as PREFERENCE rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from alignxplore.formats import Parsed


@dataclass(frozen=True)
class Description:
    """What a method says about one case; `finish_reason` and token counts are those of its completions."""

    parsed: Parsed
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


def preference_rows(
    cases: Sequence[Mapping[str, Any]], method: str, descriptions: Sequence[Description]
) -> pl.DataFrame:
    """PREFERENCE rows of a method whose model wrote these descriptions."""
    return pl.DataFrame(
        [
            {
                "case_id": case["case_id"],
                "benchmark": case["benchmark"],
                "method": method,
                "reasoning": description.parsed.reasoning,
                "preference": description.parsed.preference,
                "format_ok": description.parsed.format_ok,
                "finish_reason": description.finish_reason,
                "prompt_tokens": description.prompt_tokens,
                "completion_tokens": description.completion_tokens,
            }
            for case, description in zip(cases, descriptions, strict=True)
        ]
    )


def unwritten_rows(
    cases: Sequence[Mapping[str, Any]], method: str, texts: Sequence[tuple[str, str] | None]
) -> pl.DataFrame:
    """PREFERENCE rows of a method without completions, from (reasoning, description) of each case, None if refused.

    They count no tokens, and `format_ok` is null.
    """
    refused = Description(Parsed("", "", format_ok=True), "refused", 0, 0)
    descriptions = [
        refused if text is None else Description(Parsed(*text, format_ok=True), "stop", 0, 0) for text in texts
    ]
    return preference_rows(cases, method, descriptions).with_columns(format_ok=pl.lit(None, pl.Boolean))
