"""The word index over the texts of all cases, cut into files so that a search loads only those with its words."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from alignxplore.results.site.javascript import postings, write_compressed

# As in search.js. Writing systems without spaces between words are indexed by character.
WORD = r"[\p{Han}\p{Hiragana}\p{Katakana}]|[\p{L}\p{N}\p{M}_]+"
LONGEST = 40
"""Characters kept of a word; longer words are mostly links."""
SHARD_BYTES = 300_000
"""Size from which a file of the index is full."""
PART = 4_000_000
"""Case numbers, more or less, that are in memory while the blocks are merged."""


def words(texts: pl.Series) -> pl.Series:
    """The words of each text, in lower case and Unicode's compatibility form."""
    found = texts.str.normalize("NFKC").str.to_lowercase().str.extract_all(WORD)
    return found.list.eval(pl.element().str.slice(0, LONGEST))


class SearchIndex:
    """Collects texts, one block of cases at a time and in the cases' order, and merges them into one index.

        block 0: cat -> 3 7     dog -> 1        each block sorted by word, on disk
        block 1: cat -> 501     emu -> 530
        index:   cat -> 3 7 501 | dog -> 1 | emu -> 530

    All numbers do not fit into memory: the blocks are merged for one range of words after another.
    """

    def __init__(self, work: Path):
        self.work, self.blocks = work, 0
        work.mkdir(parents=True)

    def add(self, texts: pl.DataFrame) -> None:
        """Add a block: `texts` has columns number and text, with all rows of a case in one block."""
        cases = texts.group_by("number").agg(pl.col("text").str.join(" "))
        # What is between two spaces becomes words only where it is new in the block: that is most of the work.
        parts = (
            cases.select("number", part=pl.col("text").str.split(" ").list.unique())
            .explode("part")
            .group_by("part")
            .agg("number")
        )
        found = (
            parts.select("number", word=words(parts["part"]))
            .explode("word")
            .drop_nulls()
            .group_by("word")
            .agg(pl.col("number").list.explode().unique().sort())
            .sort("word")
        )
        found.write_parquet(self.work / f"{self.blocks:06}.parquet", compression="lz4", row_group_size=2048)
        self.blocks += 1

    def write(self, directory: Path, count: int) -> list[list[str]]:
        """Write the index to `directory`/0.js, 1.js, … for `count` cases; returns each file's first and last word."""
        shards: list[list[str]] = []
        held: list[tuple[str, str]] = []
        size = 0
        for part in self._parts():
            for word, text in zip(part["word"], postings(part["number"], count), strict=True):
                held.append((word, text))
                size += len(word) + len(text)
                if size >= SHARD_BYTES:
                    shards.append(_write(directory / f"{len(shards)}.js", len(shards), held))
                    held, size = [], 0
        if held:
            shards.append(_write(directory / f"{len(shards)}.js", len(shards), held))
        return shards

    def _parts(self) -> Iterator[pl.DataFrame]:
        """Yield the words in order with the numbers of their cases, some at a time."""
        schema = pl.Schema({"word": pl.String(), "number": pl.List(pl.UInt32)})
        blocks = pl.scan_parquet(self.work / "*.parquet", schema=schema)
        word, number = pl.col("word"), pl.col("number")
        sizes = blocks.group_by("word").agg(size=number.list.len().sum().cast(pl.UInt64)).sort("word")
        parts = sizes.group_by(part=pl.col("size").cum_sum() // PART, maintain_order=True)
        ranges = parts.agg(first=word.first(), last=word.last()).collect()
        for _, first, last in ranges.iter_rows():
            own = blocks.filter(word.is_between(pl.lit(first), pl.lit(last)))
            yield own.group_by("word").agg(number.list.explode().sort()).sort("word").collect()


def _write(path: Path, number: int, held: list[tuple[str, str]]) -> list[str]:
    write_compressed(path, "AX.addShard", number, list(zip(*held, strict=True)))
    return [held[0][0], held[-1][0]]
