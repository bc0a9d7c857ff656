"""LMInductReason with engines whose answers are known, a tiny real model, and published cases."""

import numpy as np
import polars as pl
import pytest
from alignxplore.engines import Completion, load
from alignxplore.errors import UserError
from alignxplore.judging.judge import Judge
from alignxplore.methods.lminductreason import induced_preferences
from alignxplore.prompts import strip_markers
from method_samples import SAMPLING, TEMPLATES, cases, needs_published, pair, published_cases, written


class ProposingEngine:
    """Proposes the rules `first` for a first prompt and `refined` for a refinement; records what it was asked."""

    def __init__(self, first: list[str], refined: list[str]):
        self.first, self.refined, self.asked = first, refined, []

    def generate(self, prompts, sampling):
        texts = [strip_markers(prompt.user) for prompt in prompts]
        self.asked.append((texts, sampling.seed))
        rules = [self.refined if "one better rule" in text else self.first for text in texts]
        return [Completion(rule[n % len(rule)], "stop", 10, 3) for n, rule in enumerate(rules)]


class WordJudge:
    """Selects the chosen response if the rule contains its first word."""

    def p_chosen(self, pairs, rules):
        explained = [p["chosen"].split()[0] in rule.split() for p, rule in zip(pairs, rules, strict=True)]
        return np.array([[0.9, 0.6] if holds else [0.6, 0.1] for holds in explained]).reshape(-1, 2)


def induce(engine, some: pl.DataFrame, hypotheses: int, rounds: int) -> pl.DataFrame:
    entry = {"hypotheses": hypotheses, "rounds": rounds}
    return induced_preferences(engine, WordJudge(), TEMPLATES, some, "rules", entry, SAMPLING)


def test_a_failing_rule_is_refined_with_the_pairs_that_it_fails_on(tmp_path):
    engine = ProposingEngine(["likes jazz", "likes jazz and tea"], ["likes maps", "likes jazz tea maps"])
    both = cases(["jazz", "maps", "tea"], ["tea", "jazz", "tea"])
    refined, direct = written(induce(engine, both, hypotheses=2, rounds=3), tmp_path)
    assert refined["reasoning"].splitlines() == [
        "Round 1",
        "[1 of 3, not 2, 3] likes jazz",
        "[2 of 3, not 2] likes jazz and tea",
        "Round 2",
        "[1 of 3, not 1, 3] likes maps",
        "[3 of 3] likes jazz tea maps",
    ]
    assert refined["preference"] == "likes jazz tea maps" and refined["format_ok"]
    assert (refined["prompt_tokens"], refined["completion_tokens"]) == (40, 12)
    # A rule explained the second case in round 1, so it is not asked about again.
    assert direct["reasoning"].splitlines() == [
        "Round 1",
        "[1 of 3, not 1, 3] likes jazz",
        "[3 of 3] likes jazz and tea",
    ]
    (first, seed), (feedback, other) = engine.asked
    assert len(first) == 4 and len(feedback) == 2 and other != seed
    assert "A rule for what this person prefers was: likes jazz and tea\n" in feedback[0]
    assert "It explains 2 of these choices, those listed first, but not the others" in feedback[0]
    assert "3. Post: post of maps\nChosen: maps\nRejected: anything but maps\n" in feedback[0]
    assert feedback[0].index("Chosen: jazz") < feedback[0].index("Chosen: tea") < feedback[0].index("Chosen: maps")


def test_the_best_rule_of_all_rounds_is_kept():
    engine = ProposingEngine(["likes jazz"], ["likes nothing"])
    found = induce(engine, cases(["jazz", "maps"]), hypotheses=1, rounds=3)
    assert found["preference"].to_list() == ["likes jazz"]
    assert [seed for _, seed in engine.asked] == [7, 8, 9]
    assert all("was: likes jazz\n" in texts[0] for texts, _ in engine.asked[1:])


class RefusingEngine(ProposingEngine):
    """Refuses prompts that contain `word`; its other answers are those of ProposingEngine."""

    def __init__(self, word, *rules):
        super().__init__(*rules)
        self.word = word

    def generate(self, prompts, sampling):
        answers = super().generate(prompts, sampling)
        return [
            Completion("", "refused", 0, 0) if self.word in strip_markers(prompt.user) else answer
            for prompt, answer in zip(prompts, answers, strict=True)
        ]


def test_a_case_whose_prompt_is_refused_has_no_rule_and_is_not_asked_again(tmp_path):
    engine = RefusingEngine("post of maps", ["likes jazz"], ["likes jazz"])
    refused, found = written(induce(engine, cases(["maps"], ["jazz"]), hypotheses=2, rounds=3), tmp_path)
    assert (refused["preference"], refused["finish_reason"], refused["format_ok"]) == ("", "refused", False)
    assert refused["reasoning"].splitlines()[0:2] == ["Round 1", "[refused]"]
    assert (found["preference"], found["finish_reason"]) == ("likes jazz", "stop")
    assert len(engine.asked) == 1


def test_a_rule_that_explains_nothing_is_better_than_a_refusal():
    class RefusesTheFirst(ProposingEngine):
        def generate(self, prompts, sampling):
            _, *others = super().generate(prompts, sampling)
            return [Completion("", "refused", 0, 0), *others]

    found = induce(RefusesTheFirst(["", "likes tea"], ["", ""]), cases(["jazz"]), hypotheses=2, rounds=1)
    assert found.select("preference", "finish_reason").rows() == [("likes tea", "stop")]


def test_a_refinement_that_is_refused_keeps_the_rule(tmp_path):
    engine = RefusingEngine("one better rule", ["likes tea"], ["likes jazz"])
    (found,) = written(induce(engine, cases(["jazz"]), hypotheses=1, rounds=2), tmp_path)
    assert (found["preference"], found["finish_reason"], found["format_ok"]) == ("likes tea", "stop", True)
    first = RefusingEngine("post of jazz", ["likes tea"], ["likes jazz"])
    assert induce(first, cases(["jazz"]), hypotheses=1, rounds=2)["preference"].to_list() == [""]


def test_reasoning_is_split_off_and_empty_rules_explain_nothing():
    engine = ProposingEngine(["<think>jazz?</think> likes jazz", " "], ["", ""])
    found = induce(engine, cases(["jazz"]), hypotheses=2, rounds=1)
    assert found["preference"].to_list() == ["likes jazz"]
    empty = induce(ProposingEngine([""], [""]), cases(["jazz"]), hypotheses=2, rounds=1)
    assert empty.select("preference", "format_ok").rows() == [("", False)]
    assert "It explains none of these choices" in strip_markers(TEMPLATES.refine_rule("rule", [], [pair("jazz")]).user)


def test_a_case_without_pairs_is_an_error():
    with pytest.raises(UserError, match="methods.rules.benchmarks: b has cases without pairs"):
        induced_preferences(None, None, TEMPLATES, cases([], ugc=("tea",)), "rules", {"rounds": 1}, SAMPLING)


def induce_with(model, some: pl.DataFrame) -> pl.DataFrame:
    engine = load({"engine": "transformers", "path": str(model)})
    judge, entry = Judge("jud", engine, TEMPLATES), {"hypotheses": 2, "rounds": 2}
    return induced_preferences(engine, judge, TEMPLATES, some, "rules", entry, SAMPLING)


def test_it_runs_with_a_real_model(tiny_model, tmp_path):
    rows = written(induce_with(tiny_model, cases(["jazz", "maps"], ["tea", "jazz"])), tmp_path)
    assert all(row["reasoning"].startswith("Round 1\n[") and row["prompt_tokens"] > 0 for row in rows)


@needs_published
def test_it_runs_on_published_cases(tiny_model, tmp_path):
    rows = written(induce_with(tiny_model, published_cases()), tmp_path)
    assert len(rows) == 3
    assert {len(row["reasoning"].splitlines()[1].split(" of 4")) for row in rows} == {2}
