"""A word index of all texts of all cases, in files of which a search loads those with its words alone."""

import base64
import heapq
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from alignxplore.results.site.scripts import write_call

# As in search.js: scripts that put no spaces between words are indexed by character.
WORD = r"[\p{Han}\p{Hiragana}\p{Katakana}]|[\p{L}\p{N}\p{M}_]+"
LONGEST = 40
"""Characters of a word that are kept; longer ones are mostly links."""
SHARD_BYTES = 300_000
ROWS = 2048
"""Words of a block that are in memory while the blocks are merged."""
DENSE = 16
"""A word of more than one case in this many is written as a bitmap."""


def words(texts: pl.Series) -> pl.Series:
    """Each text's words, once each, in lower case and Unicode's compatibility form."""
    found = texts.str.normalize("NFKC").str.to_lowercase().str.extract_all(WORD).list.unique()
    return found.list.eval(pl.element().str.slice(0, LONGEST))


def posting(numbers: np.ndarray, count: int) -> str:
    """Ascending case numbers below `count` for search.js: differences in decimal, or "!" and a bitmap in base64."""
    if len(numbers) * DENSE < count:
        return ",".join(map(str, np.diff(numbers, prepend=0).tolist()))
    bits = np.zeros(count, dtype=np.uint8)
    bits[numbers] = 1
    return "!" + base64.b64encode(np.packbits(bits, bitorder="little").tobytes()).decode("ascii")


class SearchIndex:
    """Takes texts a block of cases at a time, in the cases' order, and merges the blocks' words into the index."""

    def __init__(self, work: Path):
        self.work, self.blocks = work, 0
        work.mkdir(parents=True)

    def add(self, texts: pl.DataFrame) -> None:
        """`texts` has columns number and text; a case may have several rows, but all of them in one block."""
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
        """Write `directory`/N.js for every N, and return the first and last word of each."""
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
    write_call(path, "AX.shard", number, " ".join(word for word, _ in held), " ".join(text for _, text in held))
    return [held[0][0], held[-1][0]]
