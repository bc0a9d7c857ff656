"""PBA with an engine whose probabilities are known, a tiny real model, and published cases."""

import numpy as np
import polars as pl
import pytest
from alignxplore import records
from alignxplore.engines import load
from alignxplore.errors import UserError
from alignxplore.methods.pba import annotated_preferences, bridged_preferences, directions, signal_scores
from alignxplore.prompts import SCORE_CHOICES, strip_markers
from method_samples import TEMPLATES, WORDING, cases, needs_published, pair, published_cases, written

THRESHOLDS = {"upper": 0.6, "lower": 0.4}


class ReadingEngine:
    """Reads the words "+60" or "-60" in a signal as that pole (probability 0.8); otherwise "neither" (0.9)."""

    def __init__(self, bias: float = 0.0):
        self.poles = {WORDING.phrase(str(i), s): f"{'+' if s > 0 else '-'}{i}" for i in range(90) for s in (1, -1)}
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


def bridge(engine, some: pl.DataFrame, **entry) -> pl.DataFrame:
    return bridged_preferences(engine, TEMPLATES, some, "pba", THRESHOLDS | entry, WORDING)


def annotated(*signs: dict[int, int], **changes) -> pl.DataFrame:
    """One case whose signals have these directions."""
    (row,) = cases(["a"] * len(signs)).to_dicts()
    for signal, own in zip(row["pairs"], signs, strict=True):
        signal["direction"] = [own.get(index, 0) for index in range(90)]
    return pl.DataFrame([row | changes], schema=records.CASE)


def describe_annotated(some: pl.DataFrame, **entry) -> dict:
    return annotated_preferences(some, "pba", THRESHOLDS | entry, WORDING).to_dicts()[0]


def test_annotated_directions_are_averaged_as_their_authors_do():
    """Means on the scale from 0 to 1 are 0.75 on dimension 60, 0.5 on 47 and 0.375 on 73."""
    history = annotated({60: 1, 47: 1}, {60: 1, 47: -1}, {60: -1, 73: -1}, {60: 1})
    row = describe_annotated(history)
    assert row["preference"] == f"This person: {WORDING.phrase('60', 1)}, {WORDING.phrase('73', -1)}."
    assert f"0.750 {WORDING.phrase('60', 1)} / {WORDING.phrase('60', -1)}" in row["reasoning"]
    assert (row["completion_tokens"], row["format_ok"]) == (0, None)
    assert describe_annotated(history, dimensions=[73])["preference"] == f"This person: {WORDING.phrase('73', -1)}."
    assert describe_annotated(annotated({}))["preference"] == ""


def test_a_profile_takes_the_place_of_annotations():
    assert describe_annotated(annotated({60: 1}, profile="Likes humor"))["preference"] == "Likes humor"
    with pytest.raises(UserError, match="methods.pba needs annotated signals or a profile, but case 0 of 'b' has nei"):
        describe_annotated(annotated({60: 1}, pairs=[pair("a") | {"direction": [1]}]))


@needs_published
def test_published_cases_are_described_by_their_profiles():
    preferences = annotated_preferences(published_cases(), "pba", THRESHOLDS, WORDING)
    assert all("High" in text or "Low" in text for text in preferences["preference"])


def test_a_rendered_prompt_has_no_signals_to_score():
    with pytest.raises(UserError, match="methods.pba needs signals, but those of 'b' are a rendered prompt"):
        bridge(ReadingEngine(), cases([]).with_columns(rendered=pl.lit("prompt")))


def test_the_mean_of_what_signals_show_is_put_into_words(tmp_path):
    history = ["+60 -73", "+60", "-73 +47", "+60 -47"]
    engine = ReadingEngine()
    (row,) = written(bridge(engine, cases(history), dimensions=[73, 60, 47, 3]), tmp_path)
    # 60: (0.9 + 0.9 + 0.5 + 0.9) / 4; 73: (0.1 + 0.5 + 0.1 + 0.5) / 4; 47 was shown both ways; 3 never.
    assert row["reasoning"].splitlines() == [
        "0.300 likes humor / dislikes humor",
        "0.800 likes travel / dislikes travel",
        "0.500 likes science / dislikes science",
        "0.500 high extraversion / low extraversion",
    ]
    assert row["preference"] == "This person: likes travel, dislikes humor."
    assert row["format_ok"] is None and len(engine.asked) == 32
    everything = bridge(engine, cases(history))
    assert everything["preference"].to_list() == [row["preference"]] and len(engine.asked) == 32 + 720


def test_refused_prompts_are_left_out_of_the_mean(tmp_path):
    class Refusing(ReadingEngine):
        """Refuses the signals with "no", and any prompt that shows the pole of 47 first."""

        def choice_logprobs(self, prompts, choices):
            found = super().choice_logprobs(prompts, choices)
            texts = [strip_markers(prompt.user) for prompt in prompts]
            refused = ["no" in text.split() or "\nA: likes science" in text for text in texts]
            return np.where(np.array(refused)[:, None], np.nan, found)

    both = cases(["+60", "no -60", "x"], ["no", "no"])
    described, refused = written(bridge(Refusing(), both, dimensions=[60, 47]), tmp_path)
    # The mean of 60 is (0.9 + 0.5) / 2, without the second signal; 47 has no score in both orders.
    assert described["reasoning"].splitlines() == [
        "0.700 likes travel / dislikes travel",
        "nan likes science / dislikes science",
    ]
    assert (described["preference"], described["finish_reason"]) == ("This person: likes travel.", "stop")
    assert (refused["preference"], refused["reasoning"], refused["finish_reason"]) == ("", "", "refused")
    assert refused["format_ok"] is None
    # Between the thresholds, the furthest known score decides.
    assert directions(np.array([np.nan, 0.55, 0.5]), 0.6, 0.4).tolist() == [0, 1, 0]


def test_comments_are_signals_too():
    engine = ReadingEngine()
    found = bridge(engine, cases([], ugc=("-60", "-60")), dimensions=[60])
    assert found["preference"].to_list() == ["This person: dislikes travel."]
    assert "Comment: -60" in strip_markers(engine.asked[0].user) and "Chosen" not in engine.asked[0].user


def test_a_bias_towards_an_answer_cancels():
    poles = [(WORDING.phrase("60", 1), WORDING.phrase("60", -1))]
    scores = signal_scores(ReadingEngine(bias=5.0), TEMPLATES, [pair("x"), pair("+60")], poles)
    assert scores.shape == (2, 1) and scores[1, 0] > 0.5
    np.testing.assert_allclose(scores[0], [0.5])
    neutral = bridge(ReadingEngine(), cases(["x"] * 4), dimensions=[60])
    assert neutral["preference"].to_list() == [""]


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
def test_thresholds_and_the_fallback_if_no_score_passes_one(scores, expected):
    assert directions(np.array(scores), 0.6, 0.4).tolist() == expected


def bridge_with(model, some: pl.DataFrame) -> pl.DataFrame:
    return bridge(load({"engine": "transformers", "path": str(model)}), some, dimensions=[3, 60, 73])


def test_it_runs_with_a_real_model(tiny_model, tmp_path):
    rows = written(bridge_with(tiny_model, cases(["jazz", "maps"], ["tea", "jazz"])), tmp_path)
    assert all(row["preference"].startswith("This person: ") and row["reasoning"].count("\n") == 2 for row in rows)


@needs_published
def test_it_runs_on_published_cases(tiny_model, tmp_path):
    assert len(written(bridge_with(tiny_model, published_cases()), tmp_path)) == 3
