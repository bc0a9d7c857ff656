"""The data stage for notebooks: `from alignxplore.data.api import scan_alignx, refine, load_benchmark`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from alignxplore import records
from alignxplore.data.locations import local_files
from alignxplore.data.reader import read_piece
from alignxplore.data.refine import Rules, key_dimensions, refine
from alignxplore.data.sources import plan

__all__ = ["Rules", "key_dimensions", "load_benchmark", "read_alignx", "refine", "scan_alignx"]

MAX_CHARACTERS = 100_000


def scan_alignx(sources: str | Sequence[str], max_characters: int = MAX_CHARACTERS) -> pl.LazyFrame:
    """Scan raw AlignX files (names, globs, downloaded hub files) as lazy EXAMPLE rows, read in blocks.

    Bad records, and records with the same texts as an earlier one, are left out. Collecting raises UserError if a file
    cannot be read.
    """
    paths = _paths(sources)

    def blocks(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = n_rows
        for examples, _ in _blocks(paths, max_characters):
            if left is not None:
                examples = examples.head(left)
                left -= examples.height
            if predicate is not None:
                examples = examples.filter(predicate)
            yield examples.select(with_columns) if with_columns is not None else examples
            if left == 0:
                return

    return register_io_source(blocks, schema=records.EXAMPLE)


def read_alignx(
    sources: str | Sequence[str], max_characters: int = MAX_CHARACTERS
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read raw AlignX files whole: the good records as EXAMPLE, and the others as REJECT."""
    examples, rejects = [records.EXAMPLE.to_frame()], [records.REJECT.to_frame()]
    for good, bad in _blocks(_paths(sources), max_characters):
        examples.append(good)
        rejects.append(bad)
    return pl.concat(examples), pl.concat(rejects)


def load_benchmark(name: str, directory: str | Path = "data/cases") -> pl.DataFrame:
    """Read the CASE rows of a benchmark. Raises UserError if the workflow has not made them."""
    return records.read(Path(directory) / f"{name}.parquet", records.CASE)


def _paths(sources: str | Sequence[str]) -> list[str]:
    return local_files([sources] if isinstance(sources, str) else sources)


def _blocks(paths: Sequence[str], max_characters: int) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield EXAMPLE and REJECT rows; a record with the same texts as an earlier one is a reject."""
    seen: dict[str, str] = {}
    for piece in plan(paths, 1)[0]:
        for block in read_piece(piece, max_characters):
            rejects = [(piece.path, *reject) for reject in block.rejects]
            for line, example in block.examples.select("line", "example_id").iter_rows():
                here = f"{piece.path}:{line}"
                if (first := seen.setdefault(example, here)) != here:
                    rejects.append((piece.path, line, "record", f"duplicate of {first}"))
            bad = pl.DataFrame(sorted(rejects), records.REJECT, orient="row")
            yield block.examples.join(bad, on="line", how="anti", maintain_order="left").drop("line"), bad
