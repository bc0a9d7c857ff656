"""One raw AlignX record, read exactly: every field is checked, and the first problem is named."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from alignxplore.records import N_DIMENSIONS, NO_STREAM

DIRECTION_KEY = "Preference Direction"
PAIRS_KEY = "Pair-wise Comparative Feedback"
HISTORY_KEYS = {"pairs": PAIRS_KEY, "ugc": "User-Generated Content"}

TARGET_TEXTS = ("prompt", "chosen", "rejected")
HISTORY_TEXTS = {"pairs": TARGET_TEXTS, "ugc": ("prompt", "comment")}
"""The texts of an interaction in each form of history."""

SIGNS = {0: -1, 0.5: 0, 1: 1, "0": -1, "0.0": -1, "0.5": 0, "1": 1, "1.0": 1}
"""The sign of each value of a raw direction. Some files write the values as text."""

TEXTS_APART, FORMS_APART = "\x00", "\x01"
"""Separators in the string whose hash is an id: between texts, and between pairs and comments."""


class BadRecord(Exception):
    """A problem with a raw record: the path of the field, such as `prompt`, and the reason."""

    def __init__(self, field: str, reason: str):
        super().__init__(field, reason)
        self.field, self.reason = field, reason


def parse_example(raw: Any, max_characters: int) -> dict[str, Any]:
    """Check a raw record and convert it to a row of EXAMPLE without ids. Raises BadRecord."""
    record = mapping(raw, "record")
    row = {**texts(record, TARGET_TEXTS, longest=max_characters), "direction": direction(record)}
    for form, names in HISTORY_TEXTS.items():
        row[form] = [
            {**texts(item, names, at, max_characters), "direction": direction(item, at)}
            for item, at in items(record, HISTORY_KEYS[form])
        ]
    return {**row, "golden_preference": "", "rendered": "", **NO_STREAM}


def with_ids(rows: pl.DataFrame) -> pl.DataFrame:
    """Add example_id, a hash of all texts, and user_id, a hash of the history, to rows of EXAMPLE without ids.

    AlignX does not name its users. Examples with the same history count as one user's; an example without history has
    a user of its own.
    """
    pairs, ugc = (
        pl.col(form).list.eval(pl.concat_str(pl.element().struct.field(*names), separator=TEXTS_APART))
        for form, names in HISTORY_TEXTS.items()
    )
    table = rows.with_columns(history=pl.concat_list(pairs, pl.lit(FORMS_APART), ugc).list.join(TEXTS_APART))
    found = table.with_columns(
        example_id=hashed(pl.concat_str(*TARGET_TEXTS, "history", separator=TEXTS_APART)),
        user_id=hashed(pl.when(pl.col("history") != FORMS_APART).then("history")),
    )
    return found.drop("history").with_columns(pl.col("user_id").fill_null(pl.col("example_id")))


def stable_hash(text: str) -> str:
    """Sixteen hexadecimal digits that depend on the text alone."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def mapping(value: Any, at: str) -> Mapping[str, Any]:
    """The value, if it is an object; otherwise raises BadRecord for the field `at`."""
    if not isinstance(value, Mapping):
        raise BadRecord(at, f"is {_kind(value)}, expected an object")
    return value


def texts(
    record: Mapping[str, Any], names: tuple[str, ...], at: str = "", longest: int | None = None
) -> dict[str, str]:
    """The texts of a record by name, checked; `at` is the record's path. Raises BadRecord."""
    found = {name: text(record, name, at, longest) for name in names}
    if "rejected" in names and found["chosen"] == found["rejected"]:
        raise BadRecord(at + "rejected", "equals chosen")
    return found


def text(record: Mapping[str, Any], name: str, at: str = "", longest: int | None = None) -> str:
    """One text of a record, checked; `longest` limits its characters. Raises BadRecord."""
    value = record.get(name)
    if not isinstance(value, str):
        raise BadRecord(at + name, "is missing" if value is None else f"is {_kind(value)}, expected text")
    if not value or value.isspace():
        raise BadRecord(at + name, "is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRecord(at + name, "holds a lone surrogate, which is not valid Unicode") from None
    if longest is not None and len(value) > longest:
        raise BadRecord(at + name, f"has {len(value)} characters, more than the {longest} that are allowed")
    return value


def items(record: Mapping[str, Any], key: str, at: str = "") -> Iterator[tuple[Mapping[str, Any], str]]:
    """The objects in a record's list, each with its path. A missing list is empty. Raises BadRecord."""
    values = record.get(key)
    if not isinstance(values, list | None):
        raise BadRecord(at + key, f"is {_kind(values)}, expected a list")
    for index, value in enumerate(values or []):
        yield mapping(value, f"{at}{key}[{index}]"), f"{at}{key}[{index}]."


def direction(record: Mapping[str, Any], at: str = "") -> list[int]:
    """The signs of a record's 90 values. Raises BadRecord."""
    values = record.get(DIRECTION_KEY)
    at += DIRECTION_KEY
    if not isinstance(values, list):
        raise BadRecord(at, "is missing" if values is None else f"is {_kind(values)}, expected a list")
    if len(values) != N_DIMENSIONS:
        raise BadRecord(at, f"has {len(values)} values, expected {N_DIMENSIONS}")
    # True and False equal 1 and 0, so types are checked as well as values.
    if set(map(type, values)) <= {int, float, str} and set(values) <= SIGNS.keys():
        return [SIGNS[value] for value in values]
    index = next(i for i, v in enumerate(values) if type(v) not in (int, float, str) or v not in SIGNS)
    raise BadRecord(f"{at}[{index}]", f"is {_kind(values[index])}, expected 0, 0.5 or 1")


def _kind(value: Any) -> str:
    if isinstance(value, int | float):
        return repr(value).lower()[:20]  # The literals of JSON: true, not True.
    names: dict[type, str] = {type(None): "null", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def hashed(text: pl.Expr) -> pl.Expr:
    """The `stable_hash` of a column."""
    return text.map_elements(stable_hash, return_dtype=pl.String)
