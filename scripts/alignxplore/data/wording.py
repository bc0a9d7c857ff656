"""Words for preference directions, such as "This person: likes humor, low openness.", from a table of phrases."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from alignxplore.errors import UserError
from alignxplore.records import N_DIMENSIONS

PREFIX = "This person: "
"""The beginning of every description."""


class Wording:
    """A phrase for the positive and the negative pole of every dimension."""

    def __init__(self, phrases: Mapping[str, tuple[str, str]]):
        self._phrases = dict(phrases)

    @classmethod
    def load(cls, path: str | Path) -> "Wording":
        """Read `dimension,positive,negative` rows: AlignX dimensions by index, others by name."""
        phrases: dict[str, tuple[str, str]] = {}
        for line, row in _rows(path, ("dimension", "positive", "negative")):
            name, positive, negative = (row[key].strip() for key in ("dimension", "positive", "negative"))
            if not (name and positive and negative):
                raise UserError(f"{path}:{line}: dimension, positive and negative must not be empty")
            if name in phrases:
                raise UserError(f"{path}:{line}: dimension {name!r} occurs twice")
            phrases[name] = (positive, negative)
        if missing := [str(index) for index in range(N_DIMENSIONS) if str(index) not in phrases]:
            raise UserError(f"{path}: no row for dimension {missing[0]}")
        return cls(phrases)

    def phrase(self, dimension: str, sign: int) -> str:
        """The phrase for one pole of a dimension."""
        if dimension not in self._phrases:
            raise UserError(f"the wording file has no row for dimension {dimension!r}")
        return self._phrases[dimension][0 if sign > 0 else 1]

    def describe(self, direction: Sequence[int], dimension: str = "") -> str:
        """One sentence with the phrases of all non-neutral directions; "" if all are neutral.

        `direction` has 90 values, or one if `dimension` names a P-SOUPS dimension.
        """
        names = [dimension] if dimension else [str(index) for index in range(N_DIMENSIONS)]
        phrases = [self.phrase(name, sign) for name, sign in zip(names, direction, strict=True) if sign]
        return f"{PREFIX}{', '.join(phrases)}." if phrases else ""


def dimension_names(path: str | Path) -> list[str]:
    """Read `index,name` rows: the names of the 90 dimensions in order."""
    names = {row["index"].strip(): row["name"].strip() for _, row in _rows(path, ("index", "name"))}
    if missing := [str(index) for index in range(N_DIMENSIONS) if not names.get(str(index))]:
        raise UserError(f"{path}: no name for dimension {missing[0]}")
    return [names[str(index)] for index in range(N_DIMENSIONS)]


def _rows(path: str | Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            if missing := [name for name in columns if name not in (reader.fieldnames or [])]:
                raise UserError(f"{path}: column {missing[0]!r} is missing")
            return [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from error
