"""Controls: descriptions that are wrong on purpose. A judge that reads them should not be right."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from alignxplore.data.alignx import stable_hash
from alignxplore.data.benchmarks import check_golden, opposite_descriptions
from alignxplore.data.wording import Wording
from alignxplore.errors import UserError
from alignxplore.methods.descriptions import unwritten_rows


def opposite_preferences(cases: pl.DataFrame, method: str, wording: Wording | None) -> pl.DataFrame:
    """PREFERENCE rows with the golden description that each case has when its benchmark is reversed.

    Raises UserError for a case without directions that `wording` describes, and if the cases of a P-SOUPS dimension
    have only one persona.
    """
    rows = list(cases.iter_rows(named=True))
    texts = []
    for row, text in zip(rows, opposite_descriptions(cases, wording), strict=True):
        if text is None:
            raise UserError(
                f"methods.{method} needs directions, but case {row['case_id']} of {row['benchmark']!r} has none that"
                " data.wording describes: leave the benchmark out of the method's benchmarks"
            )
        texts.append(("", text))
    return unwritten_rows(rows, method, texts)


def shuffled_preferences(cases: pl.DataFrame, method: str, seed: int) -> pl.DataFrame:
    """PREFERENCE rows with the golden description of another case of the same benchmark.

    Raises UserError if a case has none, or if it is a step of a stream, whose other steps are the same user's.
    """
    check_golden(cases, f"methods.{method}")
    if streams := cases.filter(pl.col("stream") != "")["benchmark"].unique(maintain_order=True).to_list():
        raise UserError(
            f"methods.{method}: {streams[0]!r} has the steps of streams, and another one may be the same user's; leave"
            " it out of the method's benchmarks"
        )
    rows = [case for (_,), own in cases.group_by("benchmark", maintain_order=True) for case in _shuffled(own, seed)]
    return unwritten_rows(rows, method, [("", row["shuffled"]) for row in rows])


def _shuffled(cases: pl.DataFrame, seed: int) -> Sequence[Mapping[str, Any]]:
    """The cases of one benchmark, each with another text as `shuffled`, whatever the order in which they come.

    Cases are sorted so that equal texts stand together, and each takes the text of the case that is as many places
    further as the most frequent text has cases. No text is then met again, and all are given out once:

        own         a a b b c
        shuffled    b b c a a

    If one text has more than half of the cases, the other texts are not enough for these. Those that would get their
    own text share the other texts evenly.
    """

    def place(case: Mapping[str, Any]) -> tuple[str, str]:
        return stable_hash(f"{seed} {case['golden_preference']}"), stable_hash(f"{seed} {case['case_id']}")

    rows = sorted(cases.iter_rows(named=True), key=place)
    texts = [row["golden_preference"] for row in rows]
    ((common, step),) = Counter(texts).most_common(1)
    others = [text for text in texts if text != common] or [common]
    shuffled = texts[step:] + texts[:step]
    return [
        {**row, "shuffled": text if text != own else others[number % len(others)]}
        for number, (row, own, text) in enumerate(zip(rows, texts, shuffled, strict=True))
    ]
