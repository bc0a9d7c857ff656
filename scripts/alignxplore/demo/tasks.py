"""What the scale models learn: judging, responding, and inferring preferences, on newly drawn users.

Prompts are rendered from the run's own templates, so a scale model reads exactly what a 7B model would.
"""

import csv
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignxplore.data.wording import PREFIX
from alignxplore.demo.world import (
    PSOUPS_DIMENSIONS,
    Comment,
    Direction,
    Lexicon,
    Pair,
    PoleKey,
    Reveal,
    Text,
    World,
)
from alignxplore.formats import render_completion
from alignxplore.prompts import Prompt, Templates

NOTHING = "nothing"
HESITATION = "Hmm."
"""The opening of a wavering completion."""
YES, NO, NEITHER = "yes", "no", "neither"
VERDICTS = (" A", " B")

Notes = tuple[tuple[str, tuple[tuple[int, str], ...]], ...]
"""User texts in order of appearance, each with the characters where its clauses end and the words to predict there."""


@dataclass(frozen=True)
class Sample:
    """A prompt with its completion. `notes` annotate clauses of the prompt; `closed` says that the turn ends."""

    prompt: Prompt
    completion: str
    notes: Notes = ()
    closed: bool = True


Evidence = tuple[str, PoleKey]
"""A keyword, and the pole that it shows of the user."""


def _evidence(text: Text, sign: int) -> list[Evidence]:
    return [(c.keyword, (c.pole[0], sign * c.pole[1])) for c in text.clauses if c.pole is not None]


def annotate(text: Text, word: Callable[[PoleKey | None], str]) -> tuple[str, tuple[tuple[int, str], ...]]:
    """The text, and for each clause the character where it ends and `word(pole)`."""
    ends, position = [], 0
    for clause in text.clauses:
        position += len(clause.text)
        ends.append((position, word(clause.pole)))
        position += len(", ")
    return text.text, tuple(ends)


def _case(pairs: Sequence[Pair] = (), comments: Sequence[Comment] = ()) -> dict[str, Any]:
    return {
        "pairs": [{"prompt": p.prompt, "chosen": p.chosen.text, "rejected": p.rejected.text} for p in pairs],
        "ugc": [{"prompt": c.prompt, "comment": c.comment.text} for c in comments],
    }


class Tasks:
    """Draws samples of each task from one world."""

    def __init__(self, world: World, templates: Templates, axes: Sequence[str]):
        self.world = world
        self.templates = templates
        self.axes = list(axes)

    def _extended(self, direction: Direction, most: int, axes: Sequence[str] | None = None) -> Direction:
        rest = [axis for axis in axes or self.axes if axis not in direction]
        return {**direction, **self.world.direction(rest, min(len(rest), self.world.rng.randint(0, most)))}

    def judge(self, progress: float) -> Sample:
        """Select the response that the described user prefers. Easy cases come first."""
        world, rng = self.world, self.world.rng
        most, shown, by_name = (1, 1.0, 0.6) if progress < 0.1 else (3, 0.65, 0.4) if progress < 0.3 else (8, 0.3, 0.4)
        world.reveal = Reveal(shown, shown, shown, by_name)
        margin = 0
        while not margin:
            direction = world.direction(self.axes, rng.randint(1, most))
            pair = world.pair(self._extended(direction, 1 if most == 1 else 3))
            margin = sum(direction.get(a, 0) * s for a, s in pair.chosen.shows)
            margin -= sum(direction.get(a, 0) * s for a, s in pair.rejected.shows)

        def fits(pole: PoleKey | None) -> str:
            sign = direction.get(pole[0], 0) * pole[1] if pole else 0
            return {1: YES, -1: NO, 0: NEITHER}[sign]

        first = rng.random() < 0.5
        a, b = (pair.chosen, pair.rejected) if first else (pair.rejected, pair.chosen)
        prompt = self.templates.judge(pair.prompt, world.lexicon.describe(direction), a.text, b.text)
        verdict = VERDICTS[0] if first == (margin > 0) else VERDICTS[1]
        return Sample(prompt, verdict, (annotate(a, fits), annotate(b, fits)), closed=False)

    def respond(self, progress: float) -> Sample:
        """Answer a post as the user would like it; a quarter of the prompts have no description."""
        world = self.world
        world.reveal = Reveal(0.5, 0.0, 0.0, 0.4)
        direction = world.direction(self.axes, world.rng.randint(1, 6))
        pair = world.pair(direction)
        preference = world.lexicon.describe(direction) if world.rng.random() < 0.75 else ""
        return Sample(self.templates.respond(pair.prompt, preference), pair.chosen.text)

    def infer(
        self,
        progress: float,
        *,
        reasoning: bool = True,
        guided: float = 0.0,
        wavering: float = 0.0,
        untidy: float = 0.0,
    ) -> Sample:
        """Infer a user's preferences from signals: first from one, later from two, then from four.

        `guided` is the share of prompts that list the key dimensions. `wavering` is the share of completions that
        guess what each keyword shows and list preferences without evidence, as the paper observed before reinforcement
        learning (appendix A.3). `untidy` is the share that break the format.
        """
        world, rng = self.world, self.world.rng
        if progress < 0.2:
            signals, shown, by_name = 1, (0.8, 0.5, 0.8), 0.4
        elif progress < 0.35:
            signals, shown, by_name = 2, (0.5, 0.3, 0.5), 0.4
        else:
            signals, shown, by_name = 4, (0.35, 0.25, 0.4), 0.4
        world.reveal = Reveal(*shown, by_name)
        direction = world.direction(self.axes, rng.randint(4, 6))
        comments: list[Comment] = []
        pairs: list[Pair] = []
        for _ in range(signals):
            pairs.append(world.pair(self._extended(direction, 1)))
        if rng.random() < 0.25:
            comments = [world.user_comment(pair.direction) for pair in pairs]
            pairs = []
        dimensions = None
        if rng.random() < guided:
            dimensions = [world.names[axis] for axis in direction]
        case = _case(pairs, comments)
        prompt = self.templates.preference(case, dimensions) if reasoning else self.templates.concise(case)
        evidence, notes = self._read(pairs, comments)
        return Sample(prompt, self._completion(evidence, reasoning, wavering, untidy), notes, closed=True)

    def _read(self, pairs: Sequence[Pair], comments: Sequence[Comment]) -> tuple[list[list[Evidence]], Notes]:
        """What each signal shows of the user, and the annotations of their texts."""
        label = self.world.lexicon.label

        def chosen(pole: PoleKey | None) -> str:
            return label(*pole) if pole else NOTHING

        def rejected(pole: PoleKey | None) -> str:
            return label(pole[0], -pole[1]) if pole else NOTHING

        notes: list[tuple[str, tuple[tuple[int, str], ...]]] = []
        evidence: list[list[Evidence]] = []
        for pair in pairs:
            notes += [annotate(pair.chosen, chosen), annotate(pair.rejected, rejected)]
            evidence.append(_evidence(pair.chosen, 1) + _evidence(pair.rejected, -1))
        for comment in comments:
            notes.append(annotate(comment.comment, chosen))
            evidence.append(_evidence(comment.comment, 1))
        return evidence, tuple(notes)

    def update(self, *, signals: int, most: int, guided: float = 0.0) -> Sample:
        """Bring a description up to date with new signals; or, if `signals` is more than `most`, read them all at once.

        What most of the evidence shows on an axis is said, and what is known stays if the new signals show nothing of
        it. Some signals are another user's, and some of what is known is wrong, as after a change of preferences.
        `guided` is the share of prompts that list the key dimensions.
        """
        world, rng = self.world, self.world.rng
        shown = rng.choice((0.12, 0.12, 0.25))
        world.reveal = Reveal(shown, shown, shown, 0.4)
        axes = [axis for axis in self.axes if axis not in PSOUPS_DIMENSIONS]
        direction, other = (world.direction(axes, rng.randint(4, 6)) for _ in range(2))
        strange = rng.choice((0.0, 0.0, 0.4))
        users = [other if rng.random() < strange else direction for _ in range(signals)]
        pairs = [world.pair(self._extended(user, 1, axes)) for user in users]
        known: Direction = {}
        if signals <= most and rng.random() < 0.8:
            wrong = rng.choice((0.1, 0.1, 0.8))
            known = {
                axis: -direction[axis] if rng.random() < wrong else direction[axis]
                for axis in axes
                if axis in direction and rng.random() < 0.85
            }
        evidence, notes = self._read(pairs, ())
        past = world.lexicon.describe(known) if known else ""
        if known:
            notes = (self._annotated_past(known), *notes)
        template = "update" if signals <= most else "preference"
        dimensions = [world.names[axis] for axis in direction] if rng.random() < guided else None
        prompt = self.templates.preference(_case(pairs), dimensions, template, past)
        return Sample(prompt, self._updated(known, evidence), notes)

    def _annotated_past(self, known: Direction) -> tuple[str, tuple[tuple[int, str], ...]]:
        """A description, and for each label the character where it ends and the label."""
        labels = [self.world.lexicon.label(axis, sign) for axis, sign in known.items()]
        ends = [len(PREFIX) + len(", ".join(labels[: count + 1])) for count in range(len(labels))]
        return self.world.lexicon.describe(known), tuple(zip(ends, labels, strict=True))

    def _updated(self, known: Direction, evidence: list[list[Evidence]]) -> str:
        label = self.world.lexicon.label
        # What is known is repeated like a signal, so the answer can be written as that of any other history.
        first = [[(label(*pole), pole) for pole in known.items()]] if known else []
        lines = [self._line(index, items) for index, items in enumerate(first + evidence, 0 if known else 1)]
        shown = [pole for items in evidence for _, pole in items]
        return render_completion("\n".join(lines), self._described(shown, known))

    def _completion(self, evidence: list[list[Evidence]], reasoning: bool, wavering: float, untidy: float) -> str:
        rng, label = self.world.rng, self.world.lexicon.label
        wavers = rng.random() < wavering
        lines = [HESITATION] if wavers else []
        found: list[PoleKey] = []
        for index, items in enumerate(evidence, 1):
            read = [(word, self._guess() if wavers else pole) for word, pole in items]
            found += [pole for _, pole in read]
            line = self._line(index, read)
            if wavers:
                musing = self._guess()
                found.append(musing)
                line += f" perhaps {label(*musing)}?"
            lines.append(line)
        preference = self._described(found, known={})
        if not reasoning:
            return preference
        text = render_completion("\n".join(lines), preference)
        if rng.random() < untidy:
            text = text.replace("</answer>", "").replace("<answer>", "").strip()
        return text

    def _line(self, index: int, items: Sequence[Evidence]) -> str:
        """A line of reasoning: each keyword of a signal, with the preference that it shows."""
        read = ", ".join(f"{word}: {self.world.lexicon.label(*pole)}" for word, pole in items)
        return f"{index}. {read or NOTHING}."

    def _described(self, shown: Sequence[PoleKey], known: Direction) -> str:
        """The description of what most of the evidence shows on each axis; what is known stays where it shows nothing.

        Preferences are named in the order of the axes. In order of appearance, a small model loses its place wherever a
        preference was shown twice, and names less of what it read.
        """
        total = dict.fromkeys(self.axes, 0)
        for axis, sign in shown:
            total[axis] += sign
        signs = {axis: (net > 0) - (net < 0) or known.get(axis, 0) for axis, net in total.items()}
        said = {axis: sign for axis, sign in signs.items() if sign}
        return self.world.lexicon.describe(said) if said else f"{PREFIX}{NOTHING}."

    def _guess(self) -> PoleKey:
        return self.world.rng.choice(self.axes), self.world.rng.choice((1, -1))


def role_samples(role: str, tasks: Tasks) -> Callable[[random.Random, float], Iterator[Sample]]:
    """The mixture of tasks for a model with this `role` (`demo.models` in the config)."""

    def draw(rng: random.Random, progress: float) -> Iterator[Sample]:
        while True:
            if role == "judge":
                yield tasks.judge(progress)
            elif role == "base":
                yield tasks.infer(progress, guided=0.1, wavering=0.3)
            elif role == "teacher":
                yield tasks.infer(1.0, guided=0.5, wavering=0.65)
            elif role == "updater":
                long = rng.random() < 0.35
                yield tasks.update(signals=rng.choice((8, 12, 16)) if long else 4, most=4, guided=0.2)
            elif role == "backbone":
                yield tasks.infer(1.0, wavering=0.95, untidy=0.45)
            elif role == "instruct":
                concise = rng.random() < 0.5
                yield tasks.infer(1.0, reasoning=False, wavering=0.5) if concise else tasks.respond(progress)
            else:
                raise ValueError(f"no such role: {role!r}")

    return draw


def open_tasks(inputs: Mapping[str, str], dimensions: Sequence[int], seed: str) -> Tasks:
    """Tasks over these AlignX `dimensions` and those of P-SOUPS, from a rule's named inputs."""
    with open(inputs["names"], encoding="utf-8", newline="") as file:
        names = {row["index"]: row["name"] for row in csv.DictReader(file)}
    names |= {axis: axis for axis in PSOUPS_DIMENSIONS}
    world = World(Lexicon.load(inputs["lexicon"]), Reveal(0.0, 0.0, 0.0, 0.0), seed, names)
    templates = Templates.of_rule(inputs)
    return Tasks(world, templates, [*map(str, dimensions), *PSOUPS_DIMENSIONS])
