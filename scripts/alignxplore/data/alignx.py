"""Raw AlignX files to examples: every record is checked, and a bad one becomes a named reject."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from alignxplore.errors import UserError
from alignxplore.records import EXAMPLE, N_DIMENSIONS, REJECT

log = logging.getLogger(__name__)

DIRECTION_KEY = "Preference Direction"
PAIRS_KEY = "Pair-wise Comparative Feedback"
UGC_KEY = "User-Generated Content"
SIGNS = {0: -1, 0.5: 0, 1: 1}
CHUNK = 2_000


class BadRecord(Exception):
    """What is wrong with a raw record: the field, by a path such as `prompt`, and the reason."""

    def __init__(self, field: str, reason: str):
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


@dataclass(frozen=True)
class _Unparsed:
    """A line that is not JSON."""

    reason: str


def parse_sources(paths: Iterable[str | Path]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read AlignX files (JSON lines, JSON arrays, Parquet) as EXAMPLE and REJECT tables.

    A reject's `line` is the line of a JSON-lines file, or the record's number in an array or
    Parquet file, from 1. A record whose texts repeat an earlier record's is a reject too.
    Raises UserError for a file that cannot be read as a whole.
    """
    chunks: list[pl.DataFrame] = [EXAMPLE.to_frame()]
    rows: list[dict[str, Any]] = []
    rejects: list[tuple[str, int, str, str]] = []
    seen: dict[str, tuple[str, int]] = {}
    for path in paths:
        source = str(path)
        before, rejected_before = len(seen), len(rejects)
        for line, raw in read_raw(path):
            try:
                row = parse_example(raw)
                first = seen.setdefault(row["example_id"], (source, line))
                if first != (source, line):
                    raise BadRecord("record", f"duplicate of {first[0]}:{first[1]}")
            except BadRecord as bad:
                rejects.append((source, line, bad.field, bad.reason))
                continue
            rows.append(row)
            if len(rows) == CHUNK:
                chunks.append(pl.DataFrame(rows, schema=EXAMPLE))
                rows = []
        log.info(
            "%s: %d examples, %d rejects",
            source,
            len(seen) - before,
            len(rejects) - rejected_before,
        )
    chunks.append(pl.DataFrame(rows, schema=EXAMPLE))
    return pl.concat(chunks), pl.DataFrame(rejects, schema=REJECT, orient="row")


def check_reject_share(examples: int, rejects: pl.DataFrame, max_share: float, rejects_file: str | Path) -> None:
    """Raise UserError where more than `max_share` of the records are rejects, or none exist."""
    total = examples + rejects.height
    if total == 0:
        raise UserError("the AlignX sources hold no records: see data.alignx.sources")
    if rejects.height > max_share * total:
        first = rejects.row(0, named=True)
        raise UserError(
            f"{rejects.height} of {total} raw records were rejected, more than"
            f" data.refine.max_reject_share = {max_share} allows; the first is"
            f" {first['source']}:{first['line']}: {first['field']}: {first['reason']};"
            f" all are in {rejects_file}"
        )


def read_raw(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Yield (line or record number, decoded record) of one file; an undecodable line is marked."""
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            yield from _read_parquet(path)
        elif _starts_with_bracket(path):
            yield from _read_array(path)
        else:
            yield from _read_lines(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def parse_example(raw: Any) -> dict[str, Any]:
    """Check one raw record and convert it to a row of EXAMPLE; raises BadRecord."""
    if isinstance(raw, _Unparsed):
        raise BadRecord("record", raw.reason)
    record = _mapping(raw, "record")
    prompt = _text(record, "prompt")
    chosen, rejected = _responses(record)
    direction = _direction(record)
    pairs = [_pair(item, at) for item, at in _items(record, PAIRS_KEY)]
    ugc = [_comment(item, at) for item, at in _items(record, UGC_KEY)]
    target = canonical_json([prompt, chosen, rejected])
    history = canonical_json([pairs, ugc])
    example_id = stable_hash(target + "\n" + history)
    return {
        "example_id": example_id,
        # AlignX names no users: examples with one and the same history are taken for one user's.
        "user_id": stable_hash(history) if pairs or ugc else example_id,
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "direction": direction,
        "pairs": pairs,
        "ugc": ugc,
    }


def canonical_json(value: Any) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def stable_hash(text: str) -> str:
    """Sixteen hexadecimal digits that depend on the text alone."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        df = pl.read_parquet(path, glob=False)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: cannot be read as Parquet: {str(error).partition(chr(10))[0]}") from error
    number = 0
    for part in df.iter_slices(CHUNK):
        for record in part.iter_rows(named=True):
            number += 1
            yield number, record


def _starts_with_bracket(path: Path) -> bool:
    with path.open("rb") as file:
        while block := file.read(4096).removeprefix(b"\xef\xbb\xbf"):
            if block := block.lstrip():
                return block.startswith(b"[")
    return False


def _read_array(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        records = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {_json_problem(error)}") from error
    yield from enumerate(records, start=1)


def _read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                record = json.loads(text) if text else None
            except (ValueError, RecursionError) as error:
                yield number, _Unparsed(_json_problem(error))
                continue
            if text:
                yield number, record


def _json_problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error.msg} at character {error.pos + 1}"
    if isinstance(error, UnicodeDecodeError):
        return f"not valid UTF-8 at byte {error.start + 1}"
    if isinstance(error, RecursionError):
        return "not valid JSON: nested too deeply"
    return f"not valid JSON: {error}"


def _mapping(value: Any, at: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadRecord(at, f"is {_kind(value)}, expected an object")
    return value


def _text(record: Mapping[str, Any], key: str, at: str = "") -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise BadRecord(at + key, "is missing" if value is None else f"is {_kind(value)}, expected text")
    if not value or value.isspace():
        raise BadRecord(at + key, "is empty")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRecord(at + key, "holds a lone surrogate, which is not valid Unicode") from None
    return value


def _responses(record: Mapping[str, Any], at: str = "") -> tuple[str, str]:
    chosen, rejected = _text(record, "chosen", at), _text(record, "rejected", at)
    if chosen == rejected:
        raise BadRecord(at + "rejected", "equals chosen")
    return chosen, rejected


def _direction(record: Mapping[str, Any], at: str = "") -> list[int]:
    values = record.get(DIRECTION_KEY)
    at += DIRECTION_KEY
    if not isinstance(values, list):
        raise BadRecord(at, "is missing" if values is None else f"is {_kind(values)}, expected a list")
    if len(values) != N_DIMENSIONS:
        raise BadRecord(at, f"has {len(values)} values, expected {N_DIMENSIONS}")
    try:
        # true and false equal 1 and 0 in Python, so types are checked as well as values.
        if set(map(type, values)) <= {int, float}:
            return [SIGNS[value] for value in values]
    except KeyError:
        pass
    index = next(i for i, v in enumerate(values) if type(v) not in (int, float) or v not in SIGNS)
    raise BadRecord(f"{at}[{index}]", f"is {_kind(values[index])}, expected 0, 0.5 or 1")


def _items(record: Mapping[str, Any], key: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    values = record.get(key)
    if values is None:
        return
    if not isinstance(values, list):
        raise BadRecord(key, f"is {_kind(values)}, expected a list")
    for index, value in enumerate(values):
        yield _mapping(value, f"{key}[{index}]"), f"{key}[{index}]."


def _pair(item: Mapping[str, Any], at: str) -> dict[str, Any]:
    prompt = _text(item, "prompt", at)
    chosen, rejected = _responses(item, at)
    return {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "direction": _direction(item, at),
    }


def _comment(item: Mapping[str, Any], at: str) -> dict[str, Any]:
    prompt, comment = _text(item, "prompt", at), _text(item, "comment", at)
    return {"prompt": prompt, "comment": comment, "direction": _direction(item, at)}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)[:20]
    names: Sequence[tuple[type, str]] = ((str, "text"), (list, "a list"), (Mapping, "an object"))
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)
