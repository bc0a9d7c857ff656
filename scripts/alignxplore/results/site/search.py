"""The word index over the texts of all cases, cut into files so that a search loads only those with its words."""

import heapq
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from alignxplore.results.site.javascript import posting, write_compressed

# As in search.js. Writing systems without spaces between words are indexed by character.
WORD = r"[\p{Han}\p{Hiragana}\p{Katakana}]|[\p{L}\p{N}\p{M}_]+"
LONGEST = 40
"""Characters kept of a word; longer words are mostly links."""
SHARD_BYTES = 300_000
"""Size from which a file of the index is full."""
ROWS = 2048
"""Words per block that are in memory while the blocks are merged."""


def words(texts: pl.Series) -> pl.Series:
    """The distinct words of each text, in lower case and Unicode's compatibility form."""
    found = texts.str.normalize("NFKC").str.to_lowercase().str.extract_all(WORD).list.unique()
    return found.list.eval(pl.element().str.slice(0, LONGEST))


class SearchIndex:
    """Collects texts, one block of cases at a time and in the cases' order, and merges them into one index.

        block 0: cat -> 3 7     dog -> 1        each block sorted by word, on disk
        block 1: cat -> 501     emu -> 530
        index:   cat -> 3 7 501 | dog -> 1 | emu -> 530

    A block holds later cases than the one before it, so the merged numbers ascend without sorting.
    """

    def __init__(self, work: Path):
        self.work, self.blocks = work, 0
        work.mkdir(parents=True)

    def add(self, texts: pl.DataFrame) -> None:
        """Add a block: `texts` has columns number and text, with all rows of a case in one block."""
        found = (
            texts.select("number", word=words(texts["text"]))
            .explode("word")
            .drop_nulls()
            .unique()
            .group_by("word")
            .agg(pl.col("number").sort())
            .sort("word")
        )
        found.write_parquet(self.work / f"{self.blocks:06}.parquet", row_group_size=ROWS)
        self.blocks += 1

    def write(self, directory: Path, count: int) -> list[list[str]]:
        """Write the index to `directory`/0.js, 1.js, … for `count` cases; returns each file's first and last word."""
        shards: list[list[str]] = []
        held: list[tuple[str, str]] = []
        size = 0
        for word, numbers in self._words():
            held.append((word, posting(numbers, count)))
            size += len(word) + len(held[-1][1])
            if size >= SHARD_BYTES:
                shards.append(_write(directory / f"{len(shards)}.js", len(shards), held))
                held, size = [], 0
        if held:
            shards.append(_write(directory / f"{len(shards)}.js", len(shards), held))
        return shards

    def _words(self) -> Iterator[tuple[str, np.ndarray]]:
        blocks = [_rows(path) for path in sorted(self.work.glob("*.parquet"))]
        for word, rows in groupby(heapq.merge(*blocks, key=itemgetter(0)), key=itemgetter(0)):
            yield word, np.concatenate([numbers for _, numbers in rows])


def _rows(path: Path) -> Iterator[tuple[str, list[int]]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS, columns=["word", "number"]):
            yield from zip(batch["word"].to_pylist(), batch["number"].to_pylist(), strict=True)


def _write(path: Path, number: int, held: list[tuple[str, str]]) -> list[str]:
    write_compressed(path, "AX.addShard", number, list(zip(*held, strict=True)))
    return [held[0][0], held[-1][0]]
