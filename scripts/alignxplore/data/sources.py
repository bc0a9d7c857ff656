"""Cut raw files into pieces for shards, and read a piece in blocks, so that no file is held in memory."""

import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from alignxplore.errors import UserError

Kind = Literal["lines", "array", "parquet"]

BLOCK_BYTES = 32 << 20
"""Size of a block of JSON."""

BLOCK_ROWS = 4096
"""Size of a block of Parquet."""

LONGEST_RECORD = 64 << 20
"""In bytes. A longer line is skipped without holding it in memory."""

CHUNK = 1 << 20
COMPRESSED = (".gz", ".zst")
BLANKS = re.compile(r"\s*")


@dataclass(frozen=True)
class Piece:
    """A part of one file: bytes `start` to `stop` of JSON lines, row groups of Parquet, or else the whole file."""

    path: str
    kind: Kind
    start: int
    stop: int


def plan(paths: Sequence[str], shards: int) -> list[list[Piece]]:
    """Divide the files into `shards` lists of pieces of about equal size, in file order.

    JSON lines may be cut at any byte; a line belongs to the piece in which it begins. Parquet is cut between row
    groups. Arrays and compressed files stay whole. Raises UserError if a file cannot be read.

        files    |      a.jsonl      |  b.json (array)  |  c.parquet  |
        shards   |   1   |   2   |   3   |   4   |   5   |   6   |   7   |
        pieces   a a a a | a a a | a a, b b b b |               | c c c
    """
    sizes = [_size(path) for path in paths]
    total = max(sum(sizes), 1)
    pieces: list[list[Piece]] = [[] for _ in range(shards)]
    begin = 0
    for path, size in zip(paths, sizes, strict=True):
        kind = _kind(path)
        if kind == "parquet":
            groups = _parquet(path).num_row_groups
            homes = [(begin + size * group // groups) * shards // total for group in range(groups)]
            cuts = [(home, homes.index(home), homes.index(home) + homes.count(home)) for home in dict.fromkeys(homes)]
        elif kind == "lines" and not path.endswith(COMPRESSED):
            bounds = [min(max(shard * total // shards - begin, 0), size) for shard in range(shards + 1)]
            cuts = list(zip(range(shards), bounds[:-1], bounds[1:], strict=True))
        else:
            cuts = [(min(begin * shards // total, shards - 1), 0, size)]
        for shard, start, stop in cuts:
            if start < stop:
                pieces[shard].append(Piece(path, kind, start, stop))
        begin += size
    return pieces


def read_json(piece: Piece) -> Iterator[tuple[int, list[bytes | None]]]:
    """Yield blocks of a piece of JSON: the number of the block's first record, from 1, and the bytes of each record.

    Blank lines count as records, so numbers are line numbers. None replaces a line that is too long.
    """
    first, block, held = 1, list[bytes | None](), 0
    for record in _array_items(piece.path) if piece.kind == "array" else _lines(piece):
        block.append(record)
        held += len(record or b"")
        if held >= BLOCK_BYTES:
            yield first, block
            first, block, held = first + len(block), [], 0
    if block:
        yield first, block


def read_parquet(piece: Piece) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield blocks of a piece of Parquet: the number of the block's first row, from 1, and the rows."""
    first = 1
    with _reading(piece.path, f"its row groups {piece.start + 1} to {piece.stop} cannot be read as Parquet"):
        for batch in _parquet(piece.path).iter_batches(BLOCK_ROWS, row_groups=range(piece.start, piece.stop)):
            yield first, pl.DataFrame(pl.from_arrow(batch))
            first += batch.num_rows


def _lines(piece: Piece) -> Iterator[bytes | None]:
    with _reading(piece.path), _open(piece.path) as file:
        position = piece.start
        if piece.start:
            file.seek(piece.start - 1)
            position += len(file.readline()) - 1
        # The size of a compressed file says nothing about its lines.
        stop = float("inf") if piece.path.endswith(COMPRESSED) else piece.stop
        while position < stop and (part := file.readline(LONGEST_RECORD)):
            line: bytes | None = part
            position += len(part)
            while len(part) == LONGEST_RECORD and not part.endswith(b"\n"):
                line, part = None, file.readline(LONGEST_RECORD)
                position += len(part)
            yield line


def _array_items(path: str) -> Iterator[bytes]:
    """Yield the elements of a JSON array. The buffer `text` holds little more than one of them."""
    decode = json.JSONDecoder().raw_decode
    number, text, at, expects_comma = 0, "", 0, False

    def broken(problem: str) -> UserError:
        return UserError(f"{path}: not valid JSON{f' after record {number}' if number else ''}: {problem}")

    def more(size: int = CHUNK) -> bool:
        """Drop what was decoded and read on. Returns False at the end of the file."""
        nonlocal text, at
        if new := file.read(size):
            text, at = text[at:] + new, 0
        return bool(new)

    def next_character() -> str:
        """Skip blanks. Returns "" at the end of the file."""
        nonlocal at
        while (at := BLANKS.match(text, at).end()) == len(text) and more():  # type: ignore[union-attr]
            pass
        return text[at : at + 1]

    try:
        with _reading(path), io.TextIOWrapper(_open(path), encoding="utf-8-sig") as file:
            next_character()
            at += 1  # the opening bracket
            while (character := next_character()) != "]":
                if not character:
                    raise broken("the array is cut short")
                if expects_comma:
                    if character != ",":
                        raise broken("a comma is missing between two records")
                    at, expects_comma = at + 1, False
                    continue
                while True:
                    try:
                        _, end = decode(text, at)
                    except json.JSONDecodeError as error:
                        if len(text) - at > LONGEST_RECORD or not more(max(CHUNK, len(text) - at)):
                            raise broken(error.msg) from error
                    else:
                        # A number at the end of the buffer may continue.
                        if end < len(text) or not more():
                            break
                yield text[at:end].encode()
                number, at, expects_comma = number + 1, end, True
            at += 1
            if next_character():
                raise broken("there is more after the array")
    except RecursionError:
        raise broken("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise broken(f"not valid UTF-8 at byte {error.start + 1} of a block") from error


def _open(path: str) -> IO[bytes]:
    if path.endswith(COMPRESSED):
        codec = "gzip" if path.endswith(".gz") else "zstd"
        return io.BufferedReader(pa.input_stream(path, compression=codec), CHUNK)  # type: ignore[arg-type]
    return open(path, "rb", buffering=CHUNK)


def _kind(path: str) -> Kind:
    if path.endswith(".parquet"):
        return "parquet"
    with _reading(path), _open(path) as file:
        while block := file.read(4096).removeprefix(b"\xef\xbb\xbf"):
            if block := block.lstrip():
                return "array" if block.startswith(b"[") else "lines"
    return "lines"


def _size(path: str) -> int:
    with _reading(path):
        return Path(path).stat().st_size


def _parquet(path: str) -> pq.ParquetFile:
    with _reading(path, "the file cannot be read as Parquet"):
        return pq.ParquetFile(path)


@contextmanager
def _reading(path: str, problem: str = "cannot be read") -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = (getattr(error, "strerror", None) or str(error)).strip().partition("\n")[0]
        raise UserError(f"{path}: {problem}: {reason}") from error
