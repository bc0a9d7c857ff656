"""Eq. 5 and 6 with an engine whose numbers are known."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from alignxplore import records
from alignxplore.engines import Completion, Sampling
from alignxplore.formats import Parsed
from alignxplore.judging.judge import Judge, is_correct, position_flip
from alignxplore.judging.offline import judge_preferences, target_ids
from alignxplore.judging.reward import Reward
from alignxplore.methods.given import given_preferences
from alignxplore.prompts import strip_markers


class Templates:
    """Prompts that are tuples of their parts."""

    def judge(self, *parts, written):
        return parts

    def respond(self, *parts):
        return parts


class KnownEngine:
    """Scores responses by their length and the words of the preference; counts its calls."""

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


def test_r_jud_is_the_probability_of_the_chosen_response_in_both_orders():
    found = Judge("jud", KnownEngine(bias=1.0), Templates()).p_chosen(CASES, ["joke", "joke", ""])
    expected = [[sigmoid(2 + 1), sigmoid(2 - 1)], [sigmoid(-0.5 + 1), sigmoid(-0.5 - 1)], [sigmoid(1), sigmoid(-1)]]
    np.testing.assert_allclose(found, expected)
    assert is_correct(found).tolist() == [True, False, False]
    assert position_flip(found).tolist() == [False, True, True]


def test_r_gen_is_equation_5():
    engine = KnownEngine()
    found = Judge("gen", engine, Templates()).p_chosen(CASES, ["joke", "hush", "same"])
    np.testing.assert_allclose(found[:, 0], [sigmoid(2), sigmoid(-2), 0.5])
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    assert is_correct(found).tolist() == [True, False, False]
    halved = Judge("gen", KnownEngine(), Templates(), length_normalised=True).p_chosen(CASES[:1], ["joke"])
    np.testing.assert_allclose(halved[0, 0], sigmoid(2 / 4))


def test_a_reward_needs_the_format_and_the_right_choice():
    engine = KnownEngine()
    parsed = [
        Parsed("r", "joke", True),
        Parsed("r", "joke", False),
        Parsed("r", "hush", True),
        Parsed("s", "joke", True),
    ]
    assert Reward(Judge("jud", engine, Templates()))(parsed, [CASES[0]] * 4) == [1.0, 0.0, 0.0, 1.0]
    assert engine.calls == 4  # two descriptions in two orders
    assert Reward(Judge("jud", engine, Templates()))([Parsed("", "", False)], CASES[:1]) == [0.0]


@pytest.fixture
def cases() -> pl.DataFrame:
    pair = {"prompt": "p", "chosen": "c", "rejected": "r", "direction": [1]}
    common = {
        "dimension": "style",
        "direction": [1],
        "pairs": [pair],
        "ugc": [],
        "golden_preference": "joke",
        "rendered": "",
        "profile": "",
        **records.NO_STREAM,
    }
    rows = [
        {"case_id": "1", "benchmark": name, **common, **target}
        for name, target in (("b", CASES[0]), ("b_reverse", {**CASES[0], "chosen": "hush", "rejected": "joke"}))
    ]
    return pl.DataFrame(rows, schema=records.CASE)


def test_benchmarks_that_share_case_ids_keep_their_own_targets(cases, tmp_path):
    for kind, text in (("none", ""), ("golden", "joke"), ("signals", "1. Post: p\nChosen: c\nRejected: r")):
        preferences = given_preferences(kind, cases, "m")
        assert preferences["preference"].to_list() == [text, text]
        assert preferences["format_ok"].null_count() == 2, "a method without completions has no format"
        records.write(preferences, tmp_path / "preferences.parquet", records.PREFERENCE)
    preferences = given_preferences("golden", cases, "m").with_columns(format_ok=pl.col("benchmark") == "b")
    judged = judge_preferences(Judge("jud", KnownEngine(), Templates()), "j", cases, preferences)
    assert dict(judged.select("benchmark", "format_ok").iter_rows()) == {"b": True, "b_reverse": False}
    assert dict(judged.select("benchmark", "correct").iter_rows()) == {"b": True, "b_reverse": False}
    records.write(judged, tmp_path / "judgements.parquet", records.JUDGEMENT)


def test_the_steps_of_a_stream_share_a_target_and_so_are_drawn_together(cases):
    own = [{**CASES[0], "prompt": post} for post in ("x", "y", "z", "y")]
    streams = ["s", "s", "t", ""]
    rows = [{**cases.row(0, named=True), **t, "stream": s} for t, s in zip(own, streams, strict=True)]
    turned = {**rows[0], "chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"], "chunks": [1, 1]}
    first, second, other, single, after = target_ids(pl.DataFrame([*rows, turned], records.CASE))
    assert first == second == after and other not in (first, single)
    assert first in target_ids(pl.DataFrame([{**row, "stream": ""} for row in rows], records.CASE)).to_list()
    assert target_ids(pl.DataFrame([turned, *rows[::-1]], records.CASE))[0] == first
    known = pl.DataFrame([{**row, "case_id": str(n)} for n, row in enumerate(rows)], records.CASE)
    judge = Judge("jud", KnownEngine(), Templates())
    judged = judge_preferences(judge, "j", known, given_preferences("golden", known, "m")).sort("case_id")
    assert judged["target"].to_list() == [first, second, other, single]


WRITTEN = Sampling(temperature=0.6, top_p=0.95, top_k=0, max_new_tokens=64, seed=3)


class WritingEngine:
    """Answers by a rule of prompt and seed; records what it was asked."""

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def generate(self, prompts, sampling):
        self.asked += [(prompt, sampling.seed) for prompt in prompts]
        return [Completion(self.rule(prompt, sampling.seed), "stop", 1, 1) for prompt in prompts]


def test_a_judge_that_writes_is_asked_at_most_twice():
    def rule(prompt, seed):
        post, preference, first, second = prompt
        if preference == "never" or (preference == "later" and seed == 3):
            return "<think>Response A or Response B?</think> Both are fine."
        best = "A" if "joke" in first else "B"
        return f'<think>{{"selection": "Response B"}} at first</think> {{"selection": "Response {best}"}}'

    engine = WritingEngine(rule)
    found = Judge("jud", engine, Templates(), WRITTEN).p_chosen([CASES[0]] * 3, ["now", "later", "never"])
    np.testing.assert_array_equal(found, [[1, 1], [1, 1], [np.nan, np.nan]])
    assert len(engine.asked) == 6 + 4
    assert is_correct(found).tolist() == [True, True, False]
    rewards = Reward(Judge("jud", engine, Templates(), WRITTEN))([Parsed("r", "never", True)], CASES[:1])
    assert rewards == [0.0]


def test_a_judge_that_refuses_is_not_asked_again():
    class Refusing(WritingEngine):
        def generate(self, prompts, sampling):
            answers = super().generate(prompts, sampling)
            return [replace(answer, finish_reason="refused") if not answer.text else answer for answer in answers]

    engine = Refusing(lambda prompt, seed: "" if "joke" in prompt[2] else "Response B")
    found = Judge("jud", engine, Templates(), WRITTEN).p_chosen([CASES[0]], ["now"])
    np.testing.assert_array_equal(found, [[np.nan, 1]])
    assert [seed for _, seed in engine.asked] == [3, 3]


def test_the_published_protocol_asks_once_in_an_order_that_a_coin_decides():
    cases = [{"prompt": f"post {n}", "chosen": f"joke {n}", "rejected": f"hush {n}"} for n in range(60)]
    reversed_cases = [{**case, "chosen": case["rejected"], "rejected": case["chosen"]} for case in cases]

    def rule(prompt, seed):
        post, preference, first, second = prompt
        if post == "post 5":
            return "Response A"
        best = "A" if "joke" in first or preference == "first" else "B"
        return f'{{"selection": "Response {best}"}}'

    def expected(case, preference):
        shown = sorted([case["chosen"], case["rejected"]])
        if hashlib.sha256(json.dumps([case["prompt"], *shown]).encode()).hexdigest()[1] in "13579bdf":
            shown.reverse()
        reply = rule((case["prompt"], preference, *shown), 3)
        picked = shown["AB".index(reply[-3])] if "{" in reply else None
        return np.nan if picked is None else float(picked == case["chosen"])

    for preference in ("d", "first"):
        engine = WritingEngine(rule)
        judge = Judge("published", engine, Templates(), WRITTEN)
        found = judge.p_chosen(cases, [preference] * 60)
        np.testing.assert_array_equal(found[:, 0], [expected(case, preference) for case in cases])
        np.testing.assert_array_equal(found[:, 0], found[:, 1])
        assert [seed for _, seed in engine.asked] == [3] * 60 and not is_correct(found)[5]
        shown = [prompt[2:] for prompt, _ in engine.asked]
        assert 15 < sum("joke" in first for first, _ in shown) < 45
        judge.p_chosen(reversed_cases, ["other"] * 60)
        assert [prompt[2:] for prompt, _ in engine.asked[60:]] == shown
    assert 0.2 < np.nanmean(found[:, 0]) < 0.8  # a judge that always selects the first is right by chance


class RefusingEngine(KnownEngine):
    """Refuses prompts whose second response is long."""

    def choice_logprobs(self, prompts, choices):
        refused = np.array([prompt[3] == "joke long" for prompt in prompts]).reshape(-1, 1)
        return np.where(refused, np.nan, super().choice_logprobs(prompts, choices))

    def loglikelihood(self, prompts, continuations):
        found = super().loglikelihood(prompts, continuations)
        return [(np.nan, 0) if text == "joke long" else one for one, text in zip(found, continuations, strict=True)]


def test_a_refused_prompt_is_an_order_without_a_verdict(cases, tmp_path):
    preferences = given_preferences("golden", cases, "m")
    long = cases.with_columns(chosen=pl.lit("joke long"), rejected=pl.lit("hush"))
    for kind, unparsed, probabilities in (("jud", [1, 1], (sigmoid(-0.5), 0.5)), ("gen", [2, 2], (0.5, 0.5))):
        judged = judge_preferences(Judge(kind, RefusingEngine(), Templates()), "j", long, preferences)
        assert judged["unparsed"].to_list() == unparsed
        assert not judged["correct"].any() and not judged["position_flip"].any()
        np.testing.assert_allclose(judged.select("p_chosen_ab", "p_chosen_ba").row(0), probabilities)
        records.write(judged, tmp_path / "judgements.parquet", records.JUDGEMENT)
    reward = Reward(Judge("gen", RefusingEngine(), Templates()))
    assert reward([Parsed("r", "joke", True)], [CASES[1]]) == [0.0]


def test_a_refused_preference_is_not_judged(cases):
    engine = KnownEngine()
    refused = given_preferences("golden", cases, "m").with_columns(
        preference=pl.lit("joke"), finish_reason=pl.Series(["stop", "refused"])
    )
    judged = judge_preferences(Judge("jud", engine, Templates()), "j", cases, refused)
    assert judged.select("benchmark", "unparsed", "correct").rows() == [("b", 0, True), ("b_reverse", 2, False)]
    assert engine.calls == 2
    every = refused.with_columns(finish_reason=pl.lit("refused"))
    assert judge_preferences(Judge("jud", engine, Templates()), "j", cases, every)["unparsed"].to_list() == [2, 2]
    assert engine.calls == 2, "if every description is refused, the judge is asked nothing"


def test_orders_without_a_selection_are_counted(cases, tmp_path):
    def rule(prompt, seed):
        return "none" if prompt[2] == "joke" else "I prefer Response A."

    judged = judge_preferences(
        Judge("jud", WritingEngine(rule), Templates(), WRITTEN), "j", cases, given_preferences("golden", cases, "m")
    ).sort("benchmark")
    assert judged["unparsed"].to_list() == [1, 1]
    assert judged.select("p_chosen_ab", "p_chosen_ba").rows() == [(0.5, 0.0), (1.0, 0.5)]
    records.write(judged, tmp_path / "judgements.parquet", records.JUDGEMENT)


def test_the_judge_template_shows_responses_in_the_order_given():
    from pathlib import Path

    from alignxplore.prompts import Templates as Real

    real = Real(judge=Path(__file__).parents[3] / "resources/prompts/judge.jinja")
    first = strip_markers(real.judge("x", "d", "one", "two").user)
    assert first.index("one") < first.index("two")
