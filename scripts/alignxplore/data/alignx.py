"""The exact reading of one raw AlignX record: every field is checked, and what is wrong is named."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alignxplore.records import N_DIMENSIONS

DIRECTION_KEY = "Preference Direction"
PAIRS_KEY = "Pair-wise Comparative Feedback"
UGC_KEY = "User-Generated Content"
FORM_KEYS = {"pairs": PAIRS_KEY, "ugc": UGC_KEY}
SIGNS = {0: -1, 0.5: 0, 1: 1, "0": -1, "0.0": -1, "0.5": 0, "1": 1, "1.0": 1}
"""The sign of a raw direction's value; some files write the values as text."""

FORMS = {"pairs": ("chosen", "rejected"), "ugc": ("comment",)}
"""The two forms of history, each with the texts that an interaction must have."""

RAW_TEXTS = ("prompt", "chosen", "rejected")
APART, HISTORIES_APART = "\x00", "\x01"
"""What stands between the texts of a record, and between its pairs and comments, of which its id is made."""


class BadRecord(Exception):
    """What is wrong with a raw record: the field, by a path such as `prompt`, and the reason."""

    def __init__(self, field: str, reason: str):
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


def parse_example(raw: Any, max_characters: int) -> dict[str, Any]:
    """Check one raw record and convert it to a row of EXAMPLE; raises BadRecord."""
    record = _mapping(raw, "record")
    prompt = _text(record, "prompt")
    chosen, rejected = _responses(record)
    direction = _direction(record)
    pairs = [_pair(item, at) for item, at in _items(record, PAIRS_KEY)]
    ugc = [_comment(item, at) for item, at in _items(record, UGC_KEY)]
    row = {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "direction": direction,
        "pairs": pairs,
        "ugc": ugc,
    }
    for at, text in texts_of(row):
        if len(text) > max_characters:
            raise BadRecord(at, f"has {len(text)} characters, more than the {max_characters} that are allowed")
    texts = _row_texts(row)
    history = texts.split(APART, 3)[3]
    return {
        "example_id": stable_hash(texts),
        # AlignX names no users: examples with one and the same history are taken for one user's.
        "user_id": stable_hash(history if pairs or ugc else texts),
        **row,
    }


def canonical_json(value: Any) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def stable_hash(text: str) -> str:
    """Sixteen hexadecimal digits that depend on the text alone."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def json_problem(error: Exception) -> str:
    """What is wrong with a text that is not JSON, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error.msg} at character {error.pos + 1}"
    if isinstance(error, UnicodeDecodeError):
        return f"not valid UTF-8 at byte {error.start + 1}"
    if isinstance(error, RecursionError):
        return "not valid JSON: nested too deeply"
    return f"not valid JSON: {error}"


def _row_texts(row: Mapping[str, Any]) -> str:
    texts = [row[name] for name in RAW_TEXTS]
    texts += [pair[name] for pair in row["pairs"] for name in RAW_TEXTS]
    texts.append(HISTORIES_APART)
    texts += [comment[name] for comment in row["ugc"] for name in ("prompt", "comment")]
    return APART.join(texts)


def texts_of(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each text of an example, with its place in the raw record."""
    for name in RAW_TEXTS:
        yield name, row[name]
    for form, key in FORM_KEYS.items():
        for index, item in enumerate(row[form]):
            for name in ("prompt", *FORMS[form]):
                yield f"{key}[{index}].{name}", item[name]


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
        if set(map(type, values)) <= {int, float, str}:
            return [SIGNS[value] for value in values]
    except KeyError:
        pass
    index = next(i for i, v in enumerate(values) if type(v) not in (int, float, str) or v not in SIGNS)
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
