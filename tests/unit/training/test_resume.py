"""Training that is stopped at any moment and resumed ends with the same bytes as an uninterrupted run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alignxplore.digests import directory_digest
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt, Templates
from alignxplore.training import grpo, loop
from alignxplore.training.checkpoints import partial_directory, run_facts
from alignxplore.training.metrics import GRPO_METRICS

SETTINGS = {
    "per_device_train_batch_size": 6, "num_generations": 3, "max_completion_length": 6, "learning_rate": 1e-2,
    "temperature": 0.9, "top_p": 0.95, "top_k": 10, "max_steps": 12, "seed": 5, "gradient_accumulation_steps": 2,
    "save_steps": 3,
}  # fmt: skip
QUESTIONS = ["Post: travel", "likes humor", "a joke would help", "no", "a passport", "quick"]
STEPS = SETTINGS["max_steps"]


def letters(parsed, cases):
    return [float("e" in item.preference) for item in parsed]


def train(model: Path, output: Path, reward=letters, **settings) -> None:
    settings = {**SETTINGS, **settings}
    prompts = [Prompt(text) for text in QUESTIONS]
    trainer = grpo.make_trainer(settings, model, [{} for _ in prompts], prompts, reward, output)
    facts = run_facts("grpo", settings, model, __file__, Templates())
    loop.complete(trainer, facts, output, output.with_suffix(".parquet"), GRPO_METRICS)


def outcome(output: Path) -> tuple[str, bytes]:
    return directory_digest(output), output.with_suffix(".parquet").read_bytes()


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory) -> Path:
    """The tiny model, with a third of its tokens as end tokens, so that completions differ in length."""
    path = tmp_path_factory.mktemp("resume") / "ending"
    shutil.copytree(tiny_model, path)
    config = json.loads((path / "generation_config.json").read_text())
    config["eos_token_id"] = [config["eos_token_id"], *range(3, 400, 3)]
    (path / "generation_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def uninterrupted(model, tmp_path_factory) -> tuple[str, bytes]:
    output = tmp_path_factory.mktemp("uninterrupted") / "policy"
    train(model, output)
    assert directory_digest(output) != directory_digest(model)
    assert not list(output.parent.glob(".*"))
    assert not list(output.glob("checkpoint-*"))
    return outcome(output)


class Failing:
    """A reward that fails the `at`-th time that it is asked; 0 never fails."""

    def __init__(self, at: int):
        self.at, self.asked = at, 0

    def __call__(self, parsed, cases):
        self.asked += 1
        if self.asked == self.at:
            raise UserError("the judge is down")
        return letters(parsed, cases)


@pytest.mark.parametrize("at", [1, 2, 5, 9])
def test_failed_reward_stops_training_and_saves_the_last_step(model, uninterrupted, tmp_path, at):
    output = tmp_path / "policy"
    with pytest.raises(UserError, match="the judge is down"):
        train(model, output, Failing(at))
    assert not output.exists() and not output.with_suffix(".parquet").exists()
    with pytest.raises(UserError, match="the judge is down"):
        train(model, output, Failing(1))  # the judge is still down
    again = Failing(0)
    train(model, output, again)
    assert again.asked == STEPS - (at - 1)  # no step is computed twice
    assert outcome(output) == uninterrupted


def test_sigterm_finishes_and_saves_the_current_step(model, uninterrupted, tmp_path):
    output = tmp_path / "policy"

    def stopped(parsed, cases):
        stopped.asked += 1
        if stopped.asked == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return letters(parsed, cases)

    stopped.asked = 0
    with pytest.raises(UserError, match="stopped after step 5, which is saved; run again to resume"):
        train(model, output, stopped)
    again = Failing(0)
    train(model, output, again)
    assert again.asked == STEPS - 5
    assert outcome(output) == uninterrupted


def test_truncated_checkpoint_is_skipped(model, uninterrupted, tmp_path):
    output = tmp_path / "policy"
    with pytest.raises(UserError):
        train(model, output, Failing(9))
    partial = partial_directory(output)
    kept = sorted(int(path.name.split("-")[1]) for path in partial.glob("checkpoint-*"))
    assert kept == [6, 8]  # two at most
    (partial / "checkpoint-8/trainer_state.json").write_text('{"global_step": 8')
    again = Failing(0)
    train(model, output, again)
    assert again.asked == STEPS - 6
    assert outcome(output) == uninterrupted


def test_damaged_checkpoints_are_removed_before_new_ones_are_saved(model, uninterrupted, tmp_path):
    output = tmp_path / "policy"
    with pytest.raises(UserError):
        train(model, output, Failing(9))
    damaged = list(partial_directory(output).glob("checkpoint-*"))
    for checkpoint in damaged:
        (checkpoint / "trainer_state.json").write_text("{")
        os.utime(checkpoint, (2e9, 2e9))  # the trainer removes the oldest; these look newest
    again = Failing(0)
    train(model, output, again)
    assert len(damaged) == 2 and again.asked == STEPS
    assert outcome(output) == uninterrupted


def test_first_run_logs_no_warning_about_another_run(model, tmp_path, caplog):
    train(model, tmp_path / "policy", max_steps=1)
    assert "belongs to a run" not in caplog.text


def test_changed_settings_start_from_scratch(model, uninterrupted, tmp_path, caplog):
    output = tmp_path / "policy"
    with pytest.raises(UserError):
        train(model, output, Failing(5), learning_rate=2e-2)
    again = Failing(0)
    train(model, output, again)
    assert again.asked == STEPS
    assert "belongs to a run with other settings" in caplog.text
    assert outcome(output) == uninterrupted


def test_model_card_lists_base_model_settings_and_metrics(model, tmp_path):
    output = tmp_path / "policy"
    train(model, output, max_steps=2)
    card = (output / "README.md").read_text()
    assert card.startswith(f"---\nbase_model: {model}\n")
    for text in ("# policy", "2 steps on `", "learning_rate: 0.01", "| reward | ", directory_digest(model)):
        assert text in card


JOB = """
import sys
sys.path[:0] = [{tests!r}, {scripts!r}]
from pathlib import Path
from test_resume import train
train(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def killed_at_random_moments(model: Path, output: Path, kills: int, seed: int) -> None:
    """Run the training in child processes: kill `kills` of them at random moments, then let one finish."""
    tests = Path(__file__).parent
    code = JOB.format(tests=str(tests), scripts=str(tests.parents[2] / "scripts"))
    rng = random.Random(seed)
    partial = partial_directory(output)
    while kills:
        process = subprocess.Popen([sys.executable, "-c", code, str(model), str(output)])
        before, wanted = sorted(partial.glob("checkpoint-*")), rng.random() < 0.8
        while process.poll() is None and wanted and sorted(partial.glob("checkpoint-*")) == before:
            time.sleep(0.005)
        # The kill lands while a checkpoint is written, some steps later, or during start-up.
        time.sleep(rng.random() * 0.5)
        process.kill()
        assert process.wait() == -signal.SIGKILL or output.exists()
        if output.exists():
            break
        kills -= 1
    subprocess.run([sys.executable, "-c", code, str(model), str(output)], check=True)


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_training_killed_at_random_moments_resumes(model, uninterrupted, tmp_path, kills):
    output = tmp_path / "policy"
    killed_at_random_moments(model, output, kills, seed=kills)
    assert outcome(output) == uninterrupted
    assert not list(output.parent.glob(".*"))
