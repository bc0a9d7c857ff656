"""Online evaluation: which cases are drawn, and who wins."""

import numpy as np
import polars as pl
from alignxplore.engines.base import Completion, Sampling
from alignxplore.judging import Judge
from alignxplore.online import compare, draw_cases, respond
from alignxplore.prompts import Templates

TEMPLATES = Templates(**{name: f"resources/prompts/{name}.jinja" for name in ("judge", "respond")})


def cases(size=30):
    rows = [
        {"benchmark": benchmark, "case_id": str(index), "prompt": f"post {index}", "golden_preference": "likes long"}
        for benchmark in ("a", "b", "c")
        for index in range(size)
    ]
    return pl.DataFrame(rows)


def test_a_larger_draw_contains_a_smaller_one():
    groups = [["a"], ["b", "c"]]
    small, large = draw_cases(cases(), groups, 10, seed=1), draw_cases(cases(), groups, 20, seed=1)
    assert small.height == 20 and large.height == 40
    assert set(small.select("benchmark", "case_id").rows()) <= set(large.select("benchmark", "case_id").rows())
    assert small.filter(pl.col("benchmark") == "a").height == 10
    assert draw_cases(cases(), groups, 10, seed=2).rows() != small.rows()
    shuffled = draw_cases(cases().reverse(), groups, 10, seed=1)
    assert shuffled.rows() == small.rows()


class LongerWins:
    """A judge that selects the longer response, with a lean towards the one shown first."""

    def choice_logprobs(self, prompts, choices):
        result = []
        for prompt in prompts:
            first, second = (prompt.user.split(f"Response {name}: ")[1].split("\n")[0] for name in "AB")
            lean = len(first) - len(second) + 1.5
            result.append([lean, 0.0])
        return np.array(result, float)


def responses(method, texts):
    return pl.DataFrame(
        [{"case_id": str(i), "benchmark": "a", "method": method, "response": text} for i, text in enumerate(texts)]
    )


def test_position_decides_nothing_and_equal_responses_tie():
    first = responses("x", ["a long answer", "short", "same", "abcd"])
    second = responses("y", ["short", "a long answer", "same", "abce"])
    wins = compare(Judge("jud", LongerWins(), TEMPLATES), "judge", cases(), first, second)
    assert wins["outcome"].to_list()[:3] == ["a", "b", "tie"]
    mirrored = compare(Judge("jud", LongerWins(), TEMPLATES), "judge", cases(), second, first)
    assert mirrored["outcome"].to_list()[:3] == ["b", "a", "tie"]
    assert wins["p_a_ab"].to_list() != wins["p_a_ba"].to_list()


class Echo:
    def generate(self, prompts, sampling):
        return [Completion(f" {prompt.user} ", "stop", 1, 1) for prompt in prompts]


def test_responses_are_written_under_the_methods_description():
    preferences = cases(2).select("benchmark", "case_id", method=pl.lit("x"), preference=pl.lit("likes jokes"))
    written = respond(Echo(), TEMPLATES, cases(2), preferences, Sampling(0.9, 0.95, 10, 8, 1))
    assert written.height == 6
    assert all("likes jokes" in row["response"] for row in written.to_dicts())
    assert "post 1" in written.filter(pl.col("case_id") == "1")["response"][0]
