"""Online evaluation: which cases are drawn, and which method wins."""

import numpy as np
import polars as pl
import pytest
from alignxplore import records
from alignxplore.engines.base import Completion, Sampling
from alignxplore.errors import UserError
from alignxplore.judging.judge import Judge
from alignxplore.judging.online import compare, draw_cases, respond
from alignxplore.prompts import Templates
from alignxplore.results import queries, tables

TEMPLATES = Templates(**{name: f"resources/prompts/{name}.jinja" for name in ("judge", "respond")})


def cases(size=30):
    rows = [
        {
            "benchmark": benchmark,
            "case_id": str(index),
            "prompt": f"post {index // 2}",
            "chosen": "no" if index % 2 else "yes",
            "rejected": "yes" if index % 2 else "no",
            "direction": [1],
            "golden_preference": "likes long",
            "stream": "",
        }
        for benchmark in ("a", "b", "c")
        for index in range(size)
    ]
    return pl.DataFrame(rows)


def test_a_larger_sample_contains_a_smaller_one():
    groups = [["a"], ["b", "c"]]
    small, large = draw_cases(cases(), groups, 10, seed=1), draw_cases(cases(), groups, 20, seed=1)
    assert small.height == 20 and large.height == 40
    assert set(small.select("benchmark", "case_id").rows()) <= set(large.select("benchmark", "case_id").rows())
    assert small.filter(pl.col("benchmark") == "a").height == 10
    assert draw_cases(cases(), groups, 10, seed=2).rows() != small.rows()
    shuffled = draw_cases(cases().reverse(), groups, 10, seed=1)
    assert shuffled.rows() == small.rows()


class LongerWins:
    """A judge that selects the longer response, with a bias towards the one shown first."""

    def choice_logprobs(self, prompts, choices):
        result = []
        for prompt in prompts:
            first, second = (prompt.user.split(f"Response {name}: ")[1].split("\n")[0] for name in "AB")
            bias = len(first) - len(second) + 1.5
            result.append([bias, 0.0])
        return np.array(result, float)


def responses(method, texts):
    return pl.DataFrame(
        [
            {
                "case_id": str(i),
                "benchmark": "a",
                "method": method,
                "response": text or "",
                "finish_reason": "stop" if text is not None else "refused",
            }
            for i, text in enumerate(texts)
        ]
    )


def test_position_does_not_decide_and_equal_responses_tie():
    first = responses("x", ["a long answer", "short", "same", "abcd"])
    second = responses("y", ["short", "a long answer", "same", "abce"])
    wins = compare(Judge("jud", LongerWins(), TEMPLATES), "judge", cases(), first, second)
    assert wins["outcome"].to_list()[:3] == ["a", "b", "tie"]
    mirrored = compare(Judge("jud", LongerWins(), TEMPLATES), "judge", cases(), second, first)
    assert mirrored["outcome"].to_list()[:3] == ["b", "a", "tie"]
    assert wins["p_a_ab"].to_list() != wins["p_a_ba"].to_list()


class Undecided:
    """A judge that writes: selects "first" in either position, nothing if "mute" is shown first, else the first one."""

    def generate(self, prompts, sampling):
        texts = []
        for prompt in prompts:
            shown = [prompt.user.split(f"Response {name}: ")[1].split("\n")[0] for name in "AB"]
            texts.append("" if "mute" in shown[0] else f"Response {'B' if 'first' in shown[1] else 'A'}.")
        return [Completion(text, "stop", 1, 1) for text in texts]


def test_orders_disagree_only_about_different_responses_with_two_selections(tmp_path):
    first = responses("x", ["first", "left", "same", "mute", "other", "first"])
    second = responses("y", ["second", "right", "same", "other", "mute", "second"])
    judge = Judge("jud", Undecided(), TEMPLATES, Sampling(0.6, 0.95, 0, 8, 1))
    wins = compare(judge, "judge", cases(), first, second)
    assert wins["outcome"].to_list() == ["a", "tie", "tie", "b", "a", "a"]
    assert wins["position_flip"].to_list() == [False, True, False, False, False, False]
    assert wins["unparsed"].to_list() == [0, 0, 0, 1, 1, 0]
    a, b, c = wins["target"].unique(maintain_order=True)
    assert wins["target"].to_list() == [a, a, b, b, c, c], (
        "a target is a post and its two responses, regardless of which was chosen"
    )
    path = tmp_path / "wins.parquet"
    records.write(wins, path, records.WIN)
    relations = {
        "methods": queries.methods_relation([{"name": name, "label": name} for name in "xy"]),
        "columns": queries.columns_relation([{"name": "all", "benchmarks": ["a"]}]),
        "paper": queries.paper_relation("resources/paper_tables.csv", "table3"),
    }
    found = queries.query("scripts/sql/win_rates.sql", {"wins": [str(path)]}, relations)
    for row in tables.win_rate_cells(found, 50, 1).to_dicts():
        # One of six cases, two of twelve orders.
        assert (row["disagreements"], row["unparsed"]) == (16.67, 16.67)


def test_a_refused_response_neither_wins_nor_ties_unnoticed(tmp_path):
    first = responses("x", ["a long answer", None, None, "same"])
    second = responses("y", [None, "a long answer", None, "same"])
    asked = []

    class Counting(LongerWins):
        def choice_logprobs(self, prompts, choices):
            asked.extend(prompts)
            return super().choice_logprobs(prompts, choices)

    wins = compare(Judge("jud", Counting(), TEMPLATES), "judge", cases(), first, second)
    assert wins["outcome"].to_list() == ["tie"] * 4
    assert wins["unparsed"].to_list() == [2, 2, 2, 0] and not wins["position_flip"].any()
    assert len(asked) == 2, "only the last case is judged"
    records.write(wins, tmp_path / "wins.parquet", records.WIN)


def test_no_response_is_written_under_a_refused_description(tmp_path):
    class RefusesOne(Echo):
        def generate(self, prompts, sampling):
            self.asked = len(prompts)
            return [
                Completion("", "refused", 0, 0) if "post 1" in prompt.user else answer
                for prompt, answer in zip(prompts, super().generate(prompts, sampling), strict=True)
            ]

    some = cases(4).filter(pl.col("benchmark") == "a")
    preferences = some.select("benchmark", "case_id", method=pl.lit("x"), preference=pl.lit("likes jokes"))
    preferences = preferences.with_columns(finish_reason=pl.Series(["stop", "refused", "stop", "stop"]))
    engine = RefusesOne()
    written = respond(engine, TEMPLATES, some, preferences, Sampling(0.9, 0.95, 10, 8, 1))
    assert engine.asked == 3
    assert written["finish_reason"].to_list() == ["stop", "refused", "refused", "refused"]
    assert [bool(text) for text in written["response"]] == [True, False, False, False]
    records.write(written, tmp_path / "responses.parquet", records.RESPONSE)


class Echo:
    def generate(self, prompts, sampling):
        return [Completion(f" {prompt.user} ", "stop", 1, 1) for prompt in prompts]


def test_responses_are_written_under_the_description_of_the_method():
    preferences = cases(4).select("benchmark", "case_id", method=pl.lit("x"), preference=pl.lit("likes jokes"))
    preferences = preferences.with_columns(finish_reason=pl.lit("stop"))
    written = respond(Echo(), TEMPLATES, cases(4), preferences, Sampling(0.9, 0.95, 10, 8, 1))
    assert written.height == 12
    assert all("likes jokes" in row["response"] for row in written.to_dicts())
    assert "post 1" in written.filter(pl.col("case_id") == "3")["response"][0]


def test_responses_are_compared_by_golden_preferences_and_descriptions_that_exist():
    known = cases(2)
    unknown = known.with_columns(golden_preference=pl.lit(""))
    with pytest.raises(UserError, match="the judge of responses needs golden preferences"):
        compare(Judge("jud", LongerWins(), TEMPLATES), "judge", unknown, *(responses(m, ["x", "y"]) for m in "ab"))
    described = known.head(1).with_columns(method=pl.lit("m"), preference=pl.lit("p"), finish_reason=pl.lit("stop"))
    with pytest.raises(UserError, match="5 of 6 cases are not described, first 1 of 'a'"):
        respond(None, TEMPLATES, known, described, Sampling(0.9, 0.95, 10, 8, seed=1))
