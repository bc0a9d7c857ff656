"""Eq. 5 and 6, by an engine whose numbers are known."""

import numpy as np
import polars as pl
import pytest
from alignxplore import records
from alignxplore.formats import Parsed
from alignxplore.inference import given_preferences, judge_preferences
from alignxplore.judging import is_correct, p_chosen, position_flip
from alignxplore.prompts import strip_markers
from alignxplore.rewards import Reward


class Templates:
    """Prompts that hold what they are made of."""

    def judge(self, *parts):
        return parts

    def respond(self, *parts):
        return parts


class KnownEngine:
    """Likes responses by their length and by the words of the preference; counts its calls."""

    def __init__(self, bias: float = 0.0):
        self.bias = bias
        self.calls = 0

    def score(self, preference: str, response: str) -> float:
        return -0.5 * len(response) + 2.0 * sum(word in response for word in preference.split())

    def choice_logprobs(self, prompts, choices):
        assert choices == (" A", " B")
        self.calls += len(prompts)
        scores = [[self.score(p, a) + self.bias, self.score(p, b)] for _, p, a, b in prompts]
        return np.array(scores)

    def loglikelihood(self, prompts, continuations):
        self.calls += len(prompts)
        return [(self.score(d, text), len(text)) for (_, d), text in zip(prompts, continuations, strict=True)]


CASES = [
    {"prompt": "x", "chosen": "joke", "rejected": "hush"},
    {"prompt": "x", "chosen": "joke long", "rejected": "hush"},
    {"prompt": "x", "chosen": "same", "rejected": "same"},
]


def sigmoid(value: float) -> float:
    return 1 / (1 + np.exp(-value))


def test_judged_probability_of_the_chosen_in_both_orders():
    found = p_chosen(KnownEngine(bias=1.0), Templates(), "jud", CASES, ["joke", "joke", ""])
    expected = [[sigmoid(2 + 1), sigmoid(2 - 1)], [sigmoid(-0.5 + 1), sigmoid(-0.5 - 1)], [sigmoid(1), sigmoid(-1)]]
    np.testing.assert_allclose(found, expected)
    assert is_correct(found).tolist() == [True, False, False]
    assert position_flip(found).tolist() == [False, True, True]


def test_gain_margin_is_equation_5():
    engine = KnownEngine()
    found = p_chosen(engine, Templates(), "gen", CASES, ["joke", "hush", "same"])
    np.testing.assert_allclose(found[:, 0], [sigmoid(2), sigmoid(-2), 0.5])
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    assert is_correct(found).tolist() == [True, False, False]
    assert engine.calls == 9  # of 12 scores, those that occur twice are computed once
    halved = p_chosen(KnownEngine(), Templates(), "gen", CASES[:1], ["joke"], length_normalised=True)
    np.testing.assert_allclose(halved[0, 0], sigmoid(2 / 4))


def test_reward_needs_the_format_and_the_right_choice():
    engine = KnownEngine()
    parsed = [
        Parsed("r", "joke", True),
        Parsed("r", "joke", False),
        Parsed("r", "hush", True),
        Parsed("s", "joke", True),
    ]
    assert Reward("jud", engine, Templates())(parsed, [CASES[0]] * 4) == [1.0, 0.0, 0.0, 1.0]
    assert engine.calls == 4  # two descriptions in two orders
    assert Reward("jud", engine, Templates())([Parsed("", "", False)], CASES[:1]) == [0.0]


@pytest.fixture
def cases() -> pl.DataFrame:
    pair = {"prompt": "p", "chosen": "c", "rejected": "r", "direction": [1]}
    common = {"dimension": "style", "direction": [1], "pairs": [pair], "ugc": [], "golden_preference": "joke"}
    rows = [
        {"case_id": "1", "benchmark": name, **common, **target}
        for name, target in (("b", CASES[0]), ("b_reverse", {**CASES[0], "chosen": "hush", "rejected": "joke"}))
    ]
    return pl.DataFrame(rows, schema=records.CASE)


def test_a_case_keeps_its_own_pair_when_benchmarks_share_ids(cases, tmp_path):
    for kind, text in (("none", ""), ("golden", "joke"), ("signals", "1. Post: p\nChosen: c\nRejected: r")):
        preferences = given_preferences(kind, cases, "m")
        assert preferences["preference"].to_list() == [text, text]
        records.write(preferences, tmp_path / "preferences.parquet", records.PREFERENCE)
    judged = judge_preferences(KnownEngine(), Templates(), "jud", "j", cases, given_preferences("golden", cases, "m"))
    assert dict(judged.select("benchmark", "correct").iter_rows()) == {"b": True, "b_reverse": False}
    records.write(judged, tmp_path / "judgements.parquet", records.JUDGEMENT)


def test_templates_mark_what_is_judged():
    from pathlib import Path

    from alignxplore.prompts import Templates as Real

    folder = Path(__file__).parents[2] / "resources/prompts"
    real = Real(*(folder / f"{name}.jinja" for name in ("preference", "concise", "judge", "respond")))
    first = strip_markers(real.judge("x", "d", "one", "two").user)
    assert first.index("one") < first.index("two")
