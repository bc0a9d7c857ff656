"""Refinement of AlignX (paper A.1): keep examples whose history is clear about the target."""

from collections.abc import Sequence
from functools import reduce
from operator import mul

import polars as pl

from alignxplore.records import DIRECTION, REFINED

FORMS = {"pairs": ("chosen", "rejected"), "ugc": ("comment",)}
"""The two forms of history, each with the texts that an interaction must have."""


def refine(examples: pl.DataFrame, min_dimensions: int, history: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Select the examples with a clear and consistent history; returns (REFINED, funnel).

    Interactions without text are dropped. An example qualifies in a form ("pairs" or "ugc") if
    - it has at least `history` interactions of that form;
    - no interaction conflicts (opposite non-zero directions) with the target or with another one;
    - the first `history` interactions that agree with the target on `min_dimensions` dimensions
      or more all agree with it on the same `min_dimensions` dimensions or more.
    These interactions become its history, the other form's list is emptied, and `consistent`
    holds the directions that target and history share (0 elsewhere). An example that qualifies
    in both forms gives two rows, pairs first. The funnel (step, rows) counts what each rule
    leaves.
    """
    target = examples.lazy().with_row_index("row").filter(_has_text("chosen") & _has_text("rejected"))
    shared = (pl.col("consistent") * pl.col("consistent")).list.sum()
    steps = {"examples": examples.lazy(), "target with both responses": target}
    results = []
    for form in FORMS:
        enough = target.join(_histories(target, form, min_dimensions, history), on="row").filter(
            pl.col("interactions") >= history
        )
        clear = enough.filter(~pl.col("conflict"))
        usable = clear.filter(pl.col("used").list.len() == history)
        kept = usable.with_columns(consistent=_shared_direction(history)).filter(shared >= min_dimensions)
        steps[f"{form}: at least {history} interactions"] = enough
        steps[f"{form}: no conflicting direction"] = clear
        steps[f"{form}: at least {min_dimensions} shared dimensions"] = kept
        other = next(name for name in FORMS if name != form)
        results.append(
            kept.with_columns(
                pl.lit(form).alias("form"), pl.col("used").alias(form), pl.col(other).list.head(0)
            ).select("row", *REFINED.names())
        )
    refined = pl.concat(results).sort("row", "form").select(REFINED.names())
    rows = pl.collect_all([step.select(pl.len()) for step in steps.values()])
    funnel = pl.DataFrame({"step": list(steps), "rows": [int(count.item()) for count in rows]})
    return refined.collect(), funnel


def key_dimensions(examples: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Key preference dimensions phi (paper 3.2) of each example, as DIMENSIONS rows.

    These are the names, without the sign, of the dimensions on which all of the example's
    history has one and the same non-neutral direction. `names` are the 90 dimensions' names in
    order.
    """
    signals = pl.concat(
        [
            examples.lazy().select("example_id", _directions(form).alias("direction")).explode("direction")
            for form in FORMS
        ]
    ).drop_nulls()
    interactions = signals.group_by("example_id").agg(total=pl.len())
    consistent = (
        signals.select("example_id", mark=_marks())
        .explode("mark")
        .drop_nulls()
        .group_by("example_id", "mark")
        .len()
        .join(interactions, on="example_id")
        .filter(pl.col("len") == pl.col("total"))
        .select("example_id", index=pl.col("mark").abs() - 1)
    )
    table = pl.LazyFrame(
        {"index": range(len(names)), "name": list(names)},
        schema={"index": pl.Int8, "name": pl.String},
    )
    dimensions = (
        consistent.join(table, on="index")
        .sort("index")
        .group_by("example_id", maintain_order=True)
        .agg(dimensions="name")
    )
    return (
        examples.lazy()
        .select("example_id")
        .join(dimensions, on="example_id", how="left", maintain_order="left")
        .with_columns(pl.col("dimensions").fill_null([]))
        .collect()
    )


def _histories(target: pl.LazyFrame, form: str, min_dimensions: int, history: int) -> pl.LazyFrame:
    """Of each row: the number of interactions, whether any directions conflict, which to use."""
    texts = [_has_text(pl.col("item").struct.field(text)) for text in FORMS[form]]
    agreement = (pl.col("target") * pl.col("direction")).list.count_matches(1)
    interactions = (
        target.select("row", target="direction", item=form)
        .explode("item")
        .filter(pl.col("item").is_not_null(), *texts)
        .with_columns(direction=pl.col("item").struct.field("direction"))
        .with_columns(agrees=agreement >= min_dimensions, marks=_marks(), target_marks=_marks("target"))
    )
    marks = pl.concat([pl.col("marks").explode(), pl.col("target_marks").explode()])
    return interactions.group_by("row", maintain_order=True).agg(
        interactions=pl.len(),
        conflict=marks.drop_nulls().n_unique() != marks.drop_nulls().abs().n_unique(),
        used=pl.col("item").filter(pl.col("agrees")).head(history),
    )


def _shared_direction(history: int) -> pl.Expr:
    """The target's direction where each used interaction has the same, 0 elsewhere.

    The product of a direction and itself is 1 where it is not neutral, so target x interaction
    is 1 where they agree; without conflicts it is never -1, and the product over the
    interactions is 1 where all of them agree.
    """
    directions = [pl.col("used").list.get(i).struct.field("direction") for i in range(history)]
    agreement = reduce(mul, (pl.col("direction") * direction for direction in directions))
    return (pl.col("direction") * agreement).cast(DIRECTION)


def _marks(column: str = "direction") -> pl.Expr:
    """A direction as the list of its non-neutral dimensions, numbered from 1 and signed."""
    numbers = pl.int_range(1, pl.len() + 1, dtype=pl.Int8)
    return pl.col(column).list.eval((pl.element() * numbers).filter(pl.element() != 0))


def _directions(form: str) -> pl.Expr:
    return pl.col(form).list.eval(pl.element().struct.field("direction"))


def _has_text(column: str | pl.Expr) -> pl.Expr:
    expression = pl.col(column) if isinstance(column, str) else column
    return expression.str.strip_chars().fill_null("") != ""
