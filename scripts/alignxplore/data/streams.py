"""Streams: users whose signals come in chunks. A row of a stream is one step of it (records.STREAM)."""

from collections.abc import Mapping
from typing import Any


def signal_count(row: Mapping[str, Any]) -> int:
    """How many signals an example or case has: pairs and comments."""
    return len(row["pairs"]) + len(row["ugc"])


def span(row: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    """An example or case with its signals `start` up to `stop` alone. Pairs count before comments."""
    first = len(row["pairs"])
    comments = slice(max(start - first, 0), max(stop - first, 0))
    return {**row, "pairs": row["pairs"][start:stop], "ugc": row["ugc"][comments]}


def last_chunk(row: Mapping[str, Any]) -> dict[str, Any]:
    """A step of a stream with the signals of its last chunk alone."""
    return span(row, sum(row["chunks"][:-1]), sum(row["chunks"]))
