"""A trained model in use."""

import numpy as np
import pytest
from alignxplore import signals
from alignxplore.engines import Completion, Sampling
from alignxplore.errors import UserError
from alignxplore.prompts import Templates

TEMPLATES = Templates(**{name: f"resources/prompts/{name}.jinja" for name in ("preference", "judge")})


class Refusing:
    name = "m"

    def generate(self, prompts, sampling):
        return [Completion("", "refused", 0, 0) for _ in prompts]

    def choice_logprobs(self, prompts, choices):
        return np.full((len(prompts), 2), np.nan)


def test_a_refusal_is_no_description_and_no_tie():
    user = {"pairs": [{"prompt": "p", "chosen": "c", "rejected": "r"}], "ugc": []}
    completion, parsed = signals.infer(Refusing(), TEMPLATES, user, Sampling(0, 1, 0, 8, 1))
    assert completion.finish_reason == "refused" and parsed.preference == "" and not parsed.format_ok
    with pytest.raises(UserError, match="model m refuses the prompt"):
        signals.judge(Refusing(), TEMPLATES, "likes tea", "post", "one", "two")
