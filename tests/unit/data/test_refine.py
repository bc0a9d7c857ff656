import polars as pl
import pytest
from alignx_samples import N, direction, random_examples
from alignxplore.data.refine import Rules, key_dimensions, refine
from alignxplore.errors import UserError
from alignxplore.records import EXAMPLE, NO_STREAM, REFINED
from hypothesis import given, settings
from hypothesis import strategies as st


def reference(examples, min_dimensions, history, max_conflicts=0):
    """The rules of refinement in slow and plain Python: (rows, rows left by each rule)."""
    counts = [len(examples), 0] + [0] * 6
    rows = []
    for example in examples:
        if not (example["chosen"].strip() and example["rejected"].strip()):
            continue
        counts[1] += 1
        target = example["direction"]
        for offset, (form, texts) in enumerate([("pairs", ("chosen", "rejected")), ("ugc", ("comment",))]):
            interactions = [i for i in example[form] if all(i[text].strip() for text in texts)]
            if len(interactions) < history:
                continue
            counts[2 + 3 * offset] += 1
            said = [target] + [i["direction"] for i in interactions]
            if sum({-1, 1} <= {values[d] for values in said} for d in range(N)) > max_conflicts:
                continue
            counts[3 + 3 * offset] += 1
            agreeing = [
                i
                for i in interactions
                if sum(t != 0 and t == v for t, v in zip(target, i["direction"], strict=True)) >= min_dimensions
            ]
            used = agreeing[:history]
            if len(used) < history:
                continue
            consistent = [t if all(i["direction"][d] == t for i in used) else 0 for d, t in enumerate(target)]
            if sum(value != 0 for value in consistent) < min_dimensions:
                continue
            counts[4 + 3 * offset] += 1
            rows.append(
                {
                    **example,
                    "pairs": [],
                    "ugc": [],
                    "golden_preference": "",
                    "rendered": "",
                    **NO_STREAM,
                    form: used,
                    "form": form,
                    "consistent": consistent,
                }
            )
    return rows, counts


@pytest.mark.parametrize(("seed", "min_dimensions", "history"), [(1, 5, 4), (2, 5, 4), (3, 2, 1), (4, 7, 2), (5, 1, 6)])
def test_equals_the_slow_reference_row_for_row(seed, min_dimensions, history):
    examples = random_examples(600, seed)
    refined, funnel = refine(examples, Rules(min_dimensions, history))
    rows, counts = reference(examples.to_dicts(), min_dimensions, history)
    assert refined.schema == REFINED
    assert funnel["rows"].to_list() == counts
    assert refined.to_dicts() == rows
    assert {row["form"] for row in rows} == {"pairs", "ugc"}
    assert all(a >= b for a, b in zip(counts[1:4], counts[2:5], strict=True))
    assert len(set(counts)) == len(counts), "the data breaks every rule"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 6), st.integers(0, 3))
def test_equals_the_slow_reference_under_any_rules(seed, min_dimensions, history, max_conflicts):
    examples = random_examples(25, seed)
    refined, funnel = refine(examples, Rules(min_dimensions, history, max_conflicts))
    rows, counts = reference(examples.to_dicts(), min_dimensions, history, max_conflicts)
    assert funnel["rows"].to_list() == counts
    assert refined.to_dicts() == rows


BASE = {f"d{i}": (-1) ** i for i in range(5)}


def example(target, *history):
    pairs = [
        {"prompt": "p", "chosen": f"g{i}", "rejected": "b", "direction": values} for i, values in enumerate(history)
    ]
    row = ("e", "u", "p", "g", "b", target, pairs, [], "", "", "", [])
    return pl.DataFrame([row], schema=EXAMPLE, orient="row")


@pytest.mark.parametrize(
    ("history", "kept"),
    [
        ([BASE, BASE], [0, 1]),
        ([BASE], None),
        ([BASE, {**BASE, "d7": 1}], [0, 1]),
        ([BASE, {**BASE, "d4": 0}], None),
        ([BASE, {**BASE, "d4": -1}], None),
        ([{**BASE, "d7": -1}, {**BASE, "d7": 1}], None),
        ([BASE, {}, BASE], [0, 2]),
        ([BASE, BASE, {"d4": -1}], None),
        ([BASE, BASE, BASE], [0, 1]),
    ],
)
def test_single_rules(history, kept):
    examples = example(direction(**BASE, d8=1), *(direction(**signs) for signs in history))
    refined, _ = refine(examples, Rules(min_dimensions=5, history=2))
    if kept is None:
        assert refined.height == 0
    else:
        (row,) = refined.to_dicts()
        assert [pair["chosen"] for pair in row["pairs"]] == [f"g{i}" for i in kept]
        assert row["consistent"] == direction(**BASE)


def test_key_dimensions_are_those_that_the_whole_history_shares():
    names = [f"name {i}" for i in range(N)]
    shared = example(direction(d0=1), direction(d89=-1, d3=1, d4=1), direction(d3=1, d4=-1, d89=-1))
    with_ugc = shared.with_columns(
        example_id=pl.lit("f"),
        ugc=pl.Series([[{"prompt": "p", "comment": "c", "direction": direction(d3=1)}]], dtype=EXAMPLE["ugc"]),
    )
    nothing = example(direction(d0=1)).with_columns(example_id=pl.lit("a"))
    found = key_dimensions(pl.concat([shared, with_ugc, nothing]), names)
    assert found.rows() == [("e", ["name 3", "name 89"]), ("f", ["name 3"]), ("a", [])]


@pytest.mark.parametrize(
    "lacking",
    [
        example([], direction(d0=1)),
        example(direction(d0=1), direction(d0=1), []),
        example(direction(d0=1)).with_columns(rendered=pl.lit("prompt")),
    ],
)
def test_an_example_without_directions_has_no_key_dimensions(lacking):
    with pytest.raises(UserError, match="example f lacks some: the teacher needs a split with directions"):
        key_dimensions(
            pl.concat([example(direction(d0=1)), lacking.with_columns(example_id=pl.lit("f"))]), ["name"] * N
        )


def test_key_dimensions_may_be_those_of_the_target():
    names = [f"name {i}" for i in range(N)]
    found = key_dimensions(example(direction(d0=1, d89=-1), direction(d3=1)), names, "target")
    assert found["dimensions"].to_list() == [["name 0", "name 89"]]


def test_key_dimensions_of_refined_examples_cover_the_consistent_ones():
    refined, _ = refine(random_examples(300, seed=9), Rules(5, 4))
    pairs = refined.filter(pl.col("form") == "pairs")
    names = [str(i) for i in range(N)]
    for found, row in zip(
        key_dimensions(pairs.select(EXAMPLE.names()), names).to_dicts(),
        pairs.to_dicts(),
        strict=True,
    ):
        assert found["example_id"] == row["example_id"]
        expected = [str(d) for d in range(N) if {pair["direction"][d] for pair in row["pairs"]} in ({1}, {-1})]
        assert found["dimensions"] == expected
        assert {str(d) for d, sign in enumerate(row["consistent"]) if sign} <= set(expected)
