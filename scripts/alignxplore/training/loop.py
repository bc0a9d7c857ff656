"""Runs a trainer to its end: logs progress, saves on SIGTERM, resumes, and moves the complete output into place."""

import logging
import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from accelerate.utils import gather_object
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from alignxplore import records
from alignxplore.errors import UserError
from alignxplore.training import lora
from alignxplore.training.checkpoints import partial_directory, resumable, seal, step_of
from alignxplore.training.metrics import from_history
from alignxplore.training.models import model_card

log = logging.getLogger(__name__)

ROLLOUTS = "rollouts"
"""The directory beside the checkpoints in which a trainer keeps rollouts: a file per step, named by its number."""


class Progress(TrainerCallback):
    """Logs one line per step: step, figures, seconds per step, time left."""

    def __init__(self, figures: Mapping[str, str]):
        """`figures` maps names in the trainer's logs to their labels."""
        self.figures = dict(figures)
        self.started = 0.0
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started, self.first_step = time.monotonic(), state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Whatever logging_steps is, the metrics reach the last step.
        control.should_log |= state.global_step == state.max_steps

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs.get("logs") or {}
        if not state.is_world_process_zero or "grad_norm" not in logs:
            return
        pace = (time.monotonic() - self.started) / max(1, state.global_step - self.first_step)
        log.info(
            "step %d of %d: %s, %.2f s per step, %.0f s left",
            state.global_step,
            state.max_steps,
            self._named(logs),
            pace,
            pace * (state.max_steps - state.global_step),
        )

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            logs = {name.removeprefix("eval_"): value for name, value in kwargs["metrics"].items()}
            log.info("held out after step %d: %s", state.global_step, self._named(logs))

    def _named(self, logs: Mapping[str, float]) -> str:
        """The figures that are in a trainer's logs, with their labels."""
        found = ((label, logs.get(name)) for name, label in self.figures.items())
        return ", ".join(f"{label} {value:.4g}" for label, value in found if value is not None)


class Interruptions(TrainerCallback):
    """Seals checkpoints, and saves one on SIGTERM, so that a run can stop at any moment and lose no step.

    Clusters send SIGTERM some time before they kill. The signal only sets a flag; the step that is under way ends
    first, and is saved:

        step 4 | rollouts  judge  update | step 5 | rollouts  judge  update | save, stop
                                                      ^ SIGTERM

    transformers' own `enable_jit_checkpoint` saves in the middle of a step, whose rollouts are then sampled twice.
    """

    def __init__(self) -> None:
        self.is_stopping = False
        self.states: tuple[Any, ...] | None = None
        """The states of all random generators at the end of the last step."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        def stop(signum: int, frame: Any) -> None:
            log.warning("asked to stop: finishing this step, then saving it")
            self.is_stopping = True

        self._handler = signal.signal(signal.SIGTERM, stop)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.states = random_states()
        # The signal may reach one process before the step's end and another after it. All must stop at the same
        # step, or they would wait for each other.
        asked = gather_object([self.is_stopping])
        if any(asked) and state.global_step < state.max_steps:
            self.is_stopping = True
            control.should_save = control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        signal.signal(signal.SIGTERM, self._handler)

    def restore(self) -> None:
        """Set the random generators back to the end of the last step."""
        assert self.states is not None, "no step has ended"
        restore_random_states(self.states)


def random_states() -> tuple[Any, ...]:
    """The states of all random generators of this process."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), devices


def restore_random_states(states: tuple[Any, ...]) -> None:
    """Set the random generators back to the states that `random_states` returned."""
    own, numpy_state, torch_state, devices = states
    random.setstate(own)
    np.random.set_state(numpy_state)
    torch.set_rng_state(torch_state)
    torch.cuda.set_rng_state_all(devices)


def run(trainer: Trainer, checkpoint: Path | None = None) -> None:
    """Train to the end, from `checkpoint` if there is one.

    Raises UserError if the process was asked to stop or a reward could not be computed, once the last finished step is
    saved.
    """
    trainer.remove_callback(PrinterCallback)  # prints each step's figures, which Progress logs
    interruptions = Interruptions()
    trainer.add_callback(interruptions)
    if checkpoint is not None:
        trainer.args.eval_on_start = False  # it would evaluate the checkpoint
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except UserError:
        # With several processes the last regular checkpoint has to do: saving takes all of them, and the others are
        # waiting for this one. If no step has ended yet, the checkpoint that the run began with is still current.
        # A step whose evaluation failed is made again, with its evaluation.
        ended = interruptions.states is not None and not trainer.control.should_evaluate
        if trainer.accelerator.num_processes == 1 and ended:
            interruptions.restore()
            trainer._save_checkpoint(trainer.model, trial=None)
            seal(Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}")
            log.error("stopped after step %d, which is saved; run again to resume", trainer.state.global_step)
        raise
    if trainer.state.global_step < trainer.state.max_steps:
        raise UserError(f"stopped after step {trainer.state.global_step}, which is saved; run again to resume")


def complete(
    trainer: Trainer,
    facts: Mapping[str, Any],
    output: Path,
    metrics: str | Path,
    schema: pl.Schema,
    rollouts: str | Path | None = None,
) -> None:
    """Train, resuming an interrupted run with the same `facts`; write each step's metrics, and the model to `output`.

    The rollouts that the trainer has kept, if any, go to the file `rollouts`. The output is a standard Hugging Face
    directory: safetensors, tokenizer, chat template, generation config, and a model card with the facts; with `lora`,
    an adapter's. It is written elsewhere and moved into place when it is complete.
    """
    partial = partial_directory(output)
    checkpoint = resumable(partial, facts)
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint)
    if trainer.is_world_process_zero():
        _drop_rollouts_after(0 if checkpoint is None else step_of(checkpoint), partial)
    run(trainer, checkpoint)
    final = partial / "final"
    trainer.save_model(str(final))  # on every process: under ZeRO-3 each holds a part of the weights
    if trainer.is_world_process_zero():
        steps = from_history(trainer.state.log_history, schema)
        records.write(steps, metrics, schema)
        if facts["settings"].get("lora") is not None:
            lora.finish(final, facts, trainer)
        if rollouts is not None:
            records.write(_kept_rollouts(partial), rollouts, records.ROLLOUT)
        trainer.processing_class.save_pretrained(final)
        (final / "training_args.bin").unlink(missing_ok=True)  # a pickle
        if (partial / "completions").exists():  # of log_completions
            shutil.move(partial / "completions", final)
        best = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
        (final / "README.md").write_text(model_card(output.name, facts, steps, best), encoding="utf-8")
        shutil.rmtree(output, ignore_errors=True)
        os.replace(final, output)
        shutil.rmtree(partial)
        log.info("saved %s", output)
    trainer.accelerator.wait_for_everyone()


def _drop_rollouts_after(step: int, partial: Path) -> None:
    """Remove the rollouts of later steps, which are made again."""
    for file in (partial / ROLLOUTS).glob("*.parquet"):
        if int(file.stem.partition("-")[0]) > step:
            file.unlink()


def _kept_rollouts(partial: Path) -> pl.DataFrame:
    """The rollouts of all steps, each with those of the evaluation after it."""
    files = sorted((partial / ROLLOUTS).glob("*.parquet"), key=lambda file: file.stem)
    return pl.concat([records.ROLLOUT.to_frame(), *(records.read(file, records.ROLLOUT) for file in files)])
