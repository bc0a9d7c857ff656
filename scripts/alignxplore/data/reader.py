"""Raw records as examples, a block at a time: whole columns are checked at once, and odd records are read exactly.

                     parse by schema            check columns
    lines of JSON  ------------------> columns ---------------> sure records ------------------> examples
    rows of Parquet     |                 |                                                         ^
                        | does not fit    | not surely good                                         |
                        +-----------------+----------------> odd records ---> parse_example --------+
                                                                                    |
                                                                                    +----------> rejects

A record counts as odd unless it is surely good, so only `parse_example` decides what is wrong with a record.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.json

from alignxplore.data.alignx import (
    DIRECTION_KEY,
    HISTORY_KEYS,
    HISTORY_TEXTS,
    TARGET_TEXTS,
    BadRecord,
    json_problem,
    parse_example,
    with_ids,
)
from alignxplore.data.sources import LONGEST_RECORD, Piece, read_json, read_parquet
from alignxplore.records import EXAMPLE, N_DIMENSIONS


def _fields(names: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    return [*((name, pa.string()) for name in names), (DIRECTION_KEY, pa.list_(pa.float64()))]


ARROW = pa.schema(
    [
        *_fields(TARGET_TEXTS),
        *((key, pa.list_(pa.struct(_fields(HISTORY_TEXTS[form])))) for form, key in HISTORY_KEYS.items()),
    ]
)
RAW = pl.DataFrame(pl.from_arrow(ARROW.empty_table()))
"""The columns of a raw record, in a table without rows."""

EXACT = pl.Schema({"line": pl.Int64(), **{name: EXAMPLE[name] for name in EXAMPLE if not name.endswith("_id")}})

NOT_BLANK = r"^[^\s\x1c-\x1f]"
"""Matches only texts that Python does not call blank."""

MAX_BRACKETS = 500
"""Python's JSON parser cannot nest deeper than about 1,000 levels, and Arrow's can."""

ROOT_NULL = re.compile(rb"\}\s*null")
"""Arrow crashes on a null outside of all objects."""

FEW = 8
"""So many lines are read exactly rather than halved again."""

Reject = tuple[int, str, str]
"""Number of the record in its piece, field, and reason."""


@dataclass(frozen=True)
class Block:
    """Some records of a piece, in order."""

    last: int
    """Number of the last record within the piece, from 1; in JSON lines, blank lines have numbers too."""
    records: int
    """Records in the block, without blank lines."""
    examples: pl.DataFrame
    """The good records: `line`, their number within the piece, and the columns of EXAMPLE."""
    rejects: list[Reject]


def read_piece(piece: Piece, max_characters: int) -> Iterator[Block]:
    """Yield the records of a piece of a raw file, a block at a time."""
    if piece.kind == "parquet":
        for first, rows in read_parquet(piece):
            yield _parquet_block(first, rows, max_characters)
    else:
        for first, lines in read_json(piece):
            yield _json_block(first, lines, max_characters)


def _json_block(first: int, lines: Sequence[bytes | None], max_characters: int) -> Block:
    records = {number: line for number, line in enumerate(lines, first) if line is None or not line.isspace()}

    def exact(number: int) -> Any:
        line = records[number]
        if line is None:
            raise BadRecord("record", f"is longer than {LONGEST_RECORD >> 20} MiB")
        try:
            return json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8").strip())
        except (ValueError, RecursionError) as error:
            raise BadRecord("record", json_problem(error)) from None

    objects = [(number, line) for number, line in records.items() if line is not None and _is_object(line)]
    return _block(list(records), first + len(lines) - 1, _parsed(objects), exact, max_characters)


def _parquet_block(first: int, rows: pl.DataFrame, max_characters: int) -> Block:
    lines = pl.Series("line", range(first, first + rows.height), dtype=pl.Int64)
    try:
        columns = rows.match_to_schema(
            RAW.schema,
            missing_columns="insert",
            missing_struct_fields="insert",
            extra_columns="ignore",
            extra_struct_fields="ignore",
            float_cast="upcast",
        ).select(lines, pl.all())
    except pl.exceptions.SchemaError:
        columns = _parsed([])

    def exact(number: int) -> Any:
        return rows.row(number - first, named=True)

    return _block(list(lines), first + rows.height - 1, columns, exact, max_characters)


def _block(
    numbers: Sequence[int], last: int, columns: pl.DataFrame, exact: Callable[[int], Any], max_characters: int
) -> Block:
    """The block of the records `numbers`. `columns` are those that fit RAW; `exact` gives any record as it is."""
    sure = _examples(columns.filter(_is_good(max_characters)))
    rows, rejects = [], []
    for number in sorted(set(numbers).difference(sure["line"])):
        try:
            rows.append({"line": number, **parse_example(exact(number), max_characters)})
        except BadRecord as bad:
            rejects.append((number, bad.field, bad.reason))
    examples = with_ids(pl.concat([sure, pl.DataFrame(rows, EXACT)]).sort("line"))
    return Block(last, len(numbers), examples.select("line", *EXAMPLE), rejects)


def _is_object(line: bytes) -> bool:
    """Whether a line begins and ends as an object, and Arrow reads it as Python does, or refuses it."""
    line = line.strip()
    return (
        line.startswith(b"{")
        and line.endswith(b"}")
        and line.count(b"{") + line.count(b"[") < MAX_BRACKETS
        and b"\0" not in line  # For Arrow, this ends the text.
        and not (b"null" in line and ROOT_NULL.search(line))
    )


def _parsed(lines: Sequence[tuple[int, bytes]]) -> pl.DataFrame:
    """`line` and RAW of the numbered lines. Lines that Arrow refuses, and a few beside them, are left out.

    Arrow does not say which line it refuses, so a block that fails is halved until few lines are left. It accepts two
    objects on a line, but none on two lines (both would have to end with a brace and begin with one): as many rows as
    lines means one object per line.
    """
    text = b"\n".join(line for _, line in lines)
    try:
        text.decode()  # Arrow does not check fields that it ignores.
        table = pyarrow.json.read_json(
            pa.BufferReader(text),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            pyarrow.json.ParseOptions(ARROW, newlines_in_values=True, unexpected_field_behavior="ignore"),
        )
        if table.num_rows != len(lines):
            raise pa.ArrowInvalid("another number of objects than lines")
    except (pa.ArrowException, UnicodeDecodeError):
        if len(lines) <= FEW:
            return RAW.select(pl.lit(0, pl.Int64).alias("line"), pl.all())
        middle = len(lines) // 2
        return pl.concat([_parsed(lines[:middle]), _parsed(lines[middle:])])
    numbers = pl.Series("line", [number for number, _ in lines], dtype=pl.Int64)
    return pl.DataFrame(pl.from_arrow(table)).select(numbers, pl.all())


def _is_good(max_characters: int) -> pl.Expr:
    """Whether a record of RAW is surely good."""

    def item(field: Callable[[str], pl.Expr], texts: Sequence[str]) -> pl.Expr:
        checks = [field(text).str.contains(NOT_BLANK) for text in texts]
        checks += [field(text).str.len_bytes() <= max_characters for text in texts]
        checks += [field("chosen") != field("rejected")] if "rejected" in texts else []
        values = field(DIRECTION_KEY)
        is_sign = pl.element().is_in([0.0, 0.5, 1.0]).fill_null(False)
        checks += [values.list.len() == N_DIMENSIONS, values.list.eval(is_sign).list.all()]
        return pl.all_horizontal(checks).fill_null(False)

    histories = [
        pl.col(key).list.eval(item(pl.element().struct.field, HISTORY_TEXTS[form])).list.all().fill_null(True)
        for form, key in HISTORY_KEYS.items()
    ]
    return pl.all_horizontal(item(pl.col, TARGET_TEXTS), *histories)


def _examples(columns: pl.DataFrame) -> pl.DataFrame:
    """EXACT rows of good records of RAW."""

    def item(field: Callable[[str], pl.Expr], texts: Sequence[str]) -> list[pl.Expr]:
        signs = field(DIRECTION_KEY).list.eval((pl.element() * 2 - 1).cast(pl.Int8))
        return [*(field(text).alias(text) for text in texts), signs.alias("direction")]

    histories = [
        pl.col(key).list.eval(pl.struct(item(pl.element().struct.field, HISTORY_TEXTS[form]))).fill_null([]).alias(form)
        for form, key in HISTORY_KEYS.items()
    ]
    return columns.select("line", *item(pl.col, TARGET_TEXTS), *histories).cast(dict(EXACT))
