"""A world of users with planted preferences, who post, comment and choose in readable English.

Each axis of preference (the 90 AlignX dimensions and the three of P-SOUPS) has two poles. A text shows a pole by its
label ("humorous") or by one of its cues ("a joke"). Responses show a labelled direction only sometimes, so one pair
says little and four say a good deal.
"""

import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignxplore.data.wording import PREFIX
from alignxplore.errors import UserError

N_DIMENSIONS = 90
PSOUPS_DIMENSIONS = ("expertise", "informativeness", "style")

PoleKey = tuple[str, int]
"""Axis name, and sign: +1 or -1."""

Direction = dict[str, int]
"""Axis name to sign; axes that are absent are neutral."""

TOPICS = (
    "a birthday party", "a job interview", "a long weekend", "a first date", "a rainy evening", "my new flat",
    "a family dinner", "a school project", "a train journey", "a difficult email", "the morning routine",
    "a small budget", "a noisy neighbour", "my old laptop", "a team meeting", "a summer holiday", "a bad cold",
    "a wedding speech", "the move next month", "a garden plot", "a quiet hobby", "an exam week", "a late bus",
    "a broken phone", "my cousin", "a reunion", "a bad review", "a night shift", "the spare room", "a gift",
)  # fmt: skip
QUESTIONS = (
    "How would you handle {}?",
    "Any advice about {}?",
    "What should I do about {}?",
    "I keep worrying about {}.",
    "Please help me with {}.",
    "Tell me what you think of {}.",
    "Where do I start with {}?",
    "Is there a good plan for {}?",
)
TIMES = (
    "this week", "next week", "this month", "next month", "this year", "next year", "today", "tonight", "tomorrow",
    "again", "in May", "in June", "in July", "in autumn", "in winter", "in spring", "on Monday", "on Friday",
    "on Sunday", "these days",
)  # fmt: skip
CUE_CLAUSES = (
    "go with {}",
    "think about {}",
    "{} would help",
    "I would pick {}",
    "start from {}",
    "{} never fails",
    "maybe try {}",
    "it comes down to {}",
)
LABEL_CLAUSES = (
    "keep it {}",
    "something {} perhaps",
    "better stay {}",
    "the {} way works",
)
PLAIN_CLAUSES = (
    "give it some time",
    "see how it goes",
    "that sounds fair",
    "write down what matters",
    "ask again next week",
    "it may take a while",
    "you will find out soon",
    "do the next thing first",
    "this happens a lot",
    "it depends on the day",
)


@dataclass(frozen=True)
class Pole:
    """One end of an axis: its label, and the noun phrases that show it."""

    label: str
    cues: tuple[str, ...]


class Lexicon:
    """The poles of every axis: `lexicon[axis, sign]`."""

    def __init__(self, poles: Mapping[PoleKey, Pole]):
        self._poles = dict(poles)
        self.alignx = tuple(str(index) for index in range(N_DIMENSIONS))
        missing = [
            key for axis in (*self.alignx, *PSOUPS_DIMENSIONS) for s in (1, -1) if (key := (axis, s)) not in poles
        ]
        if missing:
            raise UserError(
                f"lexicon: no row for dimension {missing[0][0]!r}, pole {'+' if missing[0][1] > 0 else '-'}"
            )

    def __getitem__(self, key: PoleKey) -> Pole:
        return self._poles[key]

    @classmethod
    def load(cls, path: str | Path) -> "Lexicon":
        """Read a CSV with the columns dimension, pole (+ or -), label, and cues separated by semicolons."""
        with open(path, encoding="utf-8", newline="") as file:
            return cls(
                {
                    (row["dimension"], 1 if row["pole"] == "+" else -1): Pole(
                        row["label"], tuple(row["cues"].split(";"))
                    )
                    for row in csv.DictReader(file)
                }
            )

    def label(self, axis: str, sign: int) -> str:
        """The label of one pole."""
        return self._poles[axis, sign].label

    def describe(self, direction: Direction) -> str:
        """The description that names each pole of `direction`, in the form of golden preferences."""
        return PREFIX + ", ".join(self.label(axis, sign) for axis, sign in direction.items()) + "."


@dataclass(frozen=True)
class Reveal:
    """The probability that a text shows a labelled direction, for chosen, rejected and user-written texts."""

    chosen: float
    rejected: float
    comment: float
    by_name: float
    """The share of them shown by the pole's label; the rest are shown by a cue."""


@dataclass(frozen=True)
class Clause:
    """A few words, the pole that they show (None if they show none), and the word that shows it."""

    text: str
    pole: PoleKey | None = None
    keyword: str = ""


@dataclass(frozen=True)
class Text:
    """A comment, clause by clause."""

    clauses: tuple[Clause, ...]

    @property
    def text(self) -> str:
        """The comment as one sentence."""
        joined = ", ".join(clause.text for clause in self.clauses)
        return joined[0].upper() + joined[1:] + "."

    @property
    def shows(self) -> tuple[PoleKey, ...]:
        """The poles that the comment shows, in order of appearance."""
        return tuple(clause.pole for clause in self.clauses if clause.pole is not None)


@dataclass(frozen=True)
class Pair:
    """A post with two comments; `direction` is the label of the choice."""

    prompt: str
    chosen: Text
    rejected: Text
    direction: Direction


@dataclass(frozen=True)
class Comment:
    """A post that the user answered; `direction` is the label of the comment."""

    prompt: str
    comment: Text
    direction: Direction


class World:
    """Draws posts, comments, pairs and users from one random stream."""

    def __init__(self, lexicon: Lexicon, reveal: Reveal, seed: str, names: Mapping[str, str] | None = None):
        """`names` are the dimensions' full names, for prompts that list key dimensions."""
        self.lexicon = lexicon
        self.reveal = reveal
        self.rng = random.Random(seed)
        self.names = dict(names or {})

    def post(self) -> str:
        """A question or remark in one sentence."""
        return self.rng.choice(QUESTIONS).format(f"{self.rng.choice(TOPICS)} {self.rng.choice(TIMES)}")

    def clause(self, pole: PoleKey) -> Clause:
        """A few words that show one pole."""
        entry = self.lexicon[pole]
        if self.rng.random() < self.reveal.by_name:
            return Clause(self.rng.choice(LABEL_CLAUSES).format(entry.label), pole, entry.label)
        cue = self.rng.choice(entry.cues)
        return Clause(self.rng.choice(CUE_CLAUSES).format(cue), pole, cue.split()[-1])

    def comment(self, poles: Sequence[PoleKey]) -> Text:
        """A comment with one clause per pole, and a plain clause if there are fewer than two, or by chance."""
        rng = self.rng
        clauses = [self.clause(pole) for pole in poles]
        rng.shuffle(clauses)
        if len(clauses) < 2 or rng.random() < 0.2:
            clauses.insert(rng.randrange(len(clauses) + 1), Clause(rng.choice(PLAIN_CLAUSES)))
        return Text(tuple(clauses))

    def glossary_line(self, axes: Sequence[str]) -> str:
        """A line that puts words of one axis side by side, as a thesaurus does."""
        rng = self.rng
        axis, sign = rng.choice(axes), rng.choice((1, -1))
        this, other = self.lexicon[axis, sign], self.lexicon[axis, -sign]
        cues = rng.sample(this.cues, len(this.cues))
        return rng.choice(
            (
                f"{this.label}: {', '.join(cues)}.",
                f"{', '.join(cues)}: {this.label}.",
                f"{this.label} or {other.label}: {cues[0]}, {', '.join(other.cues[:2])}.",
            )
        )

    def _shown(self, direction: Direction, probability: float, sign: int = 1) -> list[PoleKey]:
        return [(axis, sign * value) for axis, value in direction.items() if self.rng.random() < probability]

    def pair(self, direction: Direction) -> Pair:
        """Two different comments on one post: the chosen one shows `direction`, the rejected one its opposite."""
        prompt = self.post()
        chosen = self.comment(self._shown(direction, self.reveal.chosen))
        rejected = self.comment(self._shown(direction, self.reveal.rejected, -1))
        while rejected.text == chosen.text:
            rejected = self.comment(())
        return Pair(prompt, chosen, rejected, direction)

    def target(self, direction: Direction) -> Pair:
        """A pair of which at least one comment shows something of `direction`, so that a description can decide it."""
        while not ((pair := self.pair(direction)).chosen.shows or pair.rejected.shows):
            pass
        return pair

    def user_comment(self, direction: Direction) -> Comment:
        """A comment that the user wrote."""
        return Comment(self.post(), self.comment(self._shown(direction, self.reveal.comment)), direction)

    def direction(self, axes: Sequence[str], size: int) -> Direction:
        """A random direction on `size` of the axes."""
        return {axis: self.rng.choice((1, -1)) for axis in self.rng.sample(axes, size)}
