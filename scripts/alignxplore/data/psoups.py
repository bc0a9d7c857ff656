"""P-SOUPS: a JSON file for each dimension, with a persona a direction; with each case's signals, or raw pairs alone."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignxplore.data.alignx import PAIRS_KEY, canonical_json, stable_hash
from alignxplore.errors import UserError

TEXTS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class Signals:
    """How signals are drawn for raw pairs: this many other pairs of the same persona, by a seed."""

    count: int
    seed: int


def read_psoups(path: str | Path, dimension: str, positive: str, signals: Signals) -> list[dict[str, Any]]:
    """Rows of CASE, without `benchmark`, for each record of one file, in its order.

    In the published form each record has its signals. Where none has, `signals` are drawn for each among the file's
    other pairs of its persona, never one with the same post.

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
    published = any(PAIRS_KEY in record for _, record in records)
    targets = [_pair(record, path, str(at)) for at, record in records]
    by_persona: dict[str, list[dict[str, str]]] = defaultdict(list)
    for (_, record), target in zip(records, targets, strict=True):
        by_persona[record["ground_truth_persona"]].append(target)
    seen: Counter[str] = Counter()
    repeats: Counter[str] = Counter()
    rows = []
    for (at, record), target in zip(records, targets, strict=True):
        persona = record["ground_truth_persona"]
        direction = [1 if persona in matching else -1]
        same = canonical_json([persona, target])
        if published:
            history = _published_signals(record, path, at)
        else:
            others = [pair for pair in by_persona[persona] if pair["prompt"] != target["prompt"]]
            if len(others) < signals.count:
                raise UserError(
                    f"{path}: record {at}: only {len(others)} other pairs of its persona have another post,"
                    f" but {signals.count} are drawn as signals"
                )
            key = f"{signals.seed} {repeats[same]} {same}"
            history = random.Random(key).sample(others, signals.count)
        repeats[same] += 1
        pairs = [{**pair, "direction": direction} for pair in history]
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


def _published_signals(record: Mapping[str, Any], path: str | Path, at: int) -> list[dict[str, str]]:
    feedback = record.get(PAIRS_KEY)
    if not isinstance(feedback, list) or not feedback:
        raise UserError(f"{path}: record {at}: {PAIRS_KEY} must be a list of pairs")
    return [_pair(item, path, f"{at}: {PAIRS_KEY}[{index}]") for index, item in enumerate(feedback)]


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
