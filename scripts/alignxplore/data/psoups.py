"""P-SOUPS files: a JSON array of cases for one dimension, with two personas, and with or without signals."""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignxplore.data.alignx import PAIRS_KEY, TARGET_TEXTS, BadRecord, items, mapping, stable_hash, text, texts
from alignxplore.errors import UserError
from alignxplore.records import NO_STREAM

Pair = dict[str, str]


@dataclass(frozen=True)
class Signals:
    """How to draw signals for raw pairs: `count` other pairs of the same persona, by `seed`."""

    count: int
    seed: int


def read_psoups(path: str | Path, dimension: str, positive: str, signals: Signals) -> list[dict[str, Any]]:
    """Read one file as rows of CASE without `benchmark`, in the order of its records.

    In the published form, each record has its signals. If no record has any, `signals` are drawn for each from the
    other pairs of its persona, never from those with the same post.

    `positive` is a part of the persona that stands for direction +1; the file's other persona is -1. Prompts, and even
    whole pairs, repeat within a file, so `case_id` is a hash of the whole record and of how often it occurred before.
    Raises UserError, naming file, record and field.
    """
    array = _array(path)
    try:
        records = {f"record {number}: ": mapping(raw, f"record {number}") for number, raw in enumerate(array, 1)}
        personas = [text(record, "ground_truth_persona", at) for at, record in records.items()]
        known = list(dict.fromkeys(personas))
        if len(known) != 2 or sum(positive in persona for persona in known) != 1:
            raise UserError(
                f"{path}: {positive!r} (data.psoups.{dimension}.positive) must occur in exactly one"
                f" of two personas, but the file has: {'; '.join(map(repr, known[:4]))}"
            )
        profiles = [text(record, "profile", at) if record.get("profile") else "" for at, record in records.items()]
        targets = [texts(record, TARGET_TEXTS, at) for at, record in records.items()]
        if any(PAIRS_KEY in record for record in array):
            histories = [_published(record, at) for at, record in records.items()]
        else:
            histories = _drawn(personas, targets, signals)
    except BadRecord as bad:
        raise UserError(f"{path}: {bad.field} {bad.reason}") from None
    seen: Counter[str] = Counter()
    rows = []
    for persona, target, history, profile in zip(personas, targets, histories, profiles, strict=True):
        direction = [1 if positive in persona else -1]
        pairs = [{**pair, "direction": direction} for pair in history]
        content = _canonical([dimension, persona, target, pairs])
        case = {"case_id": stable_hash(f"{content}\n{seen[content]}"), "dimension": dimension, "direction": direction}
        rows.append(
            {
                **case,
                "pairs": pairs,
                "ugc": [],
                **target,
                "golden_preference": persona,
                "rendered": "",
                "profile": profile,
                **NO_STREAM,
            }
        )
        seen[content] += 1
    return rows


def _array(path: str | Path) -> list[Any]:
    try:
        array = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(array, list) or not array:
        raise UserError(f"{path}: expected a JSON array of records")
    return array


def _published(record: Mapping[str, Any], at: str) -> list[Pair]:
    history = [texts(item, TARGET_TEXTS, place) for item, place in items(record, PAIRS_KEY, at)]
    if not history:
        raise BadRecord(at + PAIRS_KEY, "is missing or empty")
    return history


def _drawn(personas: Sequence[str], targets: Sequence[Pair], signals: Signals) -> list[list[Pair]]:
    """Signals for each target, from the others of its persona. Equal targets draw differently."""
    repeats: Counter[str] = Counter()
    known = list(zip(personas, targets, strict=True))
    histories = []
    for number, (persona, target) in enumerate(known, 1):
        others = [pair for other, pair in known if other == persona and pair["prompt"] != target["prompt"]]
        if len(others) < signals.count:
            raise BadRecord(
                f"record {number}:",
                f"{signals.count} signals are needed, but only {len(others)} other pairs of its persona have another"
                " post",
            )
        same = _canonical([persona, target])
        histories.append(random.Random(f"{signals.seed} {repeats[same]} {same}").sample(others, signals.count))
        repeats[same] += 1
    return histories


def _canonical(value: Any) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
