import random

import polars as pl
import pytest
from alignx_samples import N
from alignxplore.data.split import split
from alignxplore.errors import UserError
from alignxplore.records import EXAMPLE, REFINED

SIZES = {"cold": 60, "rl": 100, "test": 40, "test_ugc": 40}


def refined_rows(count, seed=0, up=0.5, users=None, forms=("pairs", "ugc")):
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        consistent = [0] * N
        for index in rng.sample(range(N), rng.randint(5, 9)):
            consistent[index] = 1 if rng.random() < up else -1
        for form in forms:
            user = f"u{number % users if users else number}"
            texts = (f"e{number}", user, f"post {number}", f"good {form}", "bad")
            rows.append((*texts, consistent, [], [], form, consistent))
    return pl.DataFrame(rows, schema=REFINED, orient="row")


def ids(parts, column="example_id"):
    return {name: set(part[column]) for name, part in parts.items()}


@pytest.mark.parametrize("users", [None, 90])
def test_sets_are_full_disjoint_and_of_their_form(users):
    parts = split(refined_rows(400, users=users), SIZES, seed=1)
    assert {name: part.height for name, part in parts.items()} == SIZES
    assert all(part.schema == EXAMPLE for part in parts.values())
    for column in ("example_id", "user_id"):
        members = list(ids(parts, column).values())
        assert sum(map(len, members)) == len(set().union(*members))
    assert {name: set(part["chosen"]) for name, part in parts.items()} == {
        "cold": {"good pairs"},
        "rl": {"good pairs"},
        "test": {"good pairs"},
        "test_ugc": {"good ugc"},
    }


@pytest.mark.parametrize(("count", "up"), [(400, 0.5), (2_000, 0.6), (2_000, 0.35), (241, 0.5)])
def test_directions_are_about_one_to_one(count, up):
    rows = refined_rows(count, up=up)
    for name, part in split(rows, SIZES, seed=3).items():
        signs = part["direction"].explode()
        ups, downs = (signs > 0).sum(), (signs < 0).sum()
        limit = 0.02 if count > SIZES["rl"] * 3 else 0.15
        assert abs(ups - downs) <= limit * (ups + downs) + N / 9, name


def test_order_of_rows_does_not_matter_and_the_seed_does():
    rows = refined_rows(500)
    parts = split(rows, SIZES, seed=1)
    shuffled = split(rows.sample(fraction=1, shuffle=True, seed=7), SIZES, seed=1)
    assert all(parts[name].equals(shuffled[name]) for name in SIZES)
    assert ids(split(rows, SIZES, seed=2)) != ids(parts)


def test_new_rows_move_no_example_to_another_set():
    before = ids(split(refined_rows(1_500), SIZES, seed=1))
    more = pl.concat([refined_rows(1_500), refined_rows(2_500, seed=5)[3_000:]])
    after = ids(split(more.sample(fraction=1, shuffle=True, seed=1), SIZES, seed=1))
    moved = [(a, b) for a in SIZES for b in SIZES if a != b and before[a] & after[b]]
    assert moved == []
    assert all(len(before[name] & after[name]) > SIZES[name] * 0.3 for name in SIZES)


def test_every_example_is_used_where_there_are_just_enough():
    parts = split(refined_rows(sum(SIZES.values())), SIZES, seed=1)
    assert len(set().union(*ids(parts).values())) == sum(SIZES.values())


def test_too_few_examples_name_the_set_and_the_counts():
    rows = pl.concat([refined_rows(500, forms=("pairs",)), refined_rows(30, seed=1, forms=("ugc",))])
    rows = rows.with_columns(user_id=pl.col("user_id") + pl.col("form"))
    with pytest.raises(UserError, match="'test_ugc'.*wants 40 .* only 30 are available"):
        split(rows, SIZES, seed=1)


def test_a_set_of_size_zero_is_empty():
    assert split(refined_rows(300), {**SIZES, "cold": 0}, seed=1)["cold"].height == 0
