"""Descriptions that a model writes: what it is asked, where its answer ends, and what is read from it."""

from pathlib import Path

import polars as pl
import pytest
from alignxplore.engines import Completion, Sampling
from alignxplore.methods.model import model_preferences
from alignxplore.prompts import Templates, strip_markers

PROMPTS = Path(__file__).parents[3] / "resources/prompts"
PAIR = {"prompt": "Any advice?", "chosen": "Try jazz.", "rejected": "Use earplugs."}
CASES = pl.DataFrame([{"case_id": "c", "benchmark": "b", "pairs": [PAIR], "ugc": []}])


class Writer:
    """Answers everything alike, and records what it was asked."""

    def generate(self, prompts, sampling):
        self.asked = [strip_markers(prompt.user) for prompt in prompts], sampling.stop
        return [Completion("<think>r</think>Likes <answer>jazz</answer>.", "stop", 10, 5)] * len(prompts)


@pytest.mark.parametrize(
    ("entry", "asked", "stop", "preference", "format_ok"),
    [
        ({"reasoning": True}, "preference", ("</answer>",), "jazz", False),
        ({"reasoning": False}, "concise", (), "jazz", True),
        ({"reasoning": True, "answer": "text", "prompt": "own"}, "own", (), "Likes jazz.", True),
        ({"reasoning": True, "prompt": "own"}, "own", ("</answer>",), "jazz", False),
        ({"reasoning": False, "answer": "text"}, "concise", (), "Likes jazz.", True),
    ],
)
def test_the_entry_says_which_template_is_asked_and_where_the_answer_is(
    entry, asked, stop, preference, format_ok, tmp_path
):
    (own := tmp_path / "own.jinja").write_text("Chosen: {{ pairs[0].chosen | user }}{{ dimensions | join }}")
    templates = Templates(preference=PROMPTS / "preference.jinja", concise=PROMPTS / "concise.jinja", own=own)
    (case,) = CASES.to_dicts()
    texts = {
        "preference": strip_markers(templates.preference(case).user),
        "concise": strip_markers(templates.concise(case).user),
        "own": "Chosen: Try jazz.",
    }
    writer = Writer()
    found = model_preferences(writer, templates, CASES, "m", entry, Sampling(0.9, 0.95, 10, 64, seed=1))
    assert writer.asked == ([texts[asked]], stop)
    assert found.select("preference", "format_ok").row(0) == (preference, format_ok)
