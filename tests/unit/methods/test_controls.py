"""Controls: the opposite and another user's golden description."""

from collections import Counter

import polars as pl
import pytest
from alignx_samples import random_examples
from alignxplore import records
from alignxplore.data.benchmarks import psoups_cases, reverse, split_cases
from alignxplore.data.psoups import Signals
from alignxplore.errors import UserError
from alignxplore.methods.controls import opposite_preferences, shuffled_preferences
from method_samples import PUBLISHED, WORDING, needs_published, written


def described(*texts: str, benchmark: str = "b") -> pl.DataFrame:
    """One case per golden description."""
    target = {
        "dimension": "",
        "direction": [1] * 90,
        "pairs": [],
        "ugc": [],
        "rendered": "",
        "profile": "",
        **records.NO_STREAM,
        "prompt": "p",
    }
    rows = [
        {"case_id": f"{number}", "benchmark": benchmark, "chosen": "c", "rejected": "r", "golden_preference": text}
        | target
        for number, text in enumerate(texts)
    ]
    return pl.DataFrame(rows, schema=records.CASE)


def texts_by_case(preferences: pl.DataFrame) -> dict[tuple[str, str], str]:
    rows = preferences.select("benchmark", "case_id", "preference").iter_rows()
    return {(benchmark, case): text for benchmark, case, text in rows}


def test_the_opposite_is_the_golden_preference_of_the_reversed_benchmark(tmp_path):
    cases = split_cases(random_examples(30, seed=1), "alignx_test", WORDING)
    found = opposite_preferences(cases, "m", WORDING)
    assert cases["ugc"].list.len().sum() > 0, "comments cannot be reversed, but what their users like can"
    turned = reverse(cases.with_columns(pl.col("ugc").list.head(0)), "turned", WORDING)
    assert found["preference"].to_list() == turned["golden_preference"].to_list()
    assert not (found["preference"] == cases["golden_preference"]).any()
    assert {row["completion_tokens"] for row in written(found, tmp_path)} == {0}


def test_the_opposite_of_a_persona_is_the_other_one():
    cases = described("witty", "dry", "witty").with_columns(
        dimension=pl.lit("style"), direction=pl.Series([[1], [-1], [1]], dtype=records.DIRECTION)
    )
    assert opposite_preferences(cases, "m", WORDING)["preference"].to_list() == ["dry", "witty", "dry"]
    with pytest.raises(UserError, match="P-SOUPS dimension 'style' needs one persona in each direction"):
        opposite_preferences(cases.filter(golden_preference="witty"), "m", WORDING)


def test_controls_of_cases_without_directions():
    known = described("a", "b").with_columns(direction=pl.lit([], pl.List(pl.Int8)))
    assert texts_by_case(shuffled_preferences(known, "m", 1)) == {("b", "0"): "b", ("b", "1"): "a"}
    with pytest.raises(UserError, match=r"methods.m needs directions, but case 0 of 'b' has none .* data.wording"):
        opposite_preferences(known, "m", WORDING)
    with pytest.raises(UserError, match="methods.m needs directions, but case 0"):
        opposite_preferences(described("a"), "m", None)
    with pytest.raises(UserError, match="methods.m needs golden preferences, but case 0"):
        shuffled_preferences(known.with_columns(golden_preference=pl.lit("")), "m", 1)


@pytest.mark.parametrize("texts", ["abcdefgh", "aabbc", "aaabbb", "aabbaabb", "ab"])
def test_no_case_gets_its_own_text_and_every_text_is_given_once(texts, tmp_path):
    cases = described(*texts)
    for seed in range(20):
        found = texts_by_case(shuffled_preferences(cases, "m", seed))
        own = texts_by_case(cases.with_columns(preference="golden_preference"))
        assert Counter(found.values()) == Counter(own.values()) and found.keys() == own.keys()
        assert not any(found[case] == own[case] for case in own)
    assert len(written(shuffled_preferences(cases, "m", 1), tmp_path)) == len(texts)


def test_a_text_of_most_cases_is_replaced_by_the_others_evenly():
    cases = described(*"aaaaaaaabc")
    found = texts_by_case(shuffled_preferences(cases, "m", 1))
    assert set(found.values()) == {"a", "b", "c"}
    given = Counter(text for case, text in found.items() if int(case[1]) < 8)
    assert set(given) == {"b", "c"} and max(given.values()) - min(given.values()) <= 2
    assert found["b", "8"] == found["b", "9"] == "a"
    assert set(texts_by_case(shuffled_preferences(described(*"aaa"), "m", 1)).values()) == {"a"}


def test_a_shuffle_depends_on_seed_and_ids_alone_and_stays_in_its_benchmark():
    first, second = described(*"abcdefgh"), described(*"ijklmnop", benchmark="c")
    found = texts_by_case(shuffled_preferences(pl.concat([first, second]), "m", 1))
    assert {text for (benchmark, _), text in found.items() if benchmark == "c"} == set("ijklmnop")
    mixed = pl.concat([second.reverse(), first.sample(fraction=1, shuffle=True, seed=3)])
    assert texts_by_case(shuffled_preferences(mixed, "m", 1)) == found
    assert texts_by_case(shuffled_preferences(mixed, "m", 2)) != found


@needs_published
def test_controls_of_the_published_file():
    """Its two personas have equally many cases, so another text is always the other persona's."""
    cases = psoups_cases(PUBLISHED, "psoups_style", "style", "friendly, witty", Signals(4, seed=1))
    own = texts_by_case(cases.with_columns(preference="golden_preference"))
    opposite = texts_by_case(opposite_preferences(cases, "m", WORDING))
    assert len(set(own.values())) == 2 and not any(own[case] == opposite[case] for case in own)
    shuffled = texts_by_case(shuffled_preferences(cases, "m", 1))
    assert not any(own[case] == shuffled[case] for case in own)
