"""Streams: users whose signals come in chunks. A row of a stream is one step of it (records.STREAM)."""

from collections.abc import Iterator, Mapping, Sequence
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


def chunk_sizes(signals: int, chunk: int) -> list[int]:
    """The sizes of the chunks of a history: `chunk` each, and what is left in the last."""
    return [min(chunk, signals - start) for start in range(0, signals, chunk)]


def steps(row: Mapping[str, Any], sizes: Sequence[int], id_field: str) -> Iterator[dict[str, Any]]:
    """The steps of the stream that a row's history makes in chunks of these sizes.

    All have the row's fields, its id as `stream`, and ids of their own in `id_field`.
    """
    for number in range(1, len(sizes) + 1):
        known = list(sizes[:number])
        yield {
            **span(row, 0, sum(known)),
            id_field: f"{row[id_field]}.{number}",
            "stream": row[id_field],
            "chunks": known,
        }
