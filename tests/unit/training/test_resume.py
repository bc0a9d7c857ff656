"""Training that is stopped at any moment and resumed ends with the same bytes as an uninterrupted run."""

import os
import signal

import pytest
from alignxplore.digests import directory_digest
from alignxplore.errors import UserError
from alignxplore.training.checkpoints import partial_directory
from small_training import STEPS, letters, outcome, train


@pytest.fixture(scope="module")
def uninterrupted(ending_model, tmp_path_factory) -> tuple[str, bytes]:
    output = tmp_path_factory.mktemp("uninterrupted") / "policy"
    train(ending_model, output)
    assert directory_digest(output) != directory_digest(ending_model)
    assert not list(output.parent.glob(".*"))
    assert not list(output.glob("checkpoint-*"))
    return outcome(output)


class Failing:
    """A judge that is down when it is asked for the `at`-th time."""

    def __init__(self, at: int):
        self.at, self.asked = at, 0

    def __call__(self, parsed, cases):
        self.asked += 1
        if self.asked == self.at:
            raise UserError("the judge is down")
        return letters(parsed, cases)


@pytest.mark.parametrize("at", [1, 2, 5, 9])
def test_failed_reward_stops_training_and_saves_the_last_step(ending_model, uninterrupted, tmp_path, at):
    output = tmp_path / "policy"
    with pytest.raises(UserError, match="the judge is down"):
        train(ending_model, output, Failing(at))
    assert not output.exists() and not output.with_suffix(".parquet").exists()
    with pytest.raises(UserError, match="the judge is down"):
        train(ending_model, output, Failing(1))  # still
    again = Failing(0)
    train(ending_model, output, again)
    assert again.asked == STEPS - (at - 1)  # no step is paid twice
    assert outcome(output) == uninterrupted


def test_sigterm_finishes_and_saves_the_current_step(ending_model, uninterrupted, tmp_path):
    output = tmp_path / "policy"

    def stopped(parsed, cases):
        stopped.asked += 1
        if stopped.asked == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return letters(parsed, cases)

    stopped.asked = 0
    with pytest.raises(UserError, match="stopped after step 5, which is saved; run again to resume"):
        train(ending_model, output, stopped)
    again = Failing(0)
    train(ending_model, output, again)
    assert again.asked == STEPS - 5
    assert outcome(output) == uninterrupted


def test_truncated_checkpoint_is_skipped(ending_model, uninterrupted, tmp_path):
    output = tmp_path / "policy"
    with pytest.raises(UserError):
        train(ending_model, output, Failing(9))
    partial = partial_directory(output)
    kept = sorted(int(path.name.split("-")[1]) for path in partial.glob("checkpoint-*"))
    assert kept == [6, 8]  # two at most
    (partial / "checkpoint-8/trainer_state.json").write_text('{"global_step": 8')
    again = Failing(0)
    train(ending_model, output, again)
    assert again.asked == STEPS - 6
    assert outcome(output) == uninterrupted


def test_damaged_checkpoints_are_removed_before_new_ones_are_saved(ending_model, uninterrupted, tmp_path):
    output = tmp_path / "policy"
    with pytest.raises(UserError):
        train(ending_model, output, Failing(9))
    damaged = list(partial_directory(output).glob("checkpoint-*"))
    for checkpoint in damaged:
        (checkpoint / "trainer_state.json").write_text("{")
        os.utime(checkpoint, (2e9, 2e9))  # the trainer removes the oldest: without this, whichever is first by number
    again = Failing(0)
    train(ending_model, output, again)
    assert len(damaged) == 2 and again.asked == STEPS
    assert outcome(output) == uninterrupted


def test_first_run_logs_no_warning_about_another_run(ending_model, tmp_path, caplog):
    train(ending_model, tmp_path / "policy", max_steps=1)
    assert "belongs to a run" not in caplog.text


def test_changed_settings_start_from_scratch(ending_model, uninterrupted, tmp_path, caplog):
    output = tmp_path / "policy"
    with pytest.raises(UserError):
        train(ending_model, output, Failing(5), learning_rate=2e-2)
    again = Failing(0)
    train(ending_model, output, again)
    assert again.asked == STEPS
    assert "belongs to a run with other settings" in caplog.text
    assert outcome(output) == uninterrupted


def test_model_card_lists_base_model_settings_and_metrics(ending_model, tmp_path):
    output = tmp_path / "policy"
    train(ending_model, output, max_steps=2)
    card = (output / "README.md").read_text()
    assert card.startswith(f"---\nbase_model: {ending_model}\n")
    for text in ("# policy", "2 steps on `", "learning_rate: 0.01", "| reward | ", directory_digest(ending_model)):
        assert text in card
