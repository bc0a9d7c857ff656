"""A GRPO training over the steps of streams that takes seconds, with a checkpoint every three steps."""

from pathlib import Path

from alignxplore.formats import Parsed
from alignxplore.prompts import Prompt, Templates, mark_user_text
from alignxplore.training import grpo, loop
from alignxplore.training.checkpoints import run_facts
from alignxplore.training.metrics import GRPO_METRICS
from small_training import SETTINGS as SMALL

SETTINGS = {**SMALL, "max_steps": 10}
TOPICS = {"travel": 2, "humor": 3, "a joke": 1, "a passport": 2, "quick": 3, "few": 2}
"""Streams, and how many steps each has."""
SHARES = {"carried": 0.9, "others": 0.45}


def steps_of(topics: dict[str, int]) -> list[dict]:
    """The steps of streams, in an order that is not that of training."""
    return [
        {"example_id": f"{name} {number}", "stream": name, "chunks": [1] * number, "text": f"{name} {number}"}
        for number in range(max(topics.values()), 0, -1)
        for name, count in topics.items()
        if number <= count
    ]


def update(case: dict, past: str) -> Prompt:
    """The prompt of a step with its past."""
    return Prompt(f"Post: {case['text']} likes {mark_user_text(past)}")


def letters(parsed, cases):
    """A reward that needs no judge: 1 for a text with an `e`."""
    return [float("e" in item.preference) for item in parsed]


def make(model: Path, output: Path, reward=letters, topics=TOPICS, **settings) -> grpo.PreferenceStreamTrainer:
    """A trainer that takes the whole text of a rollout for a description in format."""
    cases = steps_of(topics)
    prompts = [update(case, "") for case in cases]
    trainer = grpo.make_trainer({**SETTINGS, **settings}, model, cases, prompts, reward, output, update=update)
    trainer.parse = lambda ids: Parsed("r", trainer.processing_class.decode(ids, skip_special_tokens=True), True)
    return trainer


def train(model: Path, output: Path, reward=letters, **settings) -> None:
    """Write the trained model to `output`, and its metrics beside it."""
    trainer = make(model, output, reward, **settings)
    facts = run_facts("grpo", {**SETTINGS, **settings}, model, __file__, Templates())
    rollouts = output.with_suffix(".rollouts.parquet")
    loop.complete(trainer, facts, output, output.with_suffix(".parquet"), GRPO_METRICS, rollouts)
