"""Refinement of AlignX (paper A.1): keep the examples whose history is clear about the target."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from alignxplore.errors import UserError
from alignxplore.records import DIRECTION, FUNNEL, N_DIMENSIONS

SQL = Path(__file__).parents[2] / "sql/refine.sql"
FORMS = {"pairs": ("chosen", "rejected"), "ugc": ("comment",)}
"""The two forms of history, and the texts that an interaction needs to count."""


@dataclass(frozen=True)
class Rules:
    """The entry `data.refine` of the config: when an example's history is clear."""

    min_dimensions: int
    """Dimensions on which the whole history must agree with the target."""
    history: int
    """Interactions in a history."""
    max_conflicts: int = 0
    """Dimensions on which an example's interactions may contradict each other or the target."""


def refine(examples: pl.DataFrame, rules: Rules) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Select the EXAMPLE rows with a clear and consistent history. Returns (refined, funnel).

    Interactions without text are dropped. An example qualifies in a form ("pairs" or "ugc") if
    - it has at least `history` interactions of that form;
    - these contradict each other or the target (by opposite non-zero signs) on at most `max_conflicts` dimensions;
    - the first `history` of them that agree with the target on at least `min_dimensions` dimensions agree with it on
      at least `min_dimensions` common dimensions.
    These first ones become its history, and the list of the other form is emptied. `consistent` holds the signs that
    target and history share, and 0 elsewhere. An example that qualifies in both forms gives two rows, pairs first.

    The result is REFINED; further columns of `examples` stay. The funnel (step, rows) counts what each rule leaves.
    """
    numbered = examples.with_row_index("number")
    interactions, signs = _interactions(numbered)
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("interactions", interactions.filter(pl.col("form") != "target").to_arrow())
        connection.register("signs", signs.to_arrow())
        parameters = {"min_dimensions": rules.min_dimensions, "history": rules.history}
        histories = connection.sql(SQL.read_text(encoding="utf-8"), params=parameters).pl()
    enough = histories.filter(pl.col("interactions") >= rules.history)
    clear = enough.filter(pl.col("conflicts") <= rules.max_conflicts)
    kept = clear.filter(
        pl.col("used").list.len() == rules.history, pl.col("dimensions").list.len() >= rules.min_dimensions
    )
    steps = {
        f"at least {rules.history} interactions": enough,
        "no conflicting direction": clear,
        f"at least {rules.min_dimensions} shared dimensions": kept,
    }
    targets = (interactions["form"] == "target").sum()
    counts = [("examples", examples.height), ("target with both responses", targets)]
    for form in FORMS:
        counts += [(f"{form}: {step}", (table["form"] == form).sum()) for step, table in steps.items()]
    refined = _with_history(numbered, kept).select(*examples.columns, "form", "consistent")
    return refined, pl.DataFrame(counts, FUNNEL, orient="row")


def key_dimensions(examples: pl.DataFrame, names: Sequence[str], source: str = "history") -> pl.DataFrame:
    """The key preference dimensions phi (paper 3.2) of each example, as DIMENSIONS rows.

    These are the dimensions on which the whole history has the same non-neutral sign, or with the `source` "target"
    those on which the target is not neutral; the sign itself is left out. `names` are the names of the 90 dimensions in
    order. Raises UserError for an example without directions.
    """
    labelled = [
        pl.col(form).list.eval(pl.element().struct.field("direction").list.len() == N_DIMENSIONS).list.all()
        for form in FORMS
    ]
    lacking = examples.filter(
        (pl.col("direction").list.len() != N_DIMENSIONS) | ~pl.all_horizontal(labelled) | (pl.col("rendered") != "")
    )
    if lacking.height:
        raise UserError(
            f"key dimensions come from the directions of a history and its target, but example"
            f" {lacking['example_id'][0]} lacks some: the teacher needs a split with directions"
        )
    numbered = examples.with_row_index("number")
    counted = (pl.col("form") == "target") == (source == "target")
    interactions, signs = (table.filter(counted) for table in _interactions(numbered))
    agreeing = signs.group_by("number", "dimension", "sign").agg(agree=pl.len())
    shared = (
        agreeing.join(interactions.group_by("number").agg(all=pl.len()), on="number")
        .filter(pl.col("agree") == pl.col("all"))
        .sort("dimension")
        .group_by("number", maintain_order=True)
        .agg(dimensions=pl.lit(pl.Series(names, dtype=pl.String)).gather(pl.col("dimension")))
    )
    return numbered.join(shared, on="number", how="left", maintain_order="left").select(
        "example_id", pl.col("dimensions").fill_null([])
    )


def _interactions(examples: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The two relations of `scripts/sql/refine.sql`, with the targets in both as form "target".

    Returns (number, form, position) of all that has text, and (number, form, position, dimension, sign) of its signs
    that are not 0.
    """
    targets = examples.filter(_has_text("chosen"), _has_text("rejected"))
    tables = [targets.select("number", form=pl.lit("target"), position=pl.lit(0, pl.Int64), direction="direction")]
    for form, texts in FORMS.items():
        listed = targets.select("number", form, position=pl.int_ranges(pl.col(form).list.len()))
        items = listed.filter(pl.col(form).list.len() > 0).explode(form, "position").unnest(form)
        items = items.filter(_has_text(text) for text in texts)
        tables.append(items.select("number", pl.lit(form).alias("form"), "position", "direction"))
    table = pl.concat(tables)
    directions = table["direction"].list.explode(empty_as_null=False).to_numpy().reshape(-1, N_DIMENSIONS)
    rows, dimensions = np.nonzero(directions)
    signs = (
        table[rows]
        .select("number", "form", "position")
        .with_columns(dimension=pl.Series(dimensions), sign=pl.Series(directions[rows, dimensions]))
    )
    return table.drop("direction"), signs


def _with_history(examples: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    """The kept examples, each with its history and consistent signs."""
    consistent = np.zeros((kept.height, N_DIMENSIONS), np.int8)
    found = kept.with_row_index("row").explode("dimensions", "signs")
    consistent[found["row"], found["dimensions"]] = found["signs"]
    rows = kept.select("number", "form", "used", consistent=pl.Series(consistent, dtype=DIRECTION)).join(
        examples, on="number", maintain_order="left"
    )
    used = [pl.when(pl.col("form") == form).then("used").otherwise([]) for form in FORMS]
    return rows.with_columns(pl.col(form).list.gather(at) for form, at in zip(FORMS, used, strict=True))


def _has_text(column: str) -> pl.Expr:
    return pl.col(column).str.strip_chars().fill_null("") != ""
