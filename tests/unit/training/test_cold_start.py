"""Cold-start data: which of the teacher's generations reach D_cold."""

import numpy as np
import polars as pl
from alignxplore import records
from alignxplore.engines import Completion, Sampling
from alignxplore.formats import render_completion
from alignxplore.judging.judge import Judge
from alignxplore.judging.reward import Reward
from alignxplore.prompts import Templates, strip_markers
from alignxplore.training import cold_start

TEMPLATES = Templates(preference="resources/prompts/preference.jinja", judge="resources/prompts/judge.jinja")
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
