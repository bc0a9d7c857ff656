"""Streaming: what each step is asked, what it leaves behind, and what a longer stream pays for."""

from pathlib import Path

import polars as pl
import pytest
from alignxplore import records
from alignxplore.engines import Completion, Refused, Sampling, engine
from alignxplore.engines.journal import Journal
from alignxplore.engines.transformers import start
from alignxplore.errors import UserError
from alignxplore.formats import render_completion
from alignxplore.methods.model import model_preferences
from alignxplore.methods.streaming import prompt_count
from alignxplore.prompts import Templates, strip_markers
from method_samples import cases
from random_models import random_qwen2

PROMPTS = Path(__file__).parents[3] / "resources/prompts"
ENTRY = {"reasoning": True, "streaming": {"chunk": 2}}
SAMPLING = Sampling(0.9, 0.95, 10, 12, seed=1)
OWN = (
    "Past: {{ past | user }}. New: {{ pairs | map(attribute='chosen') | join(' ') }}"
    "{% for item in ugc %} {{ item.comment }}{% endfor %}"
)


@pytest.fixture
def templates(tmp_path) -> Templates:
    (tmp_path / "own.jinja").write_text(OWN)
    return Templates(own=tmp_path / "own.jinja", update=PROMPTS / "update.jinja")


class Writer:
    """A backend that describes a user by the prompt; it answers prompts that contain a key of `odd` with its value."""

    def __init__(self, **odd):
        self.odd = odd
        self.calls = []

    def generate(self, prompts, seeds, sampling, done=()):
        texts = [strip_markers(prompt.user) for prompt in prompts]
        self.calls.append(texts)
        for index, text in enumerate(texts):
            usual = Completion(render_completion("r", f"[{text.removeprefix('Past: ')}]"), "stop", len(text), 10)
            yield [(index, next((answer for key, answer in self.odd.items() if key in text), usual))]


def asked(writer: Writer, journal: Journal | None = None):
    return engine.Engine("m", {"path": "m"}, lambda: writer, journal or Journal(), max_refused=1.0)


def run(writer, templates, frame, journal=None, **entry) -> list[dict]:
    found = model_preferences(
        asked(writer, journal), templates, frame, "m", {**ENTRY, "prompt": "own", **entry}, SAMPLING
    )
    return found.cast(records.PREFERENCE).to_dicts()


def test_each_chunk_is_read_with_the_description_of_those_before(templates):
    writer = Writer()
    rows = run(writer, templates, cases(list("abcde"), list("xyz"), ugc=("u",)))
    first, second = "Past: . New: a b", "Past: . New: x y"
    assert writer.calls == [
        [first, second],
        ["Past: [. New: a b]. New: c d", "Past: [. New: x y]. New: z u"],
        ["Past: [[. New: a b]. New: c d]. New: e u"],
    ]
    assert [row["preference"] for row in rows] == ["[[[. New: a b]. New: c d]. New: e u]", "[[. New: x y]. New: z u]"]
    assert [row["prompt_tokens"] for row in rows] == [
        sum(len(calls[place]) for calls in writer.calls if place < len(calls)) for place in (0, 1)
    ]
    assert [row["completion_tokens"] for row in rows] == [30, 20]


def test_without_carry_the_last_chunk_is_read_alone(templates):
    writer = Writer()
    run(writer, templates, cases(list("abcde"), list("xy"), ugc=("u",)), streaming={"chunk": 2, "carry": False})
    assert writer.calls == [["Past: . New: e u", "Past: . New:  u"]]


def test_steps_that_begin_alike_are_asked_once_and_answered_the_same(templates):
    writer = Writer()
    steps = cases(list("ab"), list("abcd"), list("abcdef"), list("abcx"))
    rows = run(writer, templates, steps)
    assert [len(call) for call in writer.calls] == [1, 2, 1]
    assert rows[2]["preference"] == f"[{rows[1]['preference']}. New: e f]"
    assert [row["completion_tokens"] for row in rows] == [10, 20, 30, 20]


def test_a_streams_own_chunks_are_kept_apart(templates):
    """With noise, chunks are of different sizes."""
    sizes = [[3], [3, 1], [3, 1, 2]]
    steps = cases(list("abc"), list("abcd"), list("abcdef")).with_columns(
        stream=pl.lit("u"), chunks=pl.Series(sizes, dtype=pl.List(pl.Int32))
    )
    writer = Writer()
    rows = run(writer, templates, steps)
    assert [[text.rpartition("New: ")[2] for text in call] for call in writer.calls] == [["a b"], ["c"], ["d"], ["e f"]]
    assert [row["completion_tokens"] for row in rows] == [20, 30, 40]
    assert prompt_count(steps.to_dicts(), 2) == 4
    last = Writer()
    run(last, templates, steps, streaming={"chunk": 2, "carry": False})
    assert last.calls == [["Past: . New: a b c", "Past: . New: d", "Past: . New: e f"]]


@pytest.mark.parametrize("streaming", [{"chunk": 1}, {"chunk": 2}, {"chunk": 3}, {"chunk": 2, "carry": False}])
def test_prompts_are_counted_before_they_are_asked(templates, streaming):
    writer = Writer()
    steps = cases(list("ab"), list("abcd"), list("abcdef"), list("abcx"), list("cdab"), [], list("dab"))
    run(writer, templates, steps, streaming=streaming)
    assert prompt_count(steps.to_dicts(), **streaming) == sum(map(len, writer.calls))


CUT_OFF = Completion("<think>It may be that", "length", 9, 10)
CUT_ANSWER = Completion("<think>r</think><answer>Likes", "length", 9, 10)
NO_THOUGHT = Completion("Likes cats.", "stop", 9, 10)
UNCLOSED = Completion("<think>r</think><answer>Likes cats.", "stop", 9, 10)


@pytest.mark.parametrize("odd", [CUT_OFF, CUT_ANSWER, NO_THOUGHT, UNCLOSED, Refused("HTTP 400")])
def test_a_step_without_a_valid_description_leaves_the_past_as_it_was(templates, odd):
    writer = Writer(**{"New: a b": odd, "New: e f": odd})
    ends_well, ends_badly = run(writer, templates, cases(list("abcd"), list("abcdef")))
    assert writer.calls[1:] == [["Past: . New: c d"], ["Past: [. New: c d]. New: e f"]]
    assert ends_well["preference"] == ends_badly["preference"] == "[. New: c d]"
    assert ends_well["format_ok"] and not ends_badly["format_ok"]
    finish = "refused" if isinstance(odd, Refused) else odd.finish_reason
    assert (ends_well["finish_reason"], ends_badly["finish_reason"]) == ("stop", finish)


@pytest.mark.parametrize(
    ("entry", "answer", "past"),
    [
        ({"reasoning": False}, "Likes a.", "Likes a."),
        ({"reasoning": False}, "<think>r</think>Likes a.", "Likes a."),
        ({"reasoning": True, "answer": "text"}, "<think>r</think>Likes a.", "Likes a."),
        ({"reasoning": True, "answer": "text"}, "Likes a.", ""),
        ({"reasoning": False, "answer": "text"}, "Likes <answer>a", "Likes a"),
    ],
)
def test_the_past_is_what_the_entry_says_a_description_is(templates, entry, answer, past):
    writer = Writer(**{"New: a b": Completion(answer, "stop", 9, 10)})
    run(writer, templates, cases(list("abcd")), **entry)
    assert writer.calls[1] == [f"Past: {past}. New: c d"]


def test_the_default_template_is_update(templates):
    likes = Completion(render_completion("r", "Likes b."), "stop", 9, 10)
    writer = Writer(**{"Chosen: b": likes, "Chosen: c": likes})
    for reasoning in (True, False):
        model_preferences(
            asked(writer), templates, cases(list("abc")), "m", {**ENTRY, "reasoning": reasoning}, SAMPLING
        )
    first, second = writer.calls[:2]
    assert "Known so far: nothing." in first[0] and "Chosen: b" in first[0] and "Chosen: c" not in first[0]
    assert "Known so far: Likes b." in second[0] and "Chosen: c" in second[0] and "Chosen: b" not in second[0]
    assert writer.calls[2] == first


def test_signals_that_are_a_rendered_prompt_cannot_be_read_in_chunks(templates):
    frame = cases([]).with_columns(rendered=pl.lit("What does this user like?"))
    with pytest.raises(UserError, match="methods.m.streaming needs signals, but those of 'b' are a rendered prompt"):
        run(Writer(), templates, frame)


def test_a_longer_stream_pays_for_its_new_chunk(templates, tmp_path):
    first, second = Writer(), Writer()
    before = run(first, templates, cases(list("abcd"), list("xy")), Journal(tmp_path))
    after = run(second, templates, cases(list("abcdef"), list("xy")), Journal(tmp_path))
    assert [len(call) for call in first.calls] == [2, 1] and [len(call) for call in second.calls] == [1]
    assert after[0]["preference"] == f"[{before[0]['preference']}. New: e f]" and after[1] == before[1]


def test_a_longer_stream_of_a_real_model_pays_for_its_new_chunk(templates, tmp_path):
    path = random_qwen2(tmp_path / "model", "Past New a b c d e f " + OWN, spread=0.05)
    new = []

    def describe(*histories: list[str]) -> list[dict]:
        backend = start(path=str(path), dtype="float32")
        asks = backend.generate
        backend.generate = lambda prompts, *rest: (new.append(len(prompts)), asks(prompts, *rest))[1]
        made = asked(backend, Journal(tmp_path / "journal"))
        entry = {"reasoning": False, "answer": "text", "prompt": "own", "streaming": {"chunk": 2}}
        return model_preferences(made, templates, cases(*histories), "m", entry, SAMPLING).to_dicts()

    before = describe(list("abcd"), list("xyzw"))
    assert new == [2, 2]
    steps = describe(list("ab"), list("abcd"), list("abcdef"), list("xyzw"))
    assert new == [2, 2, 1]
    assert [steps[1], steps[3]] == [{**row, "case_id": case} for row, case in zip(before, "13", strict=True)]
    assert steps[2]["completion_tokens"] > steps[1]["completion_tokens"] > steps[0]["completion_tokens"] > 0
