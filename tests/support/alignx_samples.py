"""Small AlignX records for the tests of the data stage."""

import random
from typing import Any

import polars as pl
from alignxplore.records import EXAMPLE, NO_STREAM

N = 90


def direction(**signs: int) -> list[int]:
    """Ninety values, neutral but for d<index>=sign."""
    values = [0] * N
    for name, sign in signs.items():
        values[int(name.removeprefix("d"))] = sign
    return values


def raw_direction(values: list[int]) -> list[float]:
    return [{-1: 0, 0: 0.5, 1: 1}[value] for value in values]


def raw_record(name: str = "a", **changes: Any) -> dict[str, Any]:
    """A valid raw record whose texts are made unique by `name`."""
    values = raw_direction(direction(d0=1, d1=-1, d2=1, d3=-1, d4=1))
    pair = {"Preference Direction": values}
    record = {
        "prompt": f"post {name}",
        "chosen": f"good {name}",
        "rejected": f"bad {name}",
        "Preference Direction": values,
        "Demographic Information": "a user",
        "User-Generated Content": [{"prompt": f"u{i} {name}", "comment": f"c{i} {name}", **pair} for i in range(2)],
        "Pair-wise Comparative Feedback": [
            {"prompt": f"p{i} {name}", "chosen": f"g{i} {name}", "rejected": f"b{i} {name}", **pair} for i in range(2)
        ],
    }
    return {**record, **changes}


def clear_record(name: str, **changes: Any) -> dict[str, Any]:
    """A raw record that refinement keeps."""
    record = raw_record(name)
    pairs = record["Pair-wise Comparative Feedback"]
    return {**record, "Pair-wise Comparative Feedback": [*pairs, *pairs], **changes}


def random_examples(count: int, seed: int, users: int | None = None) -> pl.DataFrame:
    """EXAMPLE rows that keep and break every rule of refinement, each with some probability."""
    rng = random.Random(seed)

    def noisy(base: list[int]) -> list[int]:
        values = list(base)
        draw = rng.random()
        if draw < 0.05:
            return [0] * N
        if draw < 0.15:
            for index in rng.sample(range(20), rng.randint(1, 4)):
                values[index] = 0
        if rng.random() < 0.15:
            for index in rng.sample(range(20), 2):
                values[index] = rng.choice((-1, 0, 1))
        if rng.random() < 0.03:
            values[N - 1] = rng.choice((-1, 1))
        return values

    def text(word: str, probability: float = 0.01) -> str:
        return rng.choice(("", " \n\t")) if rng.random() < probability else f"{word} {rng.random()}"

    rows = []
    for number in range(count):
        base = [0] * N
        for index in rng.sample(range(20), rng.randint(3, 12)):
            base[index] = rng.choice((-1, 1))
        pairs = [
            {
                "prompt": f"p{i}",
                "chosen": text("g"),
                "rejected": text("b"),
                "direction": noisy(base),
            }
            for i in range(rng.randint(0, 6))
        ]
        ugc = [{"prompt": f"u{i}", "comment": text("c"), "direction": noisy(base)} for i in range(rng.randint(0, 6))]
        rows.append(
            {
                "example_id": f"e{number}",
                "user_id": f"u{number % users if users else number}",
                "prompt": f"post {number}",
                "chosen": text("good", 0.02),
                "rejected": text("bad", 0.02),
                "direction": noisy(base),
                "pairs": pairs,
                "ugc": ugc,
                "golden_preference": "",
                "rendered": "",
                **NO_STREAM,
            }
        )
    return pl.DataFrame(rows, schema=EXAMPLE)
