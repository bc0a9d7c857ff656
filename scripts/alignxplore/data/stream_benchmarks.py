"""Benchmarks of streams, made from the cases of another benchmark, with noise and with changes of preferences."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal

import polars as pl

from alignxplore.data.benchmarks import check_signals, drawing_order, opposite_descriptions, swapped
from alignxplore.data.streams import chunk_sizes, signal_count, steps
from alignxplore.data.wording import Wording
from alignxplore.errors import UserError
from alignxplore.records import CASE

Signal = dict[str, Any]


@dataclass(frozen=True)
class Noise:
    """Signals of another user that are mixed into a history."""

    share: float
    """How many, relative to the user's own."""
    place: Literal["before", "after"]
    """Before there is a description, so in the first chunk; or after, in the later ones."""


@dataclass(frozen=True)
class Drift:
    """A change of preferences."""

    at: int
    """The first chunk under the new preferences, counted from 1."""
    dimensions: float
    """The share of a user's annotated dimensions on which preferences flip; at least one does."""


def streamed(
    cases: pl.DataFrame,
    name: str,
    chunk: int,
    seed: int,
    noise: Noise | None = None,
    drift: Drift | None = None,
    wording: Wording | None = None,
) -> pl.DataFrame:
    """The benchmark `name`: a stream for each of the `cases`, whose signals come in chunks of `chunk`.

    Every step has the case's target, unless `drift` changes it. What is drawn depends on the case and the seed, so all
    steps of a user have the same noise. Raises UserError if no case fills a chunk, or what `noise` and `drift` need is
    not there.
    """
    user = f"benchmark {name!r}"
    check_signals(cases, user)
    if (cases["stream"] != "").any():
        raise UserError(f"{user}: the cases of {cases['benchmark'][0]!r} are steps of streams already")
    longest = max((signal_count(row) for row in cases.iter_rows(named=True)), default=0)
    if longest < chunk:
        raise UserError(f"{user}: no case has more than {longest} signals: lower 'chunk'")
    if noise and noise.place == "after" and longest == chunk:
        raise UserError(f"{user}: no case has a second chunk for noise: lower 'chunk'")
    if drift and len(chunk_sizes(longest, chunk)) < drift.at:
        raise UserError(f"{user}: no case has {drift.at} chunks, so none drifts: lower 'drift.at'")
    strangers = _strangers(cases, noise, seed, user) if noise else {}
    other_personas = opposite_descriptions(cases, None) if drift else [None] * cases.height
    rows = []
    for row, other_persona in zip(cases.iter_rows(named=True), other_personas, strict=True):
        signals = iter([*row["pairs"], *row["ugc"]])
        parts = [list(islice(signals, size)) for size in chunk_sizes(signal_count(row), chunk)]
        after = row
        if drift:
            flipped = _flipped(row, drift.dimensions, seed, user)
            parts = [
                part if number < drift.at else [_turned(pair, flipped) for pair in part]
                for number, part in enumerate(parts, 1)
            ]
            after = _turned_target(row, flipped, wording, other_persona)
        if noise:
            rng = random.Random(f"{seed} places {row['case_id']}")
            parts = _mixed(parts, strangers[row["case_id"]], noise.place, rng)
        history = _with_signals({**row, "benchmark": name}, list(chain.from_iterable(parts)))
        for number, step in enumerate(steps(history, [len(part) for part in parts], "case_id"), 1):
            new = {key: after[key] for key in CHANGED} if drift and number >= drift.at else {}
            rows.append({**step, **new})
    return pl.DataFrame(rows, schema=CASE)


CHANGED = ("chosen", "rejected", "direction", "golden_preference", "profile")
"""The fields of a case that a change of preferences changes."""


def _with_signals(row: Mapping[str, Any], signals: Sequence[Signal]) -> dict[str, Any]:
    comments = [signal for signal in signals if "comment" in signal]
    return {**row, "pairs": [signal for signal in signals if "comment" not in signal], "ugc": comments}


def _flipped(row: Mapping[str, Any], share: float, seed: int, user: str) -> set[int]:
    """The dimensions on which a user's preferences flip. Raises UserError if the case does not tell its own."""
    if row["ugc"]:
        raise UserError(f"{user}: a user with comments cannot drift: comments have no rejected text")
    directions = [row["direction"], *(pair["direction"] for pair in row["pairs"])]
    if not all(directions):
        raise UserError(
            f"{user}: 'drift' needs the directions of every pair, but case {row['case_id']} of {row['benchmark']!r}"
            " has a pair without"
        )
    known = sorted({place for direction in directions for place, sign in enumerate(direction) if sign})
    count = min(len(known), max(1, round(share * len(known))))
    return set(random.Random(f"{seed} drift {row['case_id']}").sample(known, count))


def _turned(pair: dict[str, Any], flipped: set[int]) -> dict[str, Any]:
    """The pair as the user chooses after the change: swapped if most of the dimensions in which it differs flipped."""
    differing = [place for place, sign in enumerate(pair["direction"]) if sign]
    return swapped(pair) if 2 * len(flipped.intersection(differing)) > len(differing) else pair


def _turned_target(
    row: dict[str, Any], flipped: set[int], wording: Wording | None, other_persona: str | None
) -> dict[str, Any]:
    """The case after the change. Its direction is the user's: a swapped target still differs in all its dimensions."""
    direction = [-sign if place in flipped else sign for place, sign in enumerate(row["direction"])]
    golden = other_persona or (wording.describe(direction) if wording else "")
    return {**_turned(row, flipped), "direction": direction, "golden_preference": golden, "profile": ""}


def _strangers(cases: pl.DataFrame, noise: Noise, seed: int, user: str) -> dict[str, list[Signal]]:
    """By case, the signals of other users that are mixed in.

    They are another user's, and those of further users if that one has too few. A case that shares a signal may be the
    same user's, so it gives none; nor is the target's post among them. Other users are drawn among the cases that a
    lower `limit` would keep too, so that more cases change no earlier one.
    """
    rows = {row["case_id"]: row for row in cases.iter_rows(named=True)}
    order = [rows[name] for name in drawing_order(cases)]
    found = {}
    for place, row in enumerate(order):
        if row["pairs"] and row["ugc"]:
            raise UserError(
                f"{user}: 'noise' needs histories of pairs or of comments, but case {row['case_id']} has both"
            )
        form = "ugc" if row["ugc"] else "pairs"
        rng = random.Random(f"{seed} noise {row['case_id']}")
        others = rng.sample(order[:place], place) + order[place + 1 :]
        wanted = round(noise.share * signal_count(row))
        own = {_text(signal) for signal in row[form]}
        strange = (other[form] for other in others if own.isdisjoint(map(_text, other[form])))
        usable = (signal for signal in chain.from_iterable(strange) if signal["prompt"] != row["prompt"])
        drawn = list(islice(usable, wanted))
        if len(drawn) < wanted:
            raise UserError(f"{user}: {wanted} signals of other users are needed, but they have {len(drawn)}")
        found[row["case_id"]] = drawn
    return found


def _text(signal: Signal) -> tuple[str, ...]:
    return tuple(value for value in signal.values() if isinstance(value, str))


def _mixed(
    parts: list[list[Signal]], strange: Sequence[Signal], place: Literal["before", "after"], rng: random.Random
) -> list[list[Signal]]:
    """The chunks with signals of another user at random places; the order of both users' signals is kept.

    Each of the chunks that get any gets as many, so that the chunks of all users stay equally long.
    """
    noisy = range(1) if place == "before" else range(1, len(parts))
    mixed, taken = list(parts), 0
    for count, index in enumerate(noisy, 1):
        share = strange[taken : len(strange) * count // len(noisy)]
        taken += len(share)
        places = set(rng.sample(range(len(parts[index]) + len(share)), len(share)))
        own, others = iter(parts[index]), iter(share)
        total = len(parts[index]) + len(share)
        mixed[index] = [next(others if at in places else own) for at in range(total)]
    return mixed
