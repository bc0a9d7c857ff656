"""P-SOUPS in its published JSON form: a file for each dimension, with a persona a direction."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignxplore.data.alignx import PAIRS_KEY, canonical_json, stable_hash
from alignxplore.errors import UserError

TEXTS = ("prompt", "chosen", "rejected")


def read_psoups(path: str | Path, dimension: str, positive: str) -> list[dict[str, Any]]:
    """Rows of CASE, without `benchmark`, for each record of one file, in its order.

    `positive` is a part of the persona that stands for direction +1; the file's other persona
    is -1. Prompts, and whole preference pairs, repeat within a file, so `case_id` is made from
    the whole record and from how often it occurred before. Raises UserError naming file, record
    and field.
    """
    records = _records(path)
    personas = list(dict.fromkeys(_text(record, "ground_truth_persona", path, at) for at, record in records))
    matching = [persona for persona in personas if positive in persona]
    if len(personas) != 2 or len(matching) != 1:
        raise UserError(
            f"{path}: {positive!r} (data.psoups.{dimension}.positive) must occur in just one"
            " of two personas, but the file's are: " + "; ".join(map(repr, personas[:4]))
        )
    seen: Counter[str] = Counter()
    rows = []
    for at, record in records:
        persona = record["ground_truth_persona"]
        direction = [1 if persona in matching else -1]
        feedback = record.get(PAIRS_KEY)
        if not isinstance(feedback, list) or not feedback:
            raise UserError(f"{path}: record {at}: {PAIRS_KEY} must be a list of pairs")
        pairs = [
            {**_pair(item, path, f"{at}: {PAIRS_KEY}[{index}]"), "direction": direction}
            for index, item in enumerate(feedback)
        ]
        target = _pair(record, path, str(at))
        content = canonical_json([dimension, persona, target, pairs])
        rows.append(
            {
                "case_id": stable_hash(f"{content}\n{seen[content]}"),
                "dimension": dimension,
                "direction": direction,
                "pairs": pairs,
                "ugc": [],
                **target,
                "golden_preference": persona,
            }
        )
        seen[content] += 1
    return rows


def _records(path: str | Path) -> list[tuple[int, Mapping[str, Any]]]:
    try:
        records = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(records, list) or not records:
        raise UserError(f"{path}: expected a JSON array of records")
    for at, record in enumerate(records, start=1):
        if not isinstance(record, Mapping):
            raise UserError(f"{path}: record {at}: expected an object")
    return list(enumerate(records, start=1))


def _pair(item: Any, path: str | Path, at: str) -> dict[str, str]:
    if not isinstance(item, Mapping):
        raise UserError(f"{path}: record {at}: expected an object")
    pair = {key: _text(item, key, path, at) for key in TEXTS}
    if pair["chosen"] == pair["rejected"]:
        raise UserError(f"{path}: record {at}: rejected equals chosen")
    return pair


def _text(record: Mapping[str, Any], key: str, path: str | Path, at: int | str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{path}: record {at}: {key} must be text that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{path}: record {at}: {key} holds a lone surrogate, which is not valid Unicode") from None
    return value
