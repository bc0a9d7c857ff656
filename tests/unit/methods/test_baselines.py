"""The baselines of Table 2, by engines whose answers are known, a tiny real model, and the published P-SOUPS file."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from alignxplore import records
from alignxplore.data.psoups import Signals, read_psoups
from alignxplore.data.wording import Wording
from alignxplore.engines import Completion, Sampling, load
from alignxplore.errors import UserError
from alignxplore.judging.judge import Judge
from alignxplore.methods.lminductreason import induced_preferences
from alignxplore.methods.pba import bridged_preferences, directions, signal_scores
from alignxplore.prompts import SCORE_CHOICES, Templates, strip_markers

RESOURCES = Path(__file__).parents[3] / "resources"
REAL = Path(__file__).parents[4] / "shared" / "data" / "p_soups" / "style.json"
NAMES = ("judge", "propose_rule", "refine_rule", "score_dimension")
SAMPLING = Sampling(temperature=0.9, top_p=0.95, top_k=10, max_new_tokens=12, seed=7)


@pytest.fixture(scope="module")
def templates() -> Templates:
    return Templates(**{name: RESOURCES / f"prompts/{name}.jinja" for name in NAMES})


@pytest.fixture(scope="module")
def wording() -> Wording:
    return Wording.load(RESOURCES / "wording.csv")


def pair(chosen: str) -> dict:
    return {
        "prompt": f"post of {chosen}",
        "chosen": chosen,
        "rejected": f"anything but {chosen}",
        "direction": [0] * 90,
    }


def cases(*histories: list[str], ugc: tuple[str, ...] = ()) -> pl.DataFrame:
    """A case for each history, whose pairs have these chosen responses."""
    comments = [{"prompt": "post", "comment": text, "direction": [0] * 90} for text in ugc]
    common = {"benchmark": "b", "dimension": "", "direction": [0] * 90, "ugc": comments, "golden_preference": ""}
    target = {"prompt": "p", "chosen": "c", "rejected": "r"}
    rows = [
        {"case_id": str(number), **common, "pairs": [pair(chosen) for chosen in history], **target}
        for number, history in enumerate(histories)
    ]
    return pl.DataFrame(rows, schema=records.CASE)


def written(preferences: pl.DataFrame, path: Path) -> list[dict]:
    """The rows, which keep to the record contract."""
    records.write(preferences, path / "preferences.parquet", records.PREFERENCE)
    return preferences.to_dicts()


class ReadingEngine:
    """Finds poles in a signal by its words "+60" or "-60" (probability 0.8) and answers "neither" (0.9) without."""

    def __init__(self, wording: Wording, bias: float = 0.0):
        self.poles = {wording.phrase(str(i), s): f"{'+' if s > 0 else '-'}{i}" for i in range(90) for s in (1, -1)}
        self.bias, self.asked = bias, []

    def choice_logprobs(self, prompts, choices):
        assert choices == SCORE_CHOICES
        self.asked += prompts
        return np.log([self.probabilities(strip_markers(prompt.user)) for prompt in prompts])

    def probabilities(self, text: str) -> list[float]:
        signal, answers = text.split("\nA: ")
        first, second = answers.removesuffix("\nC: neither").split("\nB: ")
        shown = [self.poles[pole] in signal.split() for pole in (first, second)]
        found = {(True, False): [0.8, 0.0, 0.2], (False, True): [0.0, 0.8, 0.2]}.get(tuple(shown), [0.05, 0.05, 0.9])
        return [found[0] + self.bias + 1e-12, found[1] + 1e-12, found[2]]


def test_pba_averages_what_the_signals_show_and_words_it(templates, wording, tmp_path):
    history = ["+60 -73", "+60", "-73 +47", "+60 -47"]
    entry = {"upper": 0.6, "lower": 0.4, "dimensions": [73, 60, 47, 3]}
    engine = ReadingEngine(wording)
    (row,) = written(bridged_preferences(engine, templates, cases(history), "pba", entry, wording), tmp_path)
    # 60: (0.9 + 0.9 + 0.5 + 0.9) / 4; 73: (0.1 + 0.5 + 0.1 + 0.5) / 4; 47 was shown both ways; 3 never.
    assert row["reasoning"].splitlines() == [
        "0.300 likes humor / dislikes humor",
        "0.800 likes travel / dislikes travel",
        "0.500 likes science / dislikes science",
        "0.500 high extraversion / low extraversion",
    ]
    assert row["preference"] == "This person: likes travel, dislikes humor."
    assert row["format_ok"] is None and len(engine.asked) == 32
    everything = bridged_preferences(engine, templates, cases(history), "pba", {"upper": 0.6, "lower": 0.4}, wording)
    assert everything["preference"].to_list() == [row["preference"]] and len(engine.asked) == 32 + 720


def test_pba_reads_comments(templates, wording):
    entry = {"upper": 0.6, "lower": 0.4, "dimensions": [60]}
    engine = ReadingEngine(wording)
    found = bridged_preferences(engine, templates, cases([], ugc=("-60", "-60")), "pba", entry, wording)
    assert found["preference"].to_list() == ["This person: dislikes travel."]
    assert "Comment: -60" in strip_markers(engine.asked[0].user) and "Chosen" not in engine.asked[0].user


def test_a_liking_for_an_answer_cancels(templates, wording):
    poles = [(wording.phrase("60", 1), wording.phrase("60", -1))]
    scores = signal_scores(ReadingEngine(wording, bias=5.0), templates, [pair("x"), pair("+60")], poles)
    assert scores.shape == (2, 1) and scores[1, 0] > 0.5
    np.testing.assert_allclose(scores[0], [0.5])
    entry = {"upper": 0.6, "lower": 0.4, "dimensions": [60]}
    plain = bridged_preferences(ReadingEngine(wording), templates, cases(["x"] * 4), "pba", entry, wording)
    assert plain["preference"].to_list() == [""]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.625, 0.375, 0.5, 0.59, 0.41], [1, -1, 0, 0, 0]),
        ([0.6, 0.4, 0.5], [1, -1, 0]),
        ([0.55, 0.48, 0.5, 0.55], [1, 0, 0, 1]),
        ([0.55, 0.45, 0.5], [1, -1, 0]),
        ([0.5, 0.41, 0.58], [0, -1, 0]),
        ([0.5, 0.5], [0, 0]),
    ],
)
def test_thresholds_and_what_stands_in_where_nothing_passes(scores, expected):
    assert directions(np.array(scores), 0.6, 0.4).tolist() == expected


class ProposingEngine:
    """Proposes rules by what is asked: a list for a first prompt, another for a refinement; keeps what it was asked."""

    def __init__(self, first: list[str], refined: list[str]):
        self.first, self.refined, self.asked = first, refined, []

    def generate(self, prompts, sampling):
        texts = [strip_markers(prompt.user) for prompt in prompts]
        self.asked.append((texts, sampling.seed))
        rules = [self.refined if "one better rule" in text else self.first for text in texts]
        return [Completion(rule[n % len(rule)], "stop", 10, 3) for n, rule in enumerate(rules)]


class WordJudge:
    """Selects the chosen response if the rule has its first word."""

    def p_chosen(self, pairs, rules):
        explained = [p["chosen"].split()[0] in rule.split() for p, rule in zip(pairs, rules, strict=True)]
        return np.array([[0.9, 0.6] if holds else [0.6, 0.1] for holds in explained]).reshape(-1, 2)


def test_a_rule_that_fails_is_refined_by_what_it_fails_on(templates, tmp_path):
    engine = ProposingEngine(["likes jazz", "likes jazz and tea"], ["likes maps", "likes jazz tea maps"])
    entry = {"hypotheses": 2, "rounds": 3}
    both = cases(["jazz", "maps", "tea"], ["tea", "jazz", "tea"])
    found = induced_preferences(engine, WordJudge(), templates, both, "rules", entry, SAMPLING)
    refined, direct = written(found, tmp_path)
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
    # The second case was explained at once: it has one round, and is not asked about again.
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


def test_the_best_rule_of_all_rounds_is_kept(templates):
    engine = ProposingEngine(["likes jazz"], ["likes nothing"])
    entry = {"hypotheses": 1, "rounds": 3}
    found = induced_preferences(engine, WordJudge(), templates, cases(["jazz", "maps"]), "rules", entry, SAMPLING)
    assert found["preference"].to_list() == ["likes jazz"]
    assert [seed for _, seed in engine.asked] == [7, 8, 9]
    assert all("was: likes jazz\n" in texts[0] for texts, _ in engine.asked[1:])


def test_reasoning_and_empty_rules(templates):
    engine = ProposingEngine(["<think>jazz?</think> likes jazz", " "], ["", ""])
    entry = {"hypotheses": 2, "rounds": 1}
    found = induced_preferences(engine, WordJudge(), templates, cases(["jazz"]), "rules", entry, SAMPLING)
    assert found["preference"].to_list() == ["likes jazz"]
    empty = induced_preferences(
        ProposingEngine([""], [""]), WordJudge(), templates, cases(["jazz"]), "r", entry, SAMPLING
    )
    assert empty.select("preference", "format_ok").rows() == [("", False)]
    assert "It explains none of these choices" in strip_markers(templates.refine_rule("rule", [], [pair("jazz")]).user)


def test_cases_without_pairs_are_named(templates):
    with pytest.raises(UserError, match="methods.rules.benchmarks: b has cases without pairs"):
        induced_preferences(None, None, templates, cases([], ugc=("tea",)), "rules", {"rounds": 1}, SAMPLING)


def run_both(model: Path, templates: Templates, wording: Wording, some: pl.DataFrame, path: Path) -> list[list[dict]]:
    engine = load({"engine": "transformers", "path": str(model)})
    rules = {"hypotheses": 2, "rounds": 2}
    induced = induced_preferences(engine, Judge("jud", engine, templates), templates, some, "rules", rules, SAMPLING)
    entry = {"upper": 0.6, "lower": 0.4, "dimensions": [3, 60, 73]}
    return [
        written(found, path) for found in (induced, bridged_preferences(engine, templates, some, "pba", entry, wording))
    ]


def test_both_run_with_a_real_model(tiny_model, templates, wording, tmp_path):
    induced, bridged = run_both(tiny_model, templates, wording, cases(["jazz", "maps"], ["tea", "jazz"]), tmp_path)
    assert all(row["reasoning"].startswith("Round 1\n[") and row["prompt_tokens"] > 0 for row in induced)
    assert all(row["preference"].startswith("This person: ") and row["reasoning"].count("\n") == 2 for row in bridged)


@pytest.mark.skipif(not REAL.exists(), reason=f"THE PUBLISHED P-SOUPS FILE IS NOT THERE: {REAL}")
def test_both_run_on_published_cases(tiny_model, templates, wording, tmp_path):
    rows = read_psoups(REAL, "style", "friendly, witty", Signals(4, seed=1))[:3]
    some = pl.DataFrame(
        [{"benchmark": "psoups_style", "dimension": "style", **row} for row in rows], schema=records.CASE
    )
    induced, bridged = run_both(tiny_model, templates, wording, some, tmp_path)
    assert len(induced) == len(bridged) == 3
    assert {len(row["reasoning"].splitlines()[1].split(" of 4")) for row in induced} == {2}
