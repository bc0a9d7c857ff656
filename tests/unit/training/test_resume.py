"""Training stopped at any moment and run again ends in the bytes of a training that nobody disturbed."""

import os
import signal

import pytest
from alignxplore.digests import directory_digest
from alignxplore.errors import UserError
from alignxplore.training.checkpoints import partial_directory
from small_training import STEPS, letters, outcome, train


@pytest.fixture(scope="module")
def undisturbed(ending_model, tmp_path_factory) -> tuple[str, bytes]:
    output = tmp_path_factory.mktemp("undisturbed") / "policy"
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
def test_a_reward_that_fails_stops_the_run_with_its_state_saved(ending_model, undisturbed, tmp_path, at):
    output = tmp_path / "policy"
    with pytest.raises(UserError, match="the judge is down"):
        train(ending_model, output, Failing(at))
    assert not output.exists() and not output.with_suffix(".parquet").exists()
    with pytest.raises(UserError, match="the judge is down"):
        train(ending_model, output, Failing(1))  # still
    again = Failing(0)
    train(ending_model, output, again)
    assert again.asked == STEPS - (at - 1)  # no step is paid twice
    assert outcome(output) == undisturbed


def test_a_run_that_is_asked_to_stop_finishes_its_step(ending_model, undisturbed, tmp_path):
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
    assert outcome(output) == undisturbed


def test_a_checkpoint_that_was_cut_short_is_not_believed(ending_model, undisturbed, tmp_path):
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
    assert outcome(output) == undisturbed


def test_checkpoints_that_are_all_damaged_do_not_outlive_the_new_ones(ending_model, undisturbed, tmp_path):
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
    assert outcome(output) == undisturbed


def test_a_first_training_warns_of_no_other(ending_model, tmp_path, caplog):
    train(ending_model, tmp_path / "policy", max_steps=1)
    assert "belongs to a run" not in caplog.text


def test_other_settings_start_afresh(ending_model, undisturbed, tmp_path, caplog):
    output = tmp_path / "policy"
    with pytest.raises(UserError):
        train(ending_model, output, Failing(5), learning_rate=2e-2)
    again = Failing(0)
    train(ending_model, output, again)
    assert again.asked == STEPS
    assert "belongs to a run with other settings" in caplog.text
    assert outcome(output) == undisturbed


def test_the_model_card_tells_what_the_model_was_made_of(ending_model, tmp_path):
    output = tmp_path / "policy"
    train(ending_model, output, max_steps=2)
    card = (output / "README.md").read_text()
    assert card.startswith(f"---\nbase_model: {ending_model}\n")
    for text in ("# policy", "2 steps on `", "learning_rate: 0.01", "| reward | ", directory_digest(ending_model)):
        assert text in card
