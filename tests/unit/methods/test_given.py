"""Methods that ask no model."""

import polars as pl
import pytest
from alignxplore.errors import UserError
from alignxplore.methods.given import GIVEN, given_preferences
from method_samples import cases


def test_signals_hold_pairs_and_comments():
    pair = {"prompt": "Any advice?", "chosen": "Try jazz.", "rejected": "Use earplugs."}
    comment = {"prompt": "A bad cold.", "comment": "Have some soup."}
    assert GIVEN["signals"]({"pairs": [pair], "ugc": [comment]}) == (
        "1. Post: Any advice?\nChosen: Try jazz.\nRejected: Use earplugs.\n"
        "2. Post: A bad cold.\nComment: Have some soup."
    )


def test_liked_holds_chosen_texts_and_comments_alone():
    pairs = [{"prompt": "p", "chosen": text, "rejected": f"not {text}"} for text in ("Try jazz.", "Some tea.")]
    comment = {"prompt": "A bad cold.", "comment": "Have some soup."}
    assert GIVEN["liked"]({"pairs": pairs, "ugc": [comment]}) == "Try jazz.\nSome tea.\nHave some soup."


@pytest.mark.parametrize("kind", GIVEN)
def test_what_a_method_needs_of_a_case_is_named_if_it_lacks_it(kind):
    neutral = cases(["a"])
    unknown = neutral.with_columns(direction=pl.lit([], pl.List(pl.Int8)))
    rendered = neutral.with_columns(pairs=pl.col("pairs").list.head(0), rendered=pl.lit("prompt"))
    assert given_preferences(kind, neutral, "m").height == 1
    for lacking, kinds, needed in (
        (unknown, ["golden"], "methods.m needs golden preferences, but case 0 of 'b' has none, and no directions"),
        (rendered, ["signals", "liked"], "methods.m needs signals, but those of 'b' are a rendered prompt"),
    ):
        if kind in kinds:
            with pytest.raises(UserError, match=needed):
                given_preferences(kind, pl.concat([neutral, lacking]), "m")
        else:
            assert given_preferences(kind, lacking, "m").height == 1
