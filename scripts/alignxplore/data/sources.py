"""Raw files in every form that users bring, cut into shards and read a block at a time, never whole in memory."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from alignxplore.errors import UserError

Kind = Literal["lines", "array", "parquet"]

BLOCK_BYTES = 32 << 20
BLOCK_ROWS = 4096
LONGEST_RECORD = 64 << 20
"""Bytes of JSON, and rows of Parquet, that are held at a time; a longer line than the last is not a record."""

COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True)
class Piece:
    """A part of one file: bytes `start` to `stop` of JSON lines, row groups of Parquet, or else all of it."""

    path: str
    kind: Kind
    start: int
    stop: int


def plan(paths: Sequence[str], shards: int) -> list[list[Piece]]:
    """Divide the files into `shards` lists of pieces of about equal size, in the files' order.

    JSON lines are cut anywhere and Parquet between row groups; arrays and compressed files stay whole. A line belongs
    to the piece in which it begins. Raises UserError for a file that cannot be read.
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
            cuts = [(shard, bounds[shard], bounds[shard + 1]) for shard in range(shards)]
        else:
            cuts = [(min(begin * shards // total, shards - 1), 0, size)]
        for shard, start, stop in cuts:
            if start < stop:
                pieces[shard].append(Piece(path, kind, start, stop))
        begin += size
    return pieces


def read_json(piece: Piece) -> Iterator[tuple[int, list[bytes | None]]]:
    """Blocks of a piece of JSON: the number of the block's first record, from 1, and the records' bytes.

    Blank lines are among them, so that numbers are those of lines; None stands for a line that is too long.
    """
    records = _array_items(piece) if piece.kind == "array" else _lines(piece)
    first, block, held = 1, list[bytes | None](), 0
    for record in records:
        block.append(record)
        held += len(record or b"")
        if held >= BLOCK_BYTES:
            yield first, block
            first, block, held = first + len(block), [], 0
    if block:
        yield first, block


def read_parquet(piece: Piece) -> Iterator[tuple[int, pl.DataFrame]]:
    """Blocks of a piece of Parquet: the number of the first row within the piece, from 1, and the rows."""
    groups = list(range(piece.start, piece.stop))
    first = 1
    try:
        for batch in _parquet(piece.path).iter_batches(batch_size=BLOCK_ROWS, row_groups=groups):
            yield first, pl.DataFrame(pl.from_arrow(batch))
            first += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(piece.path, f"its row groups {groups[0] + 1} to {groups[-1] + 1}", error) from error


def _lines(piece: Piece) -> Iterator[bytes | None]:
    try:
        with _open(piece.path) as file:
            position = piece.start
            if piece.start:
                file.seek(piece.start - 1)
                position += len(file.readline()) - 1
            # The size of a compressed file says nothing of its lines.
            stop = float("inf") if piece.path.endswith(COMPRESSED) else piece.stop
            while position < stop and (line := file.readline(LONGEST_RECORD)):
                position += len(line)
                if len(line) < LONGEST_RECORD or line.endswith(b"\n"):
                    yield line
                    continue
                while (rest := file.readline(LONGEST_RECORD)) and not rest.endswith(b"\n"):
                    position += len(rest)
                position += len(rest)
                yield None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{piece.path}: cannot be read: {_reason(error)}") from error


def _array_items(piece: Piece) -> Iterator[bytes]:
    """The elements of one JSON array, as their own bytes, decoded a little at a time."""
    decoder = json.JSONDecoder()
    number, text, at = 0, "", 0

    def broken(problem: str) -> UserError:
        where = f" after record {number}" if number else ""
        return UserError(f"{piece.path}: not valid JSON{where}: {problem}")

    try:
        with io.TextIOWrapper(_open(piece.path), encoding="utf-8-sig") as file:
            text = file.read(1 << 20)
            at = len(text) - len(text.lstrip()) + 1  # past the bracket that told the form
            expects_comma = False
            while True:
                while at < len(text) and text[at].isspace():
                    at += 1
                if at == len(text):
                    more = file.read(1 << 20)
                    if not more:
                        raise broken("the array is cut short")
                    text, at = more, 0
                elif text[at] == "]":
                    if (text[at + 1 :] + file.read(1 << 20)).strip():
                        raise broken("there is more behind the array")
                    return
                elif expects_comma and text[at] == ",":
                    at, expects_comma = at + 1, False
                elif expects_comma:
                    raise broken("a comma is missing between two records")
                else:
                    try:
                        _, end = decoder.raw_decode(text, at)
                    except json.JSONDecodeError as error:
                        more = "" if len(text) - at > LONGEST_RECORD else file.read(max(1 << 20, len(text) - at))
                        if not more:
                            raise broken(error.msg) from error
                        text, at = text[at:] + more, 0
                        continue
                    if end == len(text) and (more := file.read(1 << 20)):
                        text, at = text[at:] + more, 0  # a number may go on
                        continue
                    yield text[at:end].encode("utf-8", "surrogatepass")
                    number, at, expects_comma = number + 1, end, True
    except RecursionError:
        raise broken("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise broken(f"not valid UTF-8 at byte {error.start + 1} of a block") from error
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{piece.path}: cannot be read: {_reason(error)}") from error


def _open(path: str) -> IO[bytes]:
    if path.endswith(COMPRESSED):
        codec = "gzip" if path.endswith(".gz") else "zstd"
        return io.BufferedReader(pa.input_stream(path, compression=codec), 1 << 20)  # type: ignore[arg-type]
    return open(path, "rb", buffering=1 << 20)


def _kind(path: str) -> Kind:
    if path.endswith(".parquet"):
        return "parquet"
    try:
        with _open(path) as file:
            while block := file.read(4096).removeprefix(b"\xef\xbb\xbf"):
                if block := block.lstrip():
                    return "array" if block.startswith(b"[") else "lines"
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read: {_reason(error)}") from error
    return "lines"


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {_reason(error)}") from error


def _parquet(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, "the file", error) from error


def _unreadable(path: str, part: str, error: Exception) -> UserError:
    return UserError(f"{path}: {part} cannot be read as Parquet: {_reason(error)}")


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).strip().partition("\n")[0]
