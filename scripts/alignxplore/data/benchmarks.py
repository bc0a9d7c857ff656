"""Benchmark cases from splits and P-SOUPS files, their reversal (paper 4.4) and their truncation."""

from pathlib import Path
from typing import Any

import polars as pl

from alignxplore.data.psoups import Signals, read_psoups
from alignxplore.data.wording import Wording
from alignxplore.errors import UserError
from alignxplore.records import CASE


def split_cases(examples: pl.DataFrame, name: str, wording: Wording | None) -> pl.DataFrame:
    """CASE rows of a split (EXAMPLE). A golden preference that it lacks describes the target's direction, if known."""
    golden = [
        given or (wording.describe(direction) if wording and direction else "")
        for given, direction in examples.select("golden_preference", "direction").iter_rows()
    ]
    return examples.with_columns(
        case_id="example_id",
        benchmark=pl.lit(name),
        dimension=pl.lit(""),
        profile=pl.lit(""),
        golden_preference=pl.Series(golden, dtype=pl.String),
    ).select(CASE.names())


def psoups_cases(path: str | Path, name: str, dimension: str, positive: str, signals: Signals) -> pl.DataFrame:
    """CASE rows of one P-SOUPS file, checked as in `read_psoups`."""
    rows = [{"benchmark": name, **row} for row in read_psoups(path, dimension, positive, signals)]
    return pl.DataFrame(rows, schema=CASE)


def sample(cases: pl.DataFrame, limit: int | None) -> pl.DataFrame:
    """Up to `limit` cases, as many of each direction of a P-SOUPS dimension as possible, in the order of `cases`.

    Case ids are hashes and decide, so a higher limit keeps the cases of a lower one. A stream counts as one case, and
    keeps all its steps.
    """
    if limit is None:
        return cases
    return cases.filter(OWNER.is_in(drawing_order(cases)[:limit]))


OWNER = pl.when(pl.col("stream") != "").then("stream").otherwise("case_id")
"""What the steps of a stream share; of other cases, their id."""


def drawing_order(cases: pl.DataFrame) -> list[str]:
    """The ids of cases, or the names of their streams, in the order in which a limit takes them."""
    direction = pl.when(pl.col("dimension") != "").then(pl.col("direction").list.first())
    drawn = cases.select(owner=OWNER, group=direction).unique("owner", keep="first", maintain_order=True).sort("owner")
    return drawn.with_columns(rank=pl.int_range(pl.len()).over("group")).sort("rank", "group")["owner"].to_list()


def reverse(cases: pl.DataFrame, name: str, wording: Wording | None) -> pl.DataFrame:
    """The benchmark `name`: `cases` with all preferences reversed, in targets and signals alike.

    Case ids stay, so a case can be compared with its reversal, and reversing twice gives the original. Only the profile
    does not come back, since none is known of the opposite user. The golden preference becomes the description of the
    opposite direction by `wording` or, in P-SOUPS, the other persona; "" if neither is known. Raises UserError if cases
    have user-generated content, which cannot be reversed, or a rendered prompt.
    """
    if cases["ugc"].list.len().sum():
        raise UserError(f"benchmark {name!r}: comments cannot be reversed: they have no rejected text")
    check_signals(cases, f"benchmark {name!r}")
    golden = opposite_descriptions(cases, wording)
    rows = []
    for row, text in zip(cases.iter_rows(named=True), golden, strict=True):
        pairs = [swapped(pair) for pair in row["pairs"]]
        rows.append({**swapped(row), "benchmark": name, "pairs": pairs, "golden_preference": text or "", "profile": ""})
    return pl.DataFrame(rows, schema=CASE)


def opposite_descriptions(cases: pl.DataFrame, wording: Wording | None) -> list[str | None]:
    """The description of each case's opposite direction by `wording` or, in P-SOUPS, the other persona.

    It is None for a case without directions, and without `wording`. Raises UserError if the cases of a P-SOUPS
    dimension have only one persona.
    """
    personas = _personas(cases)
    texts: list[str | None] = []
    for dimension, direction in cases.select("dimension", "direction").iter_rows():
        if dimension:
            texts.append(personas[dimension, -direction[0]])
        else:
            texts.append(wording.describe([-sign for sign in direction]) if wording and direction else None)
    return texts


def truncate(cases: pl.DataFrame, name: str, signals: int) -> pl.DataFrame:
    """The benchmark `name`: `cases` with the first `signals` signals of each user, pairs before comments.

    Case ids stay. Raises UserError if no case has more than `signals` signals, if signals are a rendered prompt, or if
    cases are steps of a stream.
    """
    check_signals(cases, f"benchmark {name!r}")
    if (cases["stream"] != "").any():
        raise UserError(f"benchmark {name!r}: the steps of a stream have prefixes of its signals already")
    pairs = pl.col("pairs").list.head(signals)
    ugc = pl.col("ugc").list.head((signals - pairs.list.len().cast(pl.Int64)).clip(lower_bound=0))
    most = cases.select((pl.col("pairs").list.len() + pl.col("ugc").list.len()).max()).item()
    if signals >= most:
        raise UserError(f"benchmark {name!r}: no case has more than {most} signals: lower 'signals'")
    return cases.with_columns(benchmark=pl.lit(name), pairs=pairs, ugc=ugc)


def check_signals(cases: pl.DataFrame, user: str) -> None:
    """Raise UserError, saying that `user` needs signals, if a case has them only in a rendered prompt."""
    if (cases["rendered"] != "").any():
        raise UserError(f"{user} needs signals, but those of {cases['benchmark'][0]!r} are a rendered prompt")


def check_golden(cases: pl.DataFrame, user: str) -> None:
    """Raise UserError, saying that `user` needs golden preferences, if a case has none.

    A case whose directions are all neutral has one: the empty description.
    """
    direction = pl.col("direction")
    is_neutral = (direction.list.len() > 0) & direction.list.eval(pl.element() == 0).list.all()
    lacking = cases.filter(pl.col("golden_preference") == "", ~is_neutral)
    if lacking.height:
        case, benchmark = lacking.select("case_id", "benchmark").row(0)
        raise UserError(
            f"{user} needs golden preferences, but case {case} of {benchmark!r} has none, and no directions that"
            " data.wording describes: leave the benchmark out"
        )


def swapped(row: dict[str, Any]) -> dict[str, Any]:
    """A case or pair of which the user chose the other response."""
    direction = [-sign for sign in row["direction"]]
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"], "direction": direction}


def _personas(cases: pl.DataFrame) -> dict[tuple[str, int], str]:
    """The persona of each P-SOUPS dimension and direction."""
    found = cases.filter(pl.col("dimension") != "")
    found = found.select("dimension", pl.col("direction").list.first(), "golden_preference").unique()
    personas = {(dimension, sign): persona for dimension, sign, persona in found.rows()}
    for dimension, sign in personas:
        if len(personas) != found.height or (dimension, -sign) not in personas:
            raise UserError(f"the P-SOUPS dimension {dimension!r} needs one persona in each direction")
    return personas
