import random

import polars as pl
import pytest
from alignx_samples import N
from alignxplore.data.split import check_held_out, split, split_keys, summary, take
from alignxplore.errors import UserError
from alignxplore.records import EXAMPLE, REFINED

SIZES = {"cold": 60, "rl": 100, "test": 40, "test_ugc": 40}
SHARES = {"cold": 6, "rl": 10, "test": 4, "test_ugc": 4}


def refined_rows(count, seed=0, up=0.5, users=None, posts=None, forms=("pairs", "ugc"), shared_signals=0):
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        consistent = [0] * N
        for index in rng.sample(range(N), rng.randint(5, 9)):
            consistent[index] = 1 if rng.random() < up else -1
        for form in forms:
            user = f"u{number % users if users else number} {form}"
            post = f"post {number % posts if posts else number}"
            texts = (f"e{seed}.{number}", user, post, f"good {form}", "bad")
            signal = rng.randrange(shared_signals) if shared_signals else f"{seed}.{number} {form}"
            item = {"prompt": f"q {signal} {form}", "direction": consistent}
            pairs = [{**item, "chosen": "c", "rejected": "r"}] if form == "pairs" else []
            ugc = [{**item, "comment": "c"}] if form == "ugc" else []
            rows.append((*texts, consistent, pairs, ugc, "", "", "", [], form, consistent))
    return pl.DataFrame(rows, schema=REFINED, orient="row")


def splits(rows, sizes=SIZES, seed=1, balance=0.5):
    keys = split_keys(rows.lazy())
    return {n: take(rows.lazy(), split(keys, n, size, SHARES, seed, balance)) for n, size in sizes.items()}


def ids(parts, column="example_id"):
    return {name: set(part[column]) for name, part in parts.items()}


@pytest.mark.parametrize(
    "shared", [{}, {"users": 400}, {"posts": 150}, {"users": 500, "posts": 300}, {"shared_signals": 900}]
)
def test_splits_are_full_disjoint_and_of_their_form(shared):
    parts = splits(refined_rows(1000, **shared))
    assert {name: part.height for name, part in parts.items()} == SIZES
    assert all(part.schema == EXAMPLE for part in parts.values())
    members = {
        "user": ids(parts, "user_id"),
        "post": ids(parts, "prompt"),
        "signal": {
            name: {i["prompt"] for f in ("pairs", "ugc") for i in part[f].explode().drop_nulls()}
            for name, part in parts.items()
        },
    }
    for kind, found in members.items():
        assert sum(map(len, found.values())) == len(set().union(*found.values())), kind
    assert {name: set(part["chosen"]) for name, part in parts.items()} == {
        "cold": {"good pairs"},
        "rl": {"good pairs"},
        "test": {"good pairs"},
        "test_ugc": {"good ugc"},
    }
    assert not any(summary(parts, parts)["shares"])


@pytest.mark.parametrize("column", ["user_id", "prompt", "pairs"])
def test_what_crosses_between_sets_is_named(column):
    parts = splits(refined_rows(800))
    stolen = parts["rl"][column][0]
    value = pl.lit(stolen) if isinstance(stolen, str) else pl.Series([stolen.to_list()], dtype=EXAMPLE[column])
    cold = parts["cold"]
    parts["cold"] = pl.concat([cold.head(-1), cold.tail(1).with_columns(value.alias(column))])
    kind = {"user_id": "user", "prompt": "target post", "pairs": "history pair"}[column]
    with pytest.raises(UserError, match=f"the splits 'cold' and 'rl' share a {kind}: "):
        summary(parts, parts)


@pytest.mark.parametrize(("count", "up"), [(800, 0.5), (2_000, 0.6), (2_000, 0.35)])
def test_directions_are_about_one_to_one(count, up):
    for name, part in splits(refined_rows(count, up=up), seed=3, balance=0.05).items():
        signs = part["direction"].explode()
        ups, downs = (signs > 0).sum(), (signs < 0).sum()
        assert abs(ups - downs) <= 0.02 * (ups + downs) + N / 9, name


def test_directions_that_cannot_be_balanced_stop_the_run():
    with pytest.raises(UserError, match=r"data.splits.\w+: \d+ of \d+ directions .* data.balance = 0.05"):
        splits(refined_rows(800, up=0.95), balance=0.05)


def test_order_of_rows_does_not_matter_and_the_seed_does():
    rows = refined_rows(800)
    parts = splits(rows)
    shuffled = splits(rows.sample(fraction=1, shuffle=True, seed=7))
    assert all(parts[name].equals(shuffled[name]) for name in SIZES)
    assert ids(splits(rows, seed=2)) != ids(parts)


@pytest.mark.parametrize("posts", [None, 300])
def test_new_rows_move_no_example_to_another_set(posts):
    old = refined_rows(1_500, posts=posts)
    before = ids(splits(old))
    more = pl.concat([old, refined_rows(1_000, seed=5, posts=posts)])
    after = ids(splits(more.sample(fraction=1, shuffle=True, seed=1)))
    moved = [(a, b) for a in SIZES for b in SIZES if a != b and before[a] & after[b]]
    assert moved == []
    assert all(len(before[name] & after[name]) > SIZES[name] * 0.3 for name in SIZES)


def test_the_size_of_a_set_touches_no_other_and_a_larger_set_holds_the_smaller():
    rows = refined_rows(1_500, users=700)
    before = splits(rows)
    after = splits(rows, {**SIZES, "test": 60})
    assert all(before[name].equals(after[name]) for name in SIZES if name != "test")
    assert len(ids(before)["test"] & ids(after)["test"]) >= 38  # the last of the smaller may give way for balance


def test_splits_are_counted_where_they_are_disjoint():
    parts = splits(refined_rows(1_000))
    counts = summary(parts, parts)
    assert dict(counts.select("set", "examples").iter_rows()) == SIZES
    assert (counts["users"] == counts["examples"]).all()
    assert (counts["preferred"] + counts["non_preferred"] >= 5 * counts["examples"]).all()


def test_too_few_examples_name_the_set_and_the_counts():
    rows = pl.concat([refined_rows(500, forms=("pairs",)), refined_rows(30, seed=1, forms=("ugc",))])
    with pytest.raises(
        UserError, match=r"splits.test_ugc.size: 40 examples .* only \d+ of the 30 with a history of ugc fall"
    ):
        splits(rows)


def test_texts_are_not_among_the_keys():
    keys = split_keys(refined_rows(5).lazy())
    assert keys.columns == ["example_id", "form", "user_id", "post", "signals", "up", "down"]
    assert keys["signals"].list.len().to_list() == [1] * 10


REST = {"parent": ("rl", SIZES["rl"]), "shares": SHARES, "seed": 1, "balance": 0.5}


@pytest.mark.parametrize("shared", [{}, {"users": 600}, {"posts": 500}, {"shared_signals": 2_000}])
def test_the_rest_of_a_split_shares_nothing_with_it_or_others(shared):
    rows = refined_rows(1_500, **shared)
    parts = splits(rows)
    rest = take(rows.lazy(), split(split_keys(rows.lazy()), "held_out", 30, **REST))
    assert rest.height == 30 and set(rest["chosen"]) == {"good pairs"}
    counts = summary({**parts, "held_out": rest}, [*parts, "held_out"])
    assert not any(counts["shares"])


def test_a_larger_split_leaves_most_of_its_rest():
    keys = split_keys(refined_rows(1_500).lazy())
    before = split(keys, "held_out", 30, **REST)
    after = split(keys, "held_out", 30, **{**REST, "parent": ("rl", SIZES["rl"] + 20)})
    assert len(set(before["example_id"]) & set(after["example_id"])) >= 28  # some may give way for balance


def test_a_rest_that_is_too_small_names_both_splits():
    keys = split_keys(refined_rows(800).lazy())
    with pytest.raises(UserError, match=r"splits.held_out.size: 900 .* only \d+ of the \d+ that fall to 'rl' share"):
        split(keys, "held_out", 900, **REST)


def test_what_is_trained_on_is_not_held_out(caplog):
    parts = splits(refined_rows(800))
    check_held_out(parts["test"], parts["rl"], "x")
    assert not caplog.text
    with pytest.raises(UserError, match="x is not held out: it shares 1 user, 1 target post, 1 history pair with"):
        check_held_out(pl.concat([parts["test"], parts["rl"].head(1)]), parts["rl"], "x")
    same_history = parts["rl"].head(1).with_columns(user_id=pl.lit("another"), prompt=pl.lit("another"))
    check_held_out(same_history, parts["rl"], "x")
    assert "x shares 1 history pair with the examples to train on" in caplog.text
