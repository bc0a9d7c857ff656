"""Read raw records as examples in blocks: whole columns are checked at once, and only odd records one by one.

                     parse by schema            check columns
    JSON lines  ---------------------> columns ---------------> good records ------------------> examples
    Parquet rows        |                 |                                                         ^
                        | does not fit    | not certainly good                                      |
                        +-----------------+----------------> odd records ---> parse_example --------+
                                                                                    |
                                                                                    +----------> rejects

Every record that is not certainly good is odd, so `parse_example` alone decides what is wrong with a record.
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
    parse_example,
    with_ids,
)
from alignxplore.data.sources import LONGEST_RECORD, Piece, plan, read_json, read_parquet
from alignxplore.records import EXAMPLE, N_DIMENSIONS


def _fields(names: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    return [*((name, pa.string()) for name in names), (DIRECTION_KEY, pa.list_(pa.float64()))]


RAW = pa.schema(
    [
        *_fields(TARGET_TEXTS),
        *((key, pa.list_(pa.struct(_fields(HISTORY_TEXTS[form])))) for form, key in HISTORY_KEYS.items()),
    ]
)
"""The columns of a raw record."""

NO_RAW = pl.DataFrame(pl.from_arrow(RAW.empty_table()))

PARSED = pl.Schema({"line": pl.Int64(), **{name: EXAMPLE[name] for name in EXAMPLE if not name.endswith("_id")}})
"""The number of a record in its piece, and EXAMPLE without ids."""

NOT_BLANK = r"^[^\s\x1c-\x1f]"
"""Matches no text that Python calls blank."""

MAX_BRACKETS = 500
"""Python's JSON parser fails at about 1,000 nested levels; Arrow's does not."""

ROOT_NULL = re.compile(rb"\}\s*null")
"""A null outside of any object, which crashes Arrow."""

FEW = 8
"""Blocks of at most this many lines are read one by one rather than halved again."""


@dataclass(frozen=True)
class Block:
    """Consecutive records of a piece, numbered within it from 1."""

    last: int
    """Number of the last record. Blank lines have numbers too."""
    records: int
    """Records in the block, without blank lines."""
    examples: pl.DataFrame
    """The good records: `line`, their number, and the columns of EXAMPLE."""
    rejects: list[tuple[int, str, str]]
    """Number, field and reason of each bad record."""


def read_piece(piece: Piece, max_characters: int) -> Iterator[Block]:
    """Yield the records of a piece of a raw file in blocks."""
    if piece.kind == "parquet":
        for first, rows in read_parquet(piece):
            yield _parquet_block(first, rows, max_characters)
    else:
        for first, lines in read_json(piece):
            yield _json_block(first, lines, max_characters)


def read_records(path: str) -> Iterator[list[tuple[int, Any]]]:
    """Yield the records of a file in blocks, each with its number, from 1; a BadRecord stands for one that is no JSON.

    Raises UserError if the file cannot be read.
    """
    for piece in plan([path], 1)[0]:
        if piece.kind == "parquet":
            for first, rows in read_parquet(piece):
                yield list(enumerate(rows.iter_rows(named=True), first))
        else:
            for first, lines in read_json(piece):
                numbered = [(number, line) for number, line in enumerate(lines, first) if line is None or line.strip()]
                yield [(number, _decoded_or_bad(number, line)) for number, line in numbered]


def _decoded_or_bad(number: int, line: bytes | None) -> Any:
    try:
        return _decoded(number, line)
    except BadRecord as bad:
        return bad


def _json_block(first: int, lines: Sequence[bytes | None], max_characters: int) -> Block:
    records = {number: line for number, line in enumerate(lines, first) if line is None or not line.isspace()}

    def exact(number: int) -> Any:
        return _decoded(number, records[number])

    objects = [(number, line) for number, line in records.items() if line is not None and _is_object(line)]
    return _block(list(records), first + len(lines) - 1, _parsed(objects), exact, max_characters)


def _parquet_block(first: int, rows: pl.DataFrame, max_characters: int) -> Block:
    numbers = range(first, first + rows.height)
    try:
        columns = rows.match_to_schema(
            NO_RAW.schema,
            missing_columns="insert",
            missing_struct_fields="insert",
            extra_columns="ignore",
            extra_struct_fields="ignore",
            float_cast="upcast",
        ).select(pl.Series("line", numbers, pl.Int64), pl.all())
    except pl.exceptions.SchemaError:
        columns = _parsed([])

    def exact(number: int) -> Any:
        return rows.row(number - first, named=True)

    return _block(numbers, numbers.stop - 1, columns, exact, max_characters)


def _block(
    numbers: Sequence[int], last: int, columns: pl.DataFrame, exact: Callable[[int], Any], max_characters: int
) -> Block:
    """The block of the records `numbers`. `columns` holds those that fit RAW; `exact` returns any record as it is."""
    examples = _examples(columns.filter(_is_good(max_characters)))
    odd, rejects = [], []
    for number in sorted(set(numbers).difference(examples["line"])):
        try:
            odd.append({"line": number, **parse_example(exact(number), max_characters)})
        except BadRecord as bad:
            rejects.append((number, bad.field, bad.reason))
    if odd:  # Sorting copies all texts.
        examples = pl.concat([examples, pl.DataFrame(odd, PARSED)]).sort("line")
    return Block(last, len(numbers), with_ids(examples).select("line", *EXAMPLE), rejects)


def _decoded(number: int, line: bytes | None) -> Any:
    if line is None:
        raise BadRecord("record", f"is longer than {LONGEST_RECORD >> 20} MiB")
    try:
        return json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8").strip())
    except (ValueError, RecursionError) as error:
        raise BadRecord("record", _json_problem(error)) from None


def _json_problem(error: ValueError | RecursionError) -> str:
    match error:
        case UnicodeDecodeError():
            return f"not valid UTF-8 at byte {error.start + 1}"
        case json.JSONDecodeError():
            return f"not valid JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}"
        case RecursionError():
            return "not valid JSON: nested too deeply"
    return f"not valid JSON: {error}"


def _is_object(line: bytes) -> bool:
    """Whether a line begins and ends as an object, and Arrow either refuses it or reads it as Python does."""
    line = line.strip()
    return (
        line.startswith(b"{")
        and line.endswith(b"}")
        and line.count(b"{") + line.count(b"[") < MAX_BRACKETS
        and b"\0" not in line  # Arrow stops reading there.
        and not (b"null" in line and ROOT_NULL.search(line))
    )


def _parsed(lines: Sequence[tuple[int, bytes]]) -> pl.DataFrame:
    """`line` and RAW of the numbered lines. Lines that Arrow refuses, and a few beside them, are left out.

    Arrow does not say which line it refuses, so a block that fails is halved until few lines are left. Arrow accepts
    two objects on one line, but not one object on two lines, since each line begins and ends with a brace. So if there
    are as many rows as lines, every line holds one object.
    """
    numbers = pl.Series("line", [number for number, _ in lines], pl.Int64)
    text = b"\n".join(line for _, line in lines)
    try:
        text.decode()  # Arrow does not check the fields that it ignores.
        table = pyarrow.json.read_json(
            pa.BufferReader(text),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            pyarrow.json.ParseOptions(RAW, newlines_in_values=True, unexpected_field_behavior="ignore"),
        )
        if table.num_rows == len(lines):
            return pl.DataFrame(pl.from_arrow(table)).select(numbers, pl.all())
    except (pa.ArrowException, UnicodeDecodeError):
        pass
    if len(lines) <= FEW:
        return NO_RAW.select(numbers.clear(), pl.all())
    middle = len(lines) // 2
    return pl.concat([_parsed(lines[:middle]), _parsed(lines[middle:])])


def _is_good(max_characters: int) -> pl.Expr:
    """Whether a record of RAW is certainly good."""

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
    """PARSED rows of good records of RAW."""

    def item(field: Callable[[str], pl.Expr], texts: Sequence[str]) -> list[pl.Expr]:
        signs = field(DIRECTION_KEY).list.eval((pl.element() * 2 - 1).cast(pl.Int8))
        return [*(field(text).alias(text) for text in texts), signs.alias("direction")]

    histories = [
        pl.col(key).list.eval(pl.struct(item(pl.element().struct.field, HISTORY_TEXTS[form]))).fill_null([]).alias(form)
        for form, key in HISTORY_KEYS.items()
    ]
    unknown = [pl.lit("").alias(name) for name in ("golden_preference", "rendered", "stream")]
    unknown.append(pl.lit([], dtype=EXAMPLE["chunks"]).alias("chunks"))
    return columns.select("line", *item(pl.col, TARGET_TEXTS), *histories, *unknown).cast(PARSED)
