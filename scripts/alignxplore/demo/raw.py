"""Writes the demo world's users as raw AlignX and P-SOUPS files."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from alignxplore.demo.world import N_DIMENSIONS, PSOUPS_DIMENSIONS, Comment, Direction, Lexicon, Pair, Reveal, World

SIGNALS = 4
DEMOGRAPHICS = (
    "",
    "a nurse from the north",
    "a student",
    "retired, two grandchildren",
    "works nights",
    "a parent of three",
)


@dataclass(frozen=True)
class Population:
    """The number of users of each kind in the raw files."""

    pairs: int
    """Users with a history of pairs that shows their preferences."""
    ugc: int
    """Users with a history of their own comments only."""
    sparse: int
    """Users whose history agrees on fewer than five dimensions."""
    inconsistent: int
    """Users who contradict themselves."""
    broken: int
    """Records that a reader must reject: empty or equal responses, truncated directions, truncated lines."""


def _alignx_direction(direction: Direction) -> list[float]:
    vector = [0.5] * N_DIMENSIONS
    for axis, sign in direction.items():
        vector[int(axis)] = 1.0 if sign > 0 else 0.0
    return vector


def _raw_pair(pair: Pair) -> dict[str, Any]:
    return {
        "prompt": pair.prompt,
        "chosen": pair.chosen.text,
        "rejected": pair.rejected.text,
        "Preference Direction": _alignx_direction(pair.direction),
    }


def _raw_comment(comment: Comment) -> dict[str, Any]:
    return {
        "prompt": comment.prompt,
        "comment": comment.comment.text,
        "Preference Direction": _alignx_direction(comment.direction),
    }


class Users:
    """Draws users from a world, as raw AlignX records."""

    def __init__(self, world: World, axes: Sequence[str]):
        self.world = world
        self.axes = list(axes)

    def _record(self, target: Pair, pairs: Sequence[Pair], comments: Sequence[Comment]) -> dict[str, Any]:
        return {
            **_raw_pair(target),
            "Demographic Information": self.world.rng.choice(DEMOGRAPHICS),
            "User-Generated Content": [_raw_comment(comment) for comment in comments],
            "Pair-wise Comparative Feedback": [_raw_pair(pair) for pair in pairs],
        }

    def _person(self, core: int) -> Iterator[Direction]:
        """The directions of one user's interactions: a core that all of them share, and sometimes a minor trait."""
        world = self.world
        traits = world.direction(self.axes, min(core + 2, len(self.axes)))
        shared = dict(list(traits.items())[:core])
        while True:
            yield {a: s for a, s in traits.items() if a in shared or world.rng.random() < 0.3}

    def consistent(self, *, ugc: bool) -> dict[str, Any]:
        """A user whose four signals agree with the target on five or six dimensions."""
        directions = self._person(self.world.rng.choice((5, 6)))
        return self._build(directions, ugc=ugc)

    def long(self, signals: int, reveal: Reveal) -> dict[str, Any]:
        """The same with so many signals, which show as much as `reveal` says."""
        directions = self._person(self.world.rng.choice((5, 6)))
        target = self.world.target(next(directions))
        usual, self.world.reveal = self.world.reveal, reveal
        pairs = [self.world.pair(next(directions)) for _ in range(signals)]
        self.world.reveal = usual
        return self._record(target, pairs, [])

    def sparse(self) -> dict[str, Any]:
        """A user whose signals agree with the target on only two to four dimensions."""
        return self._build(self._person(self.world.rng.randint(2, 4)), ugc=False)

    def inconsistent(self) -> dict[str, Any]:
        """A user with one signal that contradicts the target."""
        directions = self._person(5)
        target = next(directions)
        history = [next(directions) for _ in range(SIGNALS)]
        index = self.world.rng.randrange(SIGNALS)
        axis = self.world.rng.choice([axis for axis in history[index] if axis in target])
        history[index] = {**history[index], axis: -history[index][axis]}
        return self._build(iter([target, *history]), ugc=False)

    def _build(self, directions: Iterator[Direction], *, ugc: bool) -> dict[str, Any]:
        target = self.world.target(next(directions))
        history = [next(directions) for _ in range(SIGNALS)]
        if ugc:
            return self._record(target, [], [self.world.user_comment(direction) for direction in history])
        return self._record(target, [self.world.pair(direction) for direction in history], [])


def _damaged(record: dict[str, Any], kind: int) -> str:
    """A raw line that a reader must reject, damaged in one of four ways."""
    if kind == 0:
        return json.dumps({**record, "chosen": "  "})
    if kind == 1:
        return json.dumps({**record, "Preference Direction": record["Preference Direction"][:-1]})
    if kind == 2:
        return json.dumps({**record, "rejected": record["chosen"]})
    return json.dumps(record)[:-20]


def write_alignx(users: Users, population: Population, jsonl: Path, parquet: Path) -> int:
    """Write half of the raw records as JSON lines, with the broken ones, and half as Parquet; return their number."""
    records = [
        *(users.consistent(ugc=False) for _ in range(population.pairs)),
        *(users.consistent(ugc=True) for _ in range(population.ugc)),
        *(users.sparse() for _ in range(population.sparse)),
        *(users.inconsistent() for _ in range(population.inconsistent)),
    ]
    users.world.rng.shuffle(records)
    half = len(records) // 2
    lines = [json.dumps(record) for record in records[:half]]
    for kind in range(population.broken):
        lines.insert(users.world.rng.randrange(len(lines)), _damaged(records[kind], kind % 4))
    jsonl.write_text("\n".join(lines) + "\n", encoding="utf-8")
    interaction: dict[str, Any] = {"prompt": pl.String, "Preference Direction": pl.List(pl.Float64)}
    schema: dict[str, Any] = {
        "prompt": pl.String,
        "chosen": pl.String,
        "rejected": pl.String,
        "Preference Direction": pl.List(pl.Float64),
        "Demographic Information": pl.String,
        "User-Generated Content": pl.List(pl.Struct({**interaction, "comment": pl.String})),
        "Pair-wise Comparative Feedback": pl.List(
            pl.Struct({**interaction, "chosen": pl.String, "rejected": pl.String})
        ),
    }
    pl.DataFrame(records[half:], schema=schema).write_parquet(parquet)
    return len(records) + population.broken


def write_streams(users: Users, count: int, signals: int, reveal: Reveal, path: Path) -> None:
    """Write this many users, each with this many pairs that show as much as `reveal` says, as JSON lines.

    Targets show as much as the world of `users` does. The first users do not depend on `count`.
    """
    records = (users.long(signals, reveal) for _ in range(count))
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_psoups(world: World, dimension: str, per_direction: int, path: Path) -> None:
    """Write one P-SOUPS file: pairs of either pole, each with four other pairs of the same pole as its signals."""
    records = []
    for sign in (1, -1):
        direction = {dimension: sign}
        pairs = [world.target(direction) for _ in range(per_direction)]
        for index, target in enumerate(pairs):
            others = [pair for other, pair in enumerate(pairs) if other != index and pair.prompt != target.prompt]
            records.append(
                {
                    "prompt": target.prompt,
                    "chosen": target.chosen.text,
                    "rejected": target.rejected.text,
                    "ground_truth_persona": world.lexicon.describe(direction),
                    "Pair-wise Comparative Feedback": [
                        {"prompt": p.prompt, "chosen": p.chosen.text, "rejected": p.rejected.text}
                        for p in world.rng.sample(others, SIGNALS)
                    ],
                }
            )
    path.write_text(json.dumps(records, indent=1), encoding="utf-8")


def write_wording(lexicon: Lexicon, path: Path) -> None:
    """Write the label of every pole as a wording table."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["dimension", "positive", "negative"])
        for axis in (*lexicon.alignx, *PSOUPS_DIMENSIONS):
            writer.writerow([axis, lexicon.label(axis, 1), lexicon.label(axis, -1)])
