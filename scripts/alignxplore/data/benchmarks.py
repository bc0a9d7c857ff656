"""Benchmark cases from splits and P-SOUPS files, their reversal (paper 4.4), and their truncation."""

from pathlib import Path
from typing import Any

import polars as pl

from alignxplore.data.psoups import Signals, read_psoups
from alignxplore.data.wording import Wording
from alignxplore.errors import UserError
from alignxplore.records import CASE


def alignx_cases(examples: pl.DataFrame, name: str, wording: Wording) -> pl.DataFrame:
    """CASE rows of an EXAMPLE split; the golden preference describes the target's direction."""
    golden = [wording.describe(direction) for direction in examples["direction"].to_list()]
    return examples.select(
        pl.col("example_id").alias("case_id"),
        pl.lit(name).alias("benchmark"),
        pl.lit("").alias("dimension"),
        "direction",
        "pairs",
        "ugc",
        "prompt",
        "chosen",
        "rejected",
        pl.Series("golden_preference", golden, dtype=pl.String),
    )


def psoups_cases(path: str | Path, name: str, dimension: str, positive: str, signals: Signals) -> pl.DataFrame:
    """CASE rows of one P-SOUPS file; `read_psoups` says what is checked."""
    rows = [{"benchmark": name, **row} for row in read_psoups(path, dimension, positive, signals)]
    return pl.DataFrame(rows, schema=CASE)


def reverse(cases: pl.DataFrame, name: str, wording: Wording) -> pl.DataFrame:
    """The benchmark `name`: `cases` with all preferences reversed, in targets and signals alike.

    Case ids stay, so that original and reversed case can be compared; reversing twice gives the
    original. The golden preference becomes the description of the opposite direction, in
    P-SOUPS the other persona. Raises UserError for cases with user-generated content, which
    cannot be reversed.
    """
    if cases["ugc"].list.len().sum():
        raise UserError(f"benchmark {name!r}: comments cannot be reversed: they have no rejected text")
    personas = _personas(cases, name)
    rows = []
    for row in cases.iter_rows(named=True):
        direction = [-sign for sign in row["direction"]]
        golden = personas[row["dimension"], direction[0]] if row["dimension"] else wording.describe(direction)
        rows.append(
            {
                **_swapped(row),
                "benchmark": name,
                "pairs": [_swapped(pair) for pair in row["pairs"]],
                "golden_preference": golden,
            }
        )
    return pl.DataFrame(rows, schema=CASE)


def truncate(cases: pl.DataFrame, name: str, signals: int) -> pl.DataFrame:
    """The benchmark `name`: `cases` with the first `signals` of each user's signals, pairs before comments.

    Case ids stay. Raises UserError where no case has more signals than that.
    """
    pairs = pl.col("pairs").list.head(signals)
    ugc = pl.col("ugc").list.head((signals - pairs.list.len().cast(pl.Int64)).clip(lower_bound=0))
    most = cases.select((pl.col("pairs").list.len() + pl.col("ugc").list.len()).max()).item()
    if signals >= most:
        raise UserError(f"benchmark {name!r}: no case has more than {most} signals: let 'signals' be fewer")
    return cases.with_columns(pl.lit(name).alias("benchmark"), pairs.alias("pairs"), ugc.alias("ugc"))


def _swapped(row: dict[str, Any]) -> dict[str, Any]:
    direction = [-sign for sign in row["direction"]]
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"], "direction": direction}


def _personas(cases: pl.DataFrame, name: str) -> dict[tuple[str, int], str]:
    """The persona of each P-SOUPS dimension and direction."""
    found = (
        cases.filter(pl.col("dimension") != "")
        .select("dimension", pl.col("direction").list.first(), "golden_preference")
        .unique()
    )
    personas = {(dimension, sign): persona for dimension, sign, persona in found.rows()}
    for dimension, sign in list(personas):
        if len(personas) != found.height or (dimension, -sign) not in personas:
            raise UserError(f"benchmark {name!r}: {dimension} needs one persona in each direction")
    return personas
