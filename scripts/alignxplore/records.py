"""The record contracts: one schema per kind of Parquet file, checked whenever a file is read or written."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from alignxplore.errors import UserError, explained

N_DIMENSIONS = 90

NULLABLE = frozenset({"format_ok", "advantage", "held_out_reward", "held_out_format_ok", "held_out_length"})
"""Fields that may be null: a method that writes no completion has no format; few steps are followed by an evaluation,
whose rollouts have no advantage."""

PARQUET: dict[str, Any] = {"compression": "zstd", "compression_level": 3, "write_page_checksum": True}
"""How every Parquet file is written. Without page checksums, three in four flipped bits read back as other values."""

DIRECTION = pl.List(pl.Int8)
"""Preference directions -1, 0 or +1: 90 values in AlignX, one in a P-SOUPS dimension."""

PAIR = pl.Struct({"prompt": pl.String, "chosen": pl.String, "rejected": pl.String, "direction": DIRECTION})
UGC = pl.Struct({"prompt": pl.String, "comment": pl.String, "direction": DIRECTION})

STREAM: dict[str, pl.DataType] = {"stream": pl.String(), "chunks": pl.List(pl.Int32)}
"""A step of a stream: the name that its steps share, and how many signals came in each chunk up to this step.

    stream  chunks       signals (pairs before comments)
    u7      [4]          1 2 3 4
    u7      [4, 4]       1 2 3 4 | 5 6 7 8        the last chunk is new; a target is of its step

Both are empty in a row that is no step of a stream.
"""
NO_STREAM: dict[str, Any] = {"stream": "", "chunks": []}

EXAMPLE = pl.Schema(
    {
        "example_id": pl.String(),
        "user_id": pl.String(),
        "prompt": pl.String(),
        "chosen": pl.String(),
        "rejected": pl.String(),
        "direction": DIRECTION,
        "pairs": pl.List(PAIR),
        "ugc": pl.List(UGC),
        "golden_preference": pl.String(),
        "rendered": pl.String(),
        **STREAM,
    }
)
"""A user's history of pairs and comments and a target pair to predict, each with its annotated directions.

A `direction` is empty if the source has none, and `golden_preference` is "" if the source does not describe the user.
`rendered` is "" unless the source has the signals only as text: then it is the whole prompt, and `pairs` and `ugc` are
empty.
"""

REFINED = pl.Schema({**EXAMPLE, "form": pl.String(), "consistent": DIRECTION})
DIMENSIONS = pl.Schema({"example_id": pl.String(), "dimensions": pl.List(pl.String)})
"""The key dimensions phi of an example, by name."""

_DESCRIPTION: dict[str, pl.DataType] = {
    "reasoning": pl.String(),
    "preference": pl.String(),
    "format_ok": pl.Boolean(),
    "finish_reason": pl.String(),
    "prompt_tokens": pl.Int32(),
    "completion_tokens": pl.Int32(),
}
"""What a model wrote about a user's signals: the last fields of GENERATION and PREFERENCE."""

GENERATION = pl.Schema(
    {
        "example_id": pl.String(),
        "generation": pl.Int32(),
        "completion": pl.String(),
        **_DESCRIPTION,
    }
)
SCORED_GENERATION = pl.Schema({**GENERATION, "reward": pl.Float64()})
DEMONSTRATION = pl.Schema({**EXAMPLE, "past": pl.String(), "generation": pl.Int32(), "completion": pl.String()})
"""A row of D_cold (Eq. 7). A demonstration that was published with its prompt has no target.

`past` is the description that a step of a stream brings up to date; "" at the first step, and outside streams.
"""

CASE = pl.Schema(
    {
        "case_id": pl.String(),
        "benchmark": pl.String(),
        "dimension": pl.String(),
        "direction": DIRECTION,
        "pairs": pl.List(PAIR),
        "ugc": pl.List(UGC),
        "prompt": pl.String(),
        "chosen": pl.String(),
        "rejected": pl.String(),
        "golden_preference": pl.String(),
        "rendered": pl.String(),
        "profile": pl.String(),
        **STREAM,
    }
)
"""An example of a benchmark, with the description that the benchmark itself gives of the user ("" if none).

`direction` and `rendered` are as in EXAMPLE. `profile` is what P-SOUPS says of a user's annotated directions, else "".
"""

PREFERENCE = pl.Schema(
    {
        "case_id": pl.String(),
        "benchmark": pl.String(),
        "method": pl.String(),
        **_DESCRIPTION,
    }
)
"""The description of a case's user by one method."""

JUDGEMENT = pl.Schema(
    {
        "case_id": pl.String(),
        "benchmark": pl.String(),
        "method": pl.String(),
        "judge": pl.String(),
        "p_chosen_ab": pl.Float64(),
        "p_chosen_ba": pl.Float64(),
        "correct": pl.Boolean(),
        "position_flip": pl.Boolean(),
        "unparsed": pl.Int8(),
        "format_ok": pl.Boolean(),
        "completion_tokens": pl.Int32(),
        "target": pl.String(),
    }
)
"""`correct` judges the description that was parsed, even if its completion was not `format_ok`.

`unparsed` counts the presentation orders, 0 to 2, without a verdict: the judge's answer selected neither response, or
its prompt was refused, or the method's completion was and there is no description to judge. Their probability is one
half. A tie, a mean probability of one half, is not `correct`. `format_ok` and `completion_tokens` are those of the
PREFERENCE. Cases with the same post and the same two responses share a `target`, and so do the steps of a stream.
"""

ROLLOUT = pl.Schema(
    {
        "step": pl.Int64(),
        "held_out": pl.Boolean(),
        "example_id": pl.String(),
        "completion": pl.String(),
        "reasoning": pl.String(),
        "preference": pl.String(),
        "format_ok": pl.Boolean(),
        "finish_reason": pl.String(),
        "completion_tokens": pl.Int32(),
        "reward": pl.Float64(),
        "advantage": pl.Float64(),
    }
)
"""What the policy wrote about an example: in training, for its update `step`; of a held-out example, after it.

`advantage` (Eq. 11) is null for held-out rollouts, from which nothing is learned.
"""

RESPONSE = pl.Schema(
    {
        "case_id": pl.String(),
        "benchmark": pl.String(),
        "method": pl.String(),
        "response": pl.String(),
        "finish_reason": pl.String(),
    }
)
"""A response to a case's post, written under a method's description; empty if either was refused."""

WIN = pl.Schema(
    {
        "case_id": pl.String(),
        "benchmark": pl.String(),
        "judge": pl.String(),
        "method_a": pl.String(),
        "method_b": pl.String(),
        "p_a_ab": pl.Float64(),
        "p_a_ba": pl.Float64(),
        "outcome": pl.String(),
        "position_flip": pl.Boolean(),
        "unparsed": pl.Int8(),
        "target": pl.String(),
    }
)
"""`position_flip`, `unparsed` and `target` as in JUDGEMENT; equal responses never flip.

A refused response does not win or lose: its `outcome` is a tie with two unparsed orders.
"""

REJECT = pl.Schema({"source": pl.String(), "line": pl.Int64(), "field": pl.String(), "reason": pl.String()})
"""`line` counts from 1: lines of a JSON-lines file, or records of a JSON array or Parquet file."""

CANDIDATE = pl.Schema({**REFINED, "source": pl.String(), "line": pl.Int64(), "target": pl.String()})
"""A refined example of one shard; near-identical targets share a `target`."""

SEEN = pl.Schema({"source": pl.String(), "line": pl.Int64(), "fingerprint": pl.UInt64()})
LINES = pl.Schema({"source": pl.String(), "lines": pl.Int64()})
FUNNEL = pl.Schema({"step": pl.String(), "rows": pl.Int64()})

PROVENANCE = pl.Schema(
    {
        "output": pl.String(),
        "rule": pl.String(),
        "wildcards": pl.String(),
        "config": pl.String(),
        "seed": pl.Int64(),
        "inputs": pl.String(),
        "sha256": pl.String(),
        "rows": pl.Int64(),
        "models": pl.String(),
        "versions": pl.String(),
        "commit": pl.String(),
        "started": pl.String(),
        "seconds": pl.Float64(),
        "account": pl.String(),
    }
)
"""One row per output of a job.

`wildcards`, `config`, `inputs` (path to SHA-256), `models`, `versions` and `account` are JSON. `seed`, `rows` (null
unless the output is Parquet) and `commit` may be null. `seconds` is the whole job's.
"""


def read(path: str | Path, schema: pl.Schema, columns: list[str] | None = None) -> pl.DataFrame:
    """A Parquet file, or some of its columns, checked against `schema`.

    Raises UserError naming file and field if the file cannot be read or breaks the contract.
    """
    with _reading(path):
        df = pl.DataFrame(pl.from_arrow(_open(path).read(columns)))
    return _checked(df, path, schema if columns is None else pl.Schema({name: schema[name] for name in columns}))


def batches(path: str | Path, schema: pl.Schema, rows: int = 5_000) -> Iterator[pl.DataFrame]:
    """Yield a Parquet file in tables of at most `rows` rows, each checked against `schema`."""
    with _reading(path):
        for batch in _open(path).iter_batches(batch_size=rows):
            yield _checked(pl.DataFrame(pl.from_arrow(batch)), path, schema)


def fields(path: str | Path) -> list[str]:
    """Names of a Parquet file's fields; raises UserError if it cannot be read."""
    with _reading(path):
        return _open(path).schema_arrow.names


def count(path: str | Path) -> int:
    """Number of rows of a Parquet file; raises UserError if it cannot be read."""
    with _reading(path):
        return _open(path).metadata.num_rows


def check_intact(path: str | Path) -> None:
    """Raise UserError if a page of a Parquet file fails its checksum; other readers, such as DuckDB, do not check."""
    with _reading(path):
        for _ in _open(path).iter_batches():
            pass


def _open(path: str | Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, page_checksum_verification=True)


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: cannot be read as Parquet ({_first_line(error)}); if a rule made it, remove it and run again"
        ) from error


def write(df: pl.DataFrame, path: str | Path, schema: pl.Schema) -> None:
    """Check `df` against `schema` and write it as Parquet; equal tables give equal bytes.

    The file gets its name only once it is complete. Integers and floats of another width are cast; any other
    mismatch raises UserError naming file and field.
    """
    df = _checked(df, path, schema).rechunk()
    with replacing(path) as partial:
        pq.write_table(df.to_arrow(), partial, row_group_size=50_000, **PARQUET)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` on success and removed on failure.

    The temporary name is always the same, so a rerun overwrites what a killed job left behind.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, pl.exceptions.PolarsError) as error:
        if line := explained(error):
            raise UserError(f"{path}: cannot be written: {line}") from error
        raise


class Writer:
    """A context manager that writes a Parquet file table by table; the file gets its name when the context succeeds."""

    def __init__(self, path: str | Path, schema: pl.Schema):
        self.path, self.schema = path, schema

    def __enter__(self) -> "Writer":
        self._stack = ExitStack()
        partial = self._stack.enter_context(replacing(self.path))
        arrow = self.schema.to_frame().to_arrow().schema
        self._file = self._stack.enter_context(pq.ParquetWriter(partial, arrow, **PARQUET))
        return self

    def write(self, df: pl.DataFrame) -> None:
        """Check a table and append it."""
        if not df.is_empty():
            self._file.write_table(_checked(df, self.path, self.schema).to_arrow())

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def _checked(df: pl.DataFrame, path: str | Path, schema: pl.Schema) -> pl.DataFrame:
    for name, want in schema.items():
        if name not in df.columns:
            raise UserError(f"{path}: field {name!r} is missing")
        if not _castable(df.schema[name], want):
            raise UserError(f"{path}: field {name!r} is {df.schema[name]}, expected {want}")
    if extra := [name for name in df.columns if name not in schema]:
        raise UserError(f"{path}: unknown field {extra[0]!r}")
    for name in schema:
        if (nulls := df[name].null_count()) and name not in NULLABLE:
            raise UserError(f"{path}: field {name!r} is null in {nulls} of {df.height} rows")
    try:
        return df.select(schema.names()).cast(schema)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: a value does not fit its field: {_first_line(error)}") from error


def _castable(have: pl.DataType, want: pl.DataType) -> bool:
    if have == want or have == pl.Null:
        return True
    if isinstance(have, pl.List) and isinstance(want, pl.List):
        return _castable(_type(have.inner), _type(want.inner))
    if isinstance(have, pl.Struct) and isinstance(want, pl.Struct):
        return [f.name for f in have.fields] == [f.name for f in want.fields] and all(
            _castable(_type(h.dtype), _type(w.dtype)) for h, w in zip(have.fields, want.fields, strict=True)
        )
    return (have.is_integer() and want.is_integer()) or (have.is_float() and want.is_float())


def _type(dtype: Any) -> pl.DataType:
    return dtype() if isinstance(dtype, type) else dtype


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
