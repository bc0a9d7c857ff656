"""Refinement of AlignX (paper A.1): keep examples whose history is clear about the target."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from alignxplore.data.alignx import FORMS
from alignxplore.data.signs import WORDS, sign_words, word_signs
from alignxplore.records import DIRECTION, FUNNEL, N_DIMENSIONS, REFINED

SQL = Path(__file__).parents[2] / "sql/refine.sql"


@dataclass(frozen=True)
class Rules:
    """What makes an example's history clear; `refine` in the config."""

    min_dimensions: int
    """Dimensions on which the whole history must agree with the target."""
    history: int
    """Interactions in a history."""
    max_conflicts: int = 0
    """Dimensions on which an example's interactions may contradict each other or the target."""


def refine(examples: pl.DataFrame, rules: Rules) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Select the examples with a clear and consistent history; returns (REFINED, funnel).

    Interactions without text are dropped. An example qualifies in a form ("pairs" or "ugc") if
    - it has at least `history` interactions of that form;
    - on no more than `max_conflicts` dimensions do interactions conflict (opposite non-zero directions) with the
      target or with one another;
    - the first `history` interactions that agree with the target on `min_dimensions` dimensions
      or more all agree with it on the same `min_dimensions` dimensions or more.
    These interactions become its history, the other form's list is emptied, and `consistent`
    holds the directions that target and history share (0 elsewhere). An example that qualifies
    in both forms gives two rows, pairs first. The funnel (step, rows) counts what each rule
    leaves.
    """
    numbered = examples.with_row_index("number").with_columns(pl.col("number").cast(pl.Int64))
    with duckdb.connect() as connection:
        selected, counts = select(_directions(numbered), rules, connection)
    counts = pl.concat([pl.DataFrame([("examples", examples.height)], FUNNEL, orient="row"), counts])
    return assemble(numbered, selected).select(REFINED.names()), counts


def select(
    directions: pl.DataFrame, rules: Rules, connection: duckdb.DuckDBPyConnection
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Which records qualify, as (number, form, used, consistent), and the funnel (step, rows).

    `directions` has number, form, position and WORDS, as a Block's; `used` are the positions of the interactions that
    become the history. The query runs on
    `connection`.
    """
    connection.register("directions", directions.to_arrow())
    parameters = {"min_dimensions": rules.min_dimensions, "history": rules.history}
    histories = connection.sql(SQL.read_text(encoding="utf-8"), params=parameters).pl()
    enough = histories.filter(pl.col("interactions") >= rules.history)
    clear = enough.filter(pl.col("conflicts") <= rules.max_conflicts)
    shared = pl.sum_horizontal(pl.col(*WORDS).bitwise_count_ones())
    kept = clear.filter(pl.col("used").list.len() == rules.history, shared >= rules.min_dimensions)
    steps = {
        f"at least {rules.history} interactions": enough,
        "no conflicting direction": clear,
        f"at least {rules.min_dimensions} shared dimensions": kept,
    }
    counts = [("target with both responses", directions.filter(pl.col("form") == "target").height)]
    counts += [
        (f"{form}: {step}", table.filter(pl.col("form") == form).height)
        for form in FORMS
        for step, table in steps.items()
    ]
    consistent = pl.Series("consistent", word_signs(kept), dtype=DIRECTION)
    return kept.select("number", "form", "used").with_columns(consistent), pl.DataFrame(counts, FUNNEL, orient="row")


def assemble(rows: pl.DataFrame, selected: pl.DataFrame) -> pl.DataFrame:
    """REFINED rows, with `number`, of the `selected` records among `rows` (EXAMPLE and `number`)."""
    joined = selected.join(rows, on="number", maintain_order="left")
    histories = []
    for form in FORMS:
        used, none = pl.col(form).list.gather(pl.col("used")), pl.col(form).list.head(0)
        histories.append(pl.when(pl.col("form") == form).then(used).otherwise(none))
    return joined.with_columns(histories).drop("used")


def key_dimensions(examples: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Key preference dimensions phi (paper 3.2) of each example, as DIMENSIONS rows.

    These are the names, without the sign, of the dimensions on which all of the example's
    history has one and the same non-neutral direction. `names` are the 90 dimensions' names in
    order.
    """
    numbered = examples.with_row_index("number").with_columns(pl.col("number").cast(pl.Int64))
    shared = (
        _directions(numbered)
        .filter(pl.col("form") != "target")
        .group_by("number")
        .agg(pl.col(*WORDS).bitwise_and())
        .sort("number")
    )
    found = [[names[index] for index in np.flatnonzero(signs).tolist()] for signs in word_signs(shared)]
    table = shared.select("number", dimensions=pl.Series(found, dtype=pl.List(pl.String)))
    return (
        numbered.select("number", "example_id")
        .join(table, on="number", how="left", maintain_order="left")
        .select("example_id", pl.col("dimensions").fill_null([]))
    )


def _directions(examples: pl.DataFrame) -> pl.DataFrame:
    """number, form, position, WORDS of all targets and interactions of EXAMPLE rows (and `number`) that have text."""
    targets = examples.filter(_has_text("chosen"), _has_text("rejected"))
    tables = [targets.select("number", "direction", form=pl.lit("target"), position=pl.lit(0, pl.Int64))]
    for form, texts in FORMS.items():
        items = targets.select("number", form, position=pl.int_ranges(pl.col(form).list.len())).explode(
            form, "position"
        )
        items = items.filter(pl.col(form).is_not_null()).unnest(form).filter(_has_text(text) for text in texts)
        tables.append(items.select("number", "direction", form=pl.lit(form), position="position"))
    together = pl.concat(tables)
    signs = together["direction"].list.explode(empty_as_null=False).to_numpy().reshape(-1, N_DIMENSIONS)
    return together.drop("direction").with_columns(pl.DataFrame(sign_words(signs)))


def _has_text(column: str) -> pl.Expr:
    return pl.col(column).str.strip_chars().fill_null("") != ""
