import polars as pl
import pytest
from alignx_samples import direction, random_examples
from alignxplore import records
from alignxplore.data.benchmarks import psoups_cases, reverse, split_cases, truncate
from alignxplore.data.wording import Wording
from alignxplore.errors import UserError
from test_psoups import COLD, KIND, REAL, SIGNALS, record, write
from test_wording import RESOURCES


@pytest.fixture(scope="module")
def wording():
    return Wording.load(RESOURCES / "wording.csv")


@pytest.fixture
def alignx(wording):
    examples = random_examples(40, seed=1).with_columns(pl.col("ugc").list.head(0))
    return split_cases(examples, "alignx_test", wording)


@pytest.fixture
def psoups(tmp_path):
    path = write(tmp_path / "style.json", [record(), record(COLD), record()])
    return psoups_cases(path, "psoups_style", "style", "witty", SIGNALS)


def test_split_cases(wording):
    examples = random_examples(5, seed=1).with_columns(
        direction=pl.Series([direction(d0=1, d89=-1)] * 5, dtype=records.DIRECTION)
    )
    cases = split_cases(examples, "alignx_test", wording)
    assert cases.schema == records.CASE
    assert cases["case_id"].equals(examples["example_id"], check_names=False)
    assert set(cases["golden_preference"]) == {"This person: younger, dislikes fashion."}
    assert set(cases["benchmark"]) == {"alignx_test"} and set(cases["dimension"]) == {""}
    assert cases["pairs"].equals(examples["pairs"]) and cases["ugc"].equals(examples["ugc"])


def test_reversal_swaps_targets_and_signals(alignx, wording):
    turned = reverse(alignx, "alignx_test_reverse", wording)
    assert turned.schema == records.CASE
    assert set(turned["benchmark"]) == {"alignx_test_reverse"}
    for old, new in zip(alignx.to_dicts(), turned.to_dicts(), strict=True):
        assert (new["case_id"], new["prompt"]) == (old["case_id"], old["prompt"])
        assert (new["chosen"], new["rejected"]) == (old["rejected"], old["chosen"])
        assert new["direction"] == [-value for value in old["direction"]]
        assert new["golden_preference"] == wording.describe(new["direction"])
        for before, after in zip(old["pairs"], new["pairs"], strict=True):
            assert (after["chosen"], after["rejected"]) == (before["rejected"], before["chosen"])
            assert after["prompt"] == before["prompt"]
            assert after["direction"] == [-value for value in before["direction"]]


def test_reversed_psoups_takes_the_other_persona(psoups, wording):
    turned = reverse(psoups, "psoups_style_reverse", wording)
    assert turned["golden_preference"].to_list() == [COLD, KIND, COLD]
    assert turned["direction"].to_list() == [[-1], [1], [-1]]
    assert turned["case_id"].equals(psoups["case_id"])


def twice(cases, wording):
    return reverse(reverse(cases, "other", wording), cases["benchmark"][0], wording)


def same_bytes(left, right, folder):
    for name, cases in {"left": left, "right": right}.items():
        records.write(cases, folder / name, records.CASE)
    return (folder / "left").read_bytes() == (folder / "right").read_bytes()


def test_reversing_twice_gives_the_original_bytes(alignx, psoups, wording, tmp_path):
    for cases in (alignx, psoups, alignx.clear()):
        again = reverse(reverse(cases, "other", wording), "back", wording)
        assert same_bytes(cases.with_columns(benchmark=pl.lit("back"), profile=pl.lit("")), again, tmp_path)


@pytest.mark.skipif(not REAL.exists(), reason=f"THE PUBLISHED P-SOUPS FILE IS NOT THERE: {REAL}")
def test_reversing_the_published_file_twice(wording, tmp_path):
    cases = psoups_cases(REAL, "psoups_style", "style", "friendly, witty", SIGNALS)
    turned = reverse(cases, "psoups_style_reverse", wording)
    assert turned["golden_preference"].n_unique() == 2
    assert not (turned["golden_preference"] == cases["golden_preference"]).any()
    assert same_bytes(cases.with_columns(profile=pl.lit("")), twice(cases, wording), tmp_path)


def test_a_profile_is_of_the_case_and_not_of_its_reversal(tmp_path, wording):
    path = write(tmp_path / "style.json", [record() | {"profile": "Likes humor"}, record(COLD) | {"profile": None}])
    cases = psoups_cases(path, "psoups_style", "style", "witty", SIGNALS)
    assert cases["profile"].to_list() == ["Likes humor", ""]
    assert cases["case_id"].equals(
        psoups_cases(write(path, [record(), record(COLD)]), "b", "style", "witty", SIGNALS)["case_id"]
    )
    assert reverse(cases, "r", wording)["profile"].to_list() == ["", ""]


def test_what_cannot_be_reversed(psoups, wording):
    with_ugc = split_cases(random_examples(20, seed=1), "alignx_test_ugc", wording)
    with pytest.raises(UserError, match="'r': comments cannot be reversed"):
        reverse(with_ugc, "r", wording)
    one_sided = psoups.filter(pl.col("golden_preference") == KIND)
    with pytest.raises(UserError, match="P-SOUPS dimension 'style' needs one persona in each direction"):
        reverse(one_sided, "r", wording)


def test_cases_without_directions_keep_their_own_golden_preference(wording):
    examples = random_examples(3, seed=1).with_columns(
        direction=pl.Series([[], [], direction(d0=1)], dtype=records.DIRECTION),
        golden_preference=pl.Series(["kind", "", "own"]),
        ugc=pl.col("ugc").list.head(0),
    )
    cases = split_cases(examples, "mine", wording)
    assert cases["golden_preference"].to_list() == ["kind", "", "own"]
    assert split_cases(examples, "mine", None).equals(cases)
    turned = reverse(cases, "turned", wording)
    assert turned["golden_preference"].to_list() == ["", "", wording.describe(direction(d0=-1))]
    assert turned["chosen"].equals(cases["rejected"], check_names=False)
    assert turned["direction"].to_list()[:2] == [[], []]


def test_a_rendered_prompt_can_be_neither_reversed_nor_truncated(alignx, wording):
    rendered = alignx.with_columns(pairs=pl.col("pairs").list.head(0), rendered=pl.lit("prompt"))
    for change in (lambda: reverse(rendered, "r", wording), lambda: truncate(rendered, "r", 1)):
        with pytest.raises(UserError, match="benchmark 'r' needs signals, but those of 'alignx_test' are a rendered"):
            change()


def test_truncation_keeps_the_first_signals(alignx, wording):
    short = truncate(alignx, "alignx_test_2", 2)
    assert short.schema == records.CASE and set(short["benchmark"]) == {"alignx_test_2"}
    for old, new in zip(alignx.to_dicts(), short.to_dicts(), strict=True):
        assert new == {**old, "benchmark": "alignx_test_2", "pairs": old["pairs"][:2]}
    most = alignx["pairs"].list.len().max()
    with pytest.raises(UserError, match=f"'alignx_test_9': no case has more than {most} signals"):
        truncate(alignx, "alignx_test_9", most)


def test_truncation_takes_pairs_before_comments(wording):
    cases = split_cases(random_examples(20, seed=2), "mixed", wording)
    assert set(cases["ugc"].list.len()) != {0}
    for keep in (1, 3, 5):
        for old, new in zip(cases.to_dicts(), truncate(cases, "short", keep).to_dicts(), strict=True):
            assert (old["pairs"] + old["ugc"])[:keep] == new["pairs"] + new["ugc"]
