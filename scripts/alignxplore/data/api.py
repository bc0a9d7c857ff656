"""The data stage for notebooks: `from alignxplore.data.api import scan_alignx, refine, load_benchmark`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from alignxplore import records
from alignxplore.data.blocks import read_piece
from alignxplore.data.locations import local_files
from alignxplore.data.refine import Rules, key_dimensions, refine
from alignxplore.data.sources import plan

__all__ = ["Rules", "key_dimensions", "load_benchmark", "read_alignx", "refine", "scan_alignx"]

OnReject = Callable[[str, int, str, str], None]
"""Called with source, line, field and reason."""

MAX_CHARACTERS = 100_000


def scan_alignx(
    sources: str | Sequence[str], max_characters: int = MAX_CHARACTERS, on_reject: OnReject | None = None
) -> pl.LazyFrame:
    """Raw AlignX files (names, globs, fetched hub files) as lazy EXAMPLE rows, read a block at a time.

    Bad records, and records whose texts repeat an earlier one's, are left out; `on_reject` hears of each. Raises
    UserError, when collected, for a file that cannot be read.
    """
    paths = local_files([sources] if isinstance(sources, str) else sources)

    def blocks(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = n_rows
        for examples in _examples(paths, max_characters, on_reject or (lambda *_: None)):
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
    """All good records of raw AlignX files as EXAMPLE, and the others as REJECT."""
    rejects: list[tuple[str, int, str, str]] = []
    examples = scan_alignx(sources, max_characters, lambda *reject: rejects.append(reject)).collect()
    return examples, pl.DataFrame(rejects, schema=records.REJECT, orient="row")


def load_benchmark(name: str, directory: str | Path = "data/cases") -> pl.DataFrame:
    """The CASE rows of a benchmark that the workflow has made; UserError where it has not."""
    return records.read(Path(directory) / f"{name}.parquet", records.CASE)


def _examples(paths: Sequence[str], max_characters: int, on_reject: OnReject) -> Iterator[pl.DataFrame]:
    seen: dict[int, tuple[str, int]] = {}
    for piece in plan(paths, 1)[0]:
        for _, _, block, rejects in read_piece(piece, max_characters):
            numbers = []
            for number, fingerprint in block.fingerprints.iter_rows():
                first = seen.setdefault(fingerprint, (piece.path, number))
                if first == (piece.path, number):
                    numbers.append(number)
                else:
                    rejects.append((number, "record", f"duplicate of {first[0]}:{first[1]}"))
            for reject in sorted(rejects):
                on_reject(piece.path, *reject)
            yield block.examples(pl.Series(numbers, dtype=pl.Int64)).select(records.EXAMPLE.names())
