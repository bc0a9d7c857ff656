"""The transformers engine on a GPU against the CPU in float32, and the ties that bfloat16 makes."""

import numpy as np
import pytest
import torch
from alignxplore.engines.base import Choice, Sampling
from alignxplore.engines.transformers import TransformersBackend
from alignxplore.prompts import JUDGE_CHOICES, Prompt

PROMPTS = [Prompt(f"Post: {'travel ' * n} Which is better?", prefill='{"selection": "Response') for n in range(1, 65)]


@pytest.fixture(scope="module")
def on_cpu(tiny_model) -> TransformersBackend:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return TransformersBackend(str(tiny_model))


def logprobs(engine: TransformersBackend) -> np.ndarray:
    """Log-probabilities of both choices, (prompts, 2)."""
    answers = dict(pair for batch in engine.choice_logprobs(PROMPTS, JUDGE_CHOICES) for pair in batch)
    assert all(isinstance(answer, Choice) for answer in answers.values())
    return np.array([answers[index].logprobs for index in range(len(PROMPTS))])


def texts(engine: TransformersBackend) -> list[str]:
    sampling = Sampling(0, 1, 0, 24, seed=0)
    answers = dict(pair for batch in engine.generate(PROMPTS, [0] * len(PROMPTS), sampling) for pair in batch)
    return [answers[index].text for index in range(len(PROMPTS))]


def test_float32_is_the_same_on_both(tiny_model, on_cpu, figures):
    here = TransformersBackend(str(tiny_model))
    figures["largest difference, nats"] = float(np.abs(logprobs(here) - logprobs(on_cpu)).max())
    figures["equal greedy completions"] = float(
        np.mean([a == b for a, b in zip(texts(here), texts(on_cpu), strict=True)])
    )
    assert figures["largest difference, nats"] < 1e-3
    assert figures["equal greedy completions"] > 0.95


def test_bfloat16_ties_rarely(tiny_model, on_cpu, figures):
    here, exact = logprobs(TransformersBackend(str(tiny_model), dtype="bfloat16")), logprobs(on_cpu)
    figures["mean difference, nats"] = float(np.abs(here - exact).mean())
    figures["ties"] = float((here[:, 0] == here[:, 1]).mean())
    figures["same choice"] = float((here.argmax(1) == exact.argmax(1)).mean())
    assert figures["ties"] == 0
    assert figures["mean difference, nats"] < 0.2
