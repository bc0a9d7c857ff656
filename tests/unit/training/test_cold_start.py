"""Cold-start data: which of the teacher's generations reach D_cold."""

import numpy as np
import polars as pl
import pytest
from alignxplore import records
from alignxplore.engines import Completion, Sampling
from alignxplore.errors import UserError
from alignxplore.formats import render_completion
from alignxplore.judging.judge import Judge
from alignxplore.judging.reward import Reward
from alignxplore.prompts import Templates, strip_markers
from alignxplore.training import cold_start

NAMES = ("preference", "update", "judge")
TEMPLATES = Templates(**{name: f"resources/prompts/{name}.jinja" for name in NAMES})
PAIR = {"prompt": "p", "chosen": "c", "rejected": "r", "direction": [1]}


class Teacher:
    """Refuses every second prompt."""

    def generate(self, prompts, sampling):
        good = Completion(render_completion("r", "likes tea"), "stop", 10, 5)
        return [Completion("", "refused", 0, 0) if place % 2 else good for place in range(len(prompts))]


class Approving:
    """A judge that sees the chosen response, "tea", as the better one."""

    def choice_logprobs(self, prompts, choices):
        return np.array([[0.0, -5.0] if "Response A: \ue000tea" in prompt.user else [-5.0, 0.0] for prompt in prompts])


class Untrained:
    """Thinks, and then answers without tags; records what it was asked."""

    def generate(self, prompts, sampling):
        self.asked = prompts, sampling.stop
        return [Completion("<think>r</think>likes tea", "stop", 10, 5)] * len(prompts)


def test_a_teacher_has_a_template_of_its_own_and_answers_without_tags(tmp_path):
    (path := tmp_path / "own.jinja").write_text("{{ dimensions | join('; ') }} {{ pairs[0].chosen | user }}")
    templates = Templates(own=path)
    examples = pl.DataFrame([{"example_id": "a", "pairs": [PAIR], "ugc": []}])
    teacher, sampling = Untrained(), Sampling(0.9, 0.95, 10, 64, seed=1)
    found = cold_start.generate(teacher, templates, examples, {"a": ["D", "E"]}, 1, sampling, "own", "text")
    assert found.select("reasoning", "preference", "format_ok").rows() == [("r", "likes tea", True)]
    ((prompt,), stop) = teacher.asked
    assert strip_markers(prompt.user) == "D; E c" and stop == ()


def test_a_refused_generation_is_dropped(tmp_path):
    examples = pl.DataFrame(
        [
            {
                "example_id": name,
                "user_id": name,
                "prompt": "x",
                "chosen": "tea",
                "rejected": "mud",
                "direction": [1],
                "pairs": [PAIR],
                "ugc": [],
                "golden_preference": "",
                "rendered": "",
                **records.NO_STREAM,
            }
            for name in "ab"
        ],
        schema=records.EXAMPLE,
    )
    sampling = Sampling(0.9, 0.95, 10, 64, seed=1)
    found = cold_start.generate(Teacher(), TEMPLATES, examples, {"a": ["D"], "b": ["D"]}, 2, sampling)
    assert found["finish_reason"].to_list() == ["stop", "refused"] * 2
    records.write(found, tmp_path / "generations.parquet", records.GENERATION)
    scored, kept = cold_start.verify(Reward(Judge("jud", Approving(), TEMPLATES)), found, examples)
    assert scored["reward"].to_list() == [1.0, 0.0] * 2
    assert kept.select("example_id", "generation").rows() == [("a", 0), ("b", 0)]
    judge = Reward(Judge("jud", Approving(), TEMPLATES))
    (one,) = cold_start.verify(judge, found, examples, limit=1)[1].to_dicts()
    reordered = cold_start.verify(judge, found.reverse(), examples, limit=1)[1].to_dicts()
    assert reordered == [one] and cold_start.verify(judge, found, examples, limit=9)[1].equals(kept)


class Scribe:
    """Describes a user by the chosen text of each chunk, and by what it was told; records its prompts."""

    def __init__(self):
        self.calls = []

    def generate(self, prompts, sampling):
        texts = [strip_markers(prompt.user) for prompt in prompts]
        self.calls.append(texts)
        found = []
        for number, text in enumerate(texts):
            past = text.partition("Known so far: ")[2].partition("\n")[0].removesuffix("nothing.")
            new = text.partition("Chosen: ")[2].partition("\n")[0]
            found.append(Completion(render_completion(f"r{number % 3}", f"{past}{new}{number % 3} "), "stop", 10, 5))
        return found


class Particular:
    """A judge that is right about these descriptions only."""

    def __init__(self, *right):
        self.right = right

    def p_chosen(self, cases, preferences):
        return np.array([[0.9 if text in self.right else 0.1] * 2 for text in preferences])


def step(stream, *chosen):
    """A step of a stream whose chunks are one pair each."""
    return {
        "example_id": f"{stream}{len(chosen)}", "user_id": stream, "prompt": "x", "chosen": "tea", "rejected": "mud",
        "direction": [1], "pairs": [{**PAIR, "chosen": text} for text in chosen], "ugc": [], "golden_preference": "",
        "rendered": "", "stream": stream, "chunks": [1] * len(chosen),
    }  # fmt: skip


def over_steps(teacher, rows, *right, **options):
    frame = pl.DataFrame(rows, schema=records.EXAMPLE)
    hints = {row["example_id"]: [f"hint {row['example_id']}"] for row in rows}
    sampling = Sampling(0.9, 0.95, 10, 64, seed=1)
    reward = Reward(Particular(*right))
    return cold_start.generate_over_steps(teacher, reward, TEMPLATES, frame, hints, 3, sampling, **options)


def test_updates_carry_the_first_verified_description(tmp_path):
    rows = [step("u", "a", "b", "c"), step("v", "k"), step("u", "a"), step("u", "a", "b"), step("v", "k", "l")]
    teacher = Scribe()
    scored, kept = over_steps(teacher, rows, "a1", "a2", "k0", "a1b2", "a1b2c0")
    found = kept.sort("example_id").select("example_id", "past", "generation").rows()
    # Of u1, the second is the first verified. No generation of v2 is verified, so it is left out.
    assert found == [("u1", "", 1), ("u1", "", 2), ("u2", "a1", 2), ("u3", "a1b2", 0), ("v1", "", 0)]
    assert [len(texts) for texts in teacher.calls] == [6, 6, 3]
    assert "Known so far: a1b2\n" in teacher.calls[2][0] and "Aspects to consider: hint u3." in teacher.calls[2][0]
    assert "Chosen: c" in teacher.calls[2][0] and "Chosen: b" not in teacher.calls[2][0], "the new chunk alone"
    assert scored.height == 15 and scored["reward"].sum() == 5
    records.write(scored, tmp_path / "scored.parquet", records.SCORED_GENERATION)
    records.write(kept, tmp_path / "d_cold.parquet", records.DEMONSTRATION)
    assert over_steps(Scribe(), rows, "a1", "a2", "k0", "a1b2", "a1b2c0", limit=2)[1].height == 2


def test_a_step_without_a_verified_description_keeps_the_past():
    teacher = Scribe()
    _, kept = over_steps(teacher, [step("u", *"abc"[:count]) for count in (1, 2, 3)], "a0", "a0c1")
    assert kept.select("example_id", "past").rows() == [("u1", ""), ("u3", "a0")]


def test_updates_need_streams():
    rows = [step("u", "a"), {**step("v", "a"), **records.NO_STREAM}]
    with pytest.raises(UserError, match="1 of 2 examples are no steps of streams, such as v1"):
        over_steps(Scribe(), rows)
