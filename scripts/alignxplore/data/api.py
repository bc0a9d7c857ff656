"""The data stage for notebooks: `from alignxplore.data.api import scan_alignx, refine, load_benchmark`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from alignxplore import records
from alignxplore.data.locations import local_files
from alignxplore.data.reader import read_piece
from alignxplore.data.refine import Rules, key_dimensions, refine
from alignxplore.data.sources import plan

__all__ = ["Rules", "key_dimensions", "load_benchmark", "read_alignx", "refine", "scan_alignx"]

OnReject = Callable[[str, int, str, str], None]
"""Called with source, line, field and reason."""

MAX_CHARACTERS = 100_000


def scan_alignx(
    sources: str | Sequence[str], max_characters: int = MAX_CHARACTERS, on_reject: OnReject = lambda *reject: None
) -> pl.LazyFrame:
    """Scan raw AlignX files (names, globs, downloaded hub files) as lazy EXAMPLE rows, read a block at a time.

    Bad records, and records with the texts of an earlier one, are left out; `on_reject` is called for each. Collecting
    raises UserError if a file cannot be read.
    """
    paths = local_files([sources] if isinstance(sources, str) else sources)

    def blocks(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = n_rows
        for examples in _examples(paths, max_characters, on_reject):
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
    rejects: list[tuple[str, int, str, str]] = []
    examples = scan_alignx(sources, max_characters, lambda *reject: rejects.append(reject)).collect()
    return examples, pl.DataFrame(rejects, schema=records.REJECT, orient="row")


def load_benchmark(name: str, directory: str | Path = "data/cases") -> pl.DataFrame:
    """Read the CASE rows of a benchmark. Raises UserError if the workflow has not made them."""
    return records.read(Path(directory) / f"{name}.parquet", records.CASE)


def _examples(paths: Sequence[str], max_characters: int, on_reject: OnReject) -> Iterator[pl.DataFrame]:
    seen: dict[str, str] = {}
    for piece in plan(paths, 1)[0]:
        for block in read_piece(piece, max_characters):
            rejects = block.rejects
            for line, example in block.examples.select("line", "example_id").iter_rows():
                here = f"{piece.path}:{line}"
                if (first := seen.setdefault(example, here)) != here:
                    rejects.append((line, "record", f"duplicate of {first}"))
            for reject in sorted(rejects):
                on_reject(piece.path, *reject)
            bad = [line for line, _, _ in rejects]
            yield block.examples.filter(~pl.col("line").is_in(bad)).drop("line")
