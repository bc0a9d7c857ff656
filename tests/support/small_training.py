"""A GRPO training of a few seconds, with a checkpoint every three steps."""

from pathlib import Path

from alignxplore.digests import directory_digest
from alignxplore.prompts import Prompt, Templates
from alignxplore.training import grpo, loop
from alignxplore.training.checkpoints import run_facts
from alignxplore.training.metrics import GRPO_METRICS

SETTINGS = {
    "per_device_train_batch_size": 6, "num_generations": 3, "max_completion_length": 6, "learning_rate": 1e-2,
    "temperature": 0.9, "top_p": 0.95, "top_k": 10, "max_steps": 12, "seed": 5, "gradient_accumulation_steps": 2,
    "save_steps": 3,
}  # fmt: skip
QUESTIONS = ["Post: travel", "likes humor", "a joke would help", "no", "a passport", "quick"]
HELD_OUT = [f"dislikes {number} passports" for number in range(25)]
STEPS = SETTINGS["max_steps"]


def letters(parsed, cases):
    """A reward that needs no judge: 1 for a text with an `e`."""
    return [float("e" in item.preference) for item in parsed]


def train(model: Path, output: Path, reward=letters, held_out: int = 0, **settings) -> None:
    """Write the trained model to `output`, and its metrics and rollouts beside it.

    It is evaluated on `held_out` examples.
    """
    settings = {**SETTINGS, **settings}
    prompts = [Prompt(text) for text in [*QUESTIONS, *HELD_OUT[:held_out]]]
    cases = [{"example_id": prompt.user} for prompt in prompts]
    trainer = grpo.make_trainer(settings, model, cases, prompts, reward, output, held_out=held_out)
    facts = run_facts("grpo", settings, model, __file__, Templates())
    loop.complete(trainer, facts, output, metrics_of(output), GRPO_METRICS, rollouts_of(output))


def metrics_of(output: Path) -> Path:
    return output.with_suffix(".parquet")


def rollouts_of(output: Path) -> Path:
    return output.with_suffix(".rollouts.parquet")


def outcome(output: Path) -> tuple[str, bytes, bytes]:
    """The digest of a trained model, and the bytes of its metrics and rollouts."""
    return directory_digest(output), metrics_of(output).read_bytes(), rollouts_of(output).read_bytes()
