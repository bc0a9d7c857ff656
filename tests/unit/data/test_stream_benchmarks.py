"""Benchmarks whose cases are steps of streams: prefixes, another user's signals, and changes of preferences."""

import polars as pl
import pytest
from alignx_samples import direction
from alignxplore import records
from alignxplore.data.benchmarks import psoups_cases, reverse, sample, split_cases, truncate
from alignxplore.data.stream_benchmarks import Drift, Noise, streamed
from alignxplore.data.wording import Wording
from alignxplore.errors import UserError
from test_psoups import COLD, KIND, SIGNALS, record, write
from test_wording import RESOURCES

DIRECTION = direction(d0=1, d1=-1, d2=1, d3=1)


def example(number: int, signals: int = 8, form: str = "pairs"):
    """A user whose signals are named by the user and counted."""

    def signal(place: str):
        texts = {"chosen": f"c{place}", "rejected": f"r{place}"} if form == "pairs" else {"comment": f"c{place}"}
        return {"prompt": f"p{place}", **texts, "direction": DIRECTION}

    history = [signal(f"{number}.{place}") for place in range(signals)]
    return {
        "example_id": f"e{number:02}",
        "user_id": f"u{number}",
        "prompt": f"post {number}",
        "chosen": "good",
        "rejected": "bad",
        "direction": DIRECTION,
        **{"pairs": [], "ugc": [], form: history},
        "golden_preference": "",
        "rendered": "",
        **records.NO_STREAM,
    }


@pytest.fixture(scope="module")
def wording():
    return Wording.load(RESOURCES / "wording.csv")


def cases_of(examples, wording=None):
    return split_cases(pl.DataFrame(examples, records.EXAMPLE), "long", wording)


def steps_of(cases, stream):
    return cases.filter(pl.col("stream") == stream).to_dicts()


def prompts(row):
    return [signal["prompt"] for signal in row["pairs"] + row["ugc"]]


def test_each_case_becomes_a_step_per_chunk_with_the_same_target(wording):
    cases = cases_of([example(1, 8), example(2, 5, "ugc")], wording)
    stream = streamed(cases, "s", 2, seed=1)
    assert stream.schema == records.CASE and set(stream["benchmark"]) == {"s"}
    assert stream["case_id"].n_unique() == stream.height == 4 + 3
    for case in cases.to_dicts():
        own = steps_of(stream, case["case_id"])
        for number, step in enumerate(own, 1):
            assert prompts(step) == prompts(case)[: 2 * number] and sum(step["chunks"]) == len(prompts(step))
            same = ("prompt", "chosen", "rejected", "direction", "golden_preference")
            assert all(step[key] == case[key] for key in same)
        assert own[-1]["chunks"] == ([2, 2, 2, 2] if case["pairs"] else [2, 2, 1])
        assert {**own[-1], "case_id": case["case_id"], "benchmark": "long", **records.NO_STREAM} == case


@pytest.mark.parametrize(("place", "chunks"), [("before", [8, 2, 2, 2]), ("after", [2, 4, 4, 4])])
def test_noise_is_another_users_at_random_places_and_the_same_in_all_steps(place, chunks):
    cases = cases_of([example(number) for number in range(20)])
    noisy = streamed(cases, "s", 2, seed=1, noise=Noise(0.75, place))
    orders = set()
    for case in cases.to_dicts():
        own = steps_of(noisy, case["case_id"])
        assert own[-1]["chunks"] == chunks
        everything = prompts(own[-1])
        assert [p for p in everything if p in prompts(case)] == prompts(case)
        strange = [p for p in everything if p not in prompts(case)]
        assert len(strange) == 6 and len({p.split(".")[0] for p in strange}) == 1
        assert strange == sorted(strange), "the other user's order is kept too"
        assert all(prompts(step) == everything[: sum(step["chunks"])] for step in own)
        assert all(step["prompt"] == case["prompt"] for step in own)
        orders.add(tuple(p in strange for p in everything))
    assert len(orders) > 5
    assert streamed(cases, "s", 2, seed=1, noise=Noise(0.75, place)).equals(noisy)
    assert not streamed(cases, "s", 2, seed=2, noise=Noise(0.75, place)).equals(noisy)


def test_comments_may_be_noise_and_short_histories_are_filled_by_further_users():
    cases = cases_of([example(1, 4, "ugc"), example(2, 1, "ugc"), example(3, 4, "ugc")])
    noisy = streamed(cases, "s", 2, seed=1, noise=Noise(1.0, "before"))
    assert [len(steps_of(noisy, name)[0]["ugc"]) for name in ("e01", "e02", "e03")] == [6, 2, 6]


def test_noise_has_neither_the_targets_post_nor_signals_of_the_same_user():
    mine, again, other = example(1, 4), example(2, 4), example(3, 5)
    again["pairs"][0] = mine["pairs"][3]
    other["pairs"][1]["prompt"] = mine["prompt"]
    noisy = streamed(cases_of([mine, again, other]), "s", 2, seed=1, noise=Noise(1.0, "before"))
    assert prompts(steps_of(noisy, "e01")[0])[-1] == "p1.1"
    strange = [post for post in prompts(steps_of(noisy, "e01")[-1]) if not post.startswith("p1.")]
    assert strange == ["p3.0", "p3.2", "p3.3", "p3.4"]


def test_a_higher_limit_keeps_the_noise_of_earlier_cases(tmp_path):
    persona = [record({0: KIND, 1: COLD}[n % 2]) | {"prompt": f"post {n}"} for n in range(30)]
    for number, raw in enumerate(persona):
        raw["Pair-wise Comparative Feedback"] = [
            {"prompt": f"{number} {place}", "chosen": "a", "rejected": "b"} for place in range(4)
        ]
    soups = psoups_cases(write(tmp_path / "style.json", persona), "style", "style", "witty", SIGNALS)
    for cases in (soups, cases_of([example(number) for number in range(30)])):
        few, more, every = (
            streamed(sample(cases, limit), "s", 2, seed=1, noise=Noise(0.5, "after")) for limit in (5, 12, None)
        )
        assert every.filter(pl.col("stream").is_in(few["stream"].implode())).equals(few)
        assert every.filter(pl.col("stream").is_in(more["stream"].implode())).equals(more)
        assert few["stream"].n_unique() == 5 and more["stream"].n_unique() == 12


def test_a_limit_counts_streams():
    stream = streamed(cases_of([example(number, 4) for number in range(9)]), "s", 2, seed=1)
    few = sample(stream, 3)
    assert few.height == 6 and few["stream"].n_unique() == 3
    assert few.equals(stream.filter(pl.col("stream").is_in(few["stream"].implode())))


def test_preferences_flip_from_the_chunk_on(wording):
    cases = cases_of([example(number) for number in range(10)], wording)
    drifting = streamed(cases, "s", 2, seed=1, drift=Drift(3, 0.75), wording=wording)
    flipped_sets = set()
    for case in cases.to_dicts():
        first, second, third, fourth = steps_of(drifting, case["case_id"])
        for step in (first, second):
            assert (step["chosen"], step["golden_preference"]) == ("good", wording.describe(DIRECTION))
        for step in (third, fourth):
            assert (step["chosen"], step["rejected"]) == ("bad", "good")
            flipped = [place for place in range(90) if step["direction"][place] != DIRECTION[place]]
            assert len(flipped) == 3 and all(step["direction"][place] == -DIRECTION[place] for place in flipped)
            assert step["golden_preference"] == wording.describe(step["direction"])
        assert third["direction"] == fourth["direction"]
        flipped_sets.add(tuple(flipped))
        assert [pair["chosen"][0] for pair in fourth["pairs"]] == ["c"] * 4 + ["r"] * 4
        assert [pair["direction"] for pair in fourth["pairs"][3:5]] == [DIRECTION, [-sign for sign in DIRECTION]]
        assert prompts(fourth) == prompts(case)
    assert len(flipped_sets) > 1


def test_a_pair_follows_most_of_its_dimensions():
    users = [example(number) for number in range(4)]
    for user in users:
        user["pairs"][7] = {**user["pairs"][7], "direction": direction(d0=1)}
    half = streamed(cases_of(users), "s", 2, seed=1, drift=Drift(2, 0.5))
    turned = []
    for user in users:
        last = steps_of(half, user["example_id"])[-1]
        assert (last["chosen"], last["pairs"][2]["chosen"][0]) == ("good", "c"), "half of them is not most"
        flips_first = last["direction"][0] != DIRECTION[0]
        assert last["pairs"][7]["chosen"].startswith("r" if flips_first else "c")
        turned.append(flips_first)
    assert len(set(turned)) == 2


def test_a_psoups_user_takes_the_other_persona(tmp_path):
    path = write(tmp_path / "style.json", [record(), record(COLD)])
    cases = psoups_cases(path, "style", "style", "witty", SIGNALS).with_columns(profile=pl.lit("x"))
    chunks = cases["pairs"].list.len()[0]
    drifting = streamed(cases, "s", 1, seed=1, drift=Drift(chunks, 0.3))
    before, after = steps_of(drifting, cases["case_id"][0])[-2:]
    assert (before["golden_preference"], before["direction"], before["profile"]) == (KIND, [1], "x")
    assert (after["golden_preference"], after["direction"], after["profile"]) == (COLD, [-1], "")
    assert after["chosen"] == before["rejected"]
    assert after["pairs"][-1]["chosen"] == cases["pairs"][0][-1]["rejected"]
    assert after["pairs"][:-1] == before["pairs"]


def test_noise_does_not_drift():
    cases = cases_of([example(1), example(2)])
    both = streamed(cases, "s", 2, seed=1, noise=Noise(0.75, "after"), drift=Drift(2, 1.0))
    for pair in steps_of(both, "e01")[-1]["pairs"]:
        number, place = pair["prompt"][1:].split(".")
        assert pair["chosen"].startswith("r" if number == "1" and int(place) >= 2 else "c")


@pytest.mark.parametrize(
    ("examples", "settings", "message"),
    [
        ([example(1, 3)], {"chunk": 4}, "benchmark 's': no case has more than 3 signals: lower 'chunk'"),
        ([example(1)], {"drift": Drift(5, 1.0)}, "benchmark 's': no case has 5 chunks, so none drifts"),
        ([example(1, 4, "ugc")], {"drift": Drift(2, 1.0)}, "a user with comments cannot drift"),
        ([{**example(1), "direction": []}], {"drift": Drift(2, 1.0)}, "the directions of every pair, but case e01"),
        ([example(1, 2)], {"noise": Noise(0.5, "after")}, "no case has a second chunk for noise"),
        ([example(1)], {"noise": Noise(0.5, "after")}, "4 signals of other users are needed, but they have 0"),
        ([example(1, 4) | {"ugc": example(1, 4, "ugc")["ugc"]}], {"noise": Noise(0.5, "after")}, "e01 has both"),
        ([{**example(1, 0), "rendered": "prompt"}], {}, "needs signals, but those of 'long' are a rendered prompt"),
    ],
)  # fmt: skip
def test_what_cannot_be_streamed(examples, settings, message):
    with pytest.raises(UserError, match=message):
        streamed(cases_of(examples), "s", **{"chunk": 2, "seed": 1, **settings})


def test_streams_are_streamed_or_truncated_no_further_but_can_be_reversed(wording):
    stream = streamed(cases_of([example(1), example(2)], wording), "s", 2, seed=1)
    with pytest.raises(UserError, match="the cases of 's' are steps of streams already"):
        streamed(stream, "t", 2, seed=1)
    with pytest.raises(UserError, match="the steps of a stream have prefixes of its signals already"):
        truncate(stream, "t", 2)
    turned = reverse(stream, "t", wording)
    assert turned["chunks"].equals(stream["chunks"]) and turned["chosen"].equals(stream["rejected"], check_names=False)
