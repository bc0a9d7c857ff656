"""Checkpoints of an unfinished training: sealed when saved, and resumed only if they are whole and of the same run."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from alignxplore import adapters
from alignxplore.digests import digest, directory_digest, file_digest
from alignxplore.prompts import Templates
from alignxplore.training.settings import RUN_SETTINGS

log = logging.getLogger(__name__)

SEAL = ".digest"
"""The file in a checkpoint that holds the digest of all its other files."""


def partial_directory(output: Path) -> Path:
    """Where a training keeps its checkpoints until it is complete, for example

        models/trained/.alignxplore.partial/
            run.json           the facts of the run
            checkpoint-10/     weights, optimiser, scheduler, random generators, position in the data
                .digest        the seal, written last
            checkpoint-20/
            rollouts/          what is kept of each step's rollouts
            final/             the finished model, just before it moves to models/trained/alignxplore/

    A checkpoint without a seal was cut short; one whose seal does not match its files is damaged.
    """
    return output.with_name(f".{output.name}.partial")


def run_facts(
    stage: str, settings: Mapping[str, Any], model: str | Path, data: str | Path, templates: Templates, **more: Any
) -> dict[str, Any]:
    """Everything that a training's result depends on, as JSON. A run resumes only checkpoints with its own facts."""
    chat_template = settings.get("chat_template")
    found, lora = adapters.source(model, settings.get("revision"), settings.get("adapter")), settings.get("lora")
    packages = ["torch", "transformers", "trl"]
    packages += ["peft"] if lora is not None or found.adapter is not None else []
    packages += ["bitsandbytes"] if "quantize" in (lora or {}) else []
    return {
        "stage": stage,
        "model": str(model),
        "model_content": directory_digest(model) if Path(model).is_dir() else None,
        "data": str(data),
        "data_content": digest(data),
        "templates": {n: hashlib.sha256(text.encode()).hexdigest() for n, text in sorted(templates.texts.items())},
        **({"chat_template_content": digest(chat_template)} if isinstance(chat_template, str) else {}),
        "settings": {key: value for key, value in settings.items() if key not in RUN_SETTINGS},
        **({} if found.adapter is None else _adapted(found)),
        "versions": {name: version(name) for name in packages},
        **more,
    }


def _adapted(found: adapters.Source) -> dict[str, Any]:
    """The model under an adapter that training starts from, and the adapter's content."""
    base = directory_digest(found.base) if Path(found.base).is_dir() else found.revision
    return {"base": found.base, "base_content": base, "adapter_content": directory_digest(str(found.adapter))}


def resumable(partial: Path, facts: Mapping[str, Any]) -> Path | None:
    """The last whole checkpoint of a run with these facts, if there is one; removes what cannot be resumed.

    All processes call this together.
    """
    state = PartialState()
    if state.is_main_process:
        _claim(partial, facts)
    state.wait_for_everyone()
    # A damaged checkpoint must go: the trainer keeps the newest two, and could keep it instead of one to come.
    for checkpoint in sorted(partial.glob("checkpoint-*"), key=step_of, reverse=True):
        if _is_whole(checkpoint) and _has_best(checkpoint):
            return checkpoint
        state.wait_for_everyone()
        if state.is_main_process:
            shutil.rmtree(checkpoint)
    return None


def step_of(checkpoint: Path) -> int:
    """The number of a checkpoint's step."""
    return int(checkpoint.name.rpartition("-")[2])


def _has_best(checkpoint: Path) -> bool:
    """Whether the best checkpoint until this one, which a run may end with, is whole too; or none is wanted."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    best = state["best_model_checkpoint"]
    return best is None or step_of(Path(best)) == step_of(checkpoint) or _is_whole(Path(best))


def _claim(partial: Path, facts: Mapping[str, Any]) -> None:
    """Empty the directory unless it belongs to a run with these facts."""
    run_file = partial / "run.json"
    text = json.dumps(facts, indent=2, sort_keys=True)
    if not run_file.is_file() or run_file.read_text(encoding="utf-8") != text:
        if run_file.is_file():  # without one, the trainer has just made the directory
            log.warning("%s belongs to a run with other settings or data, and is removed", partial)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        run_file.write_text(text, encoding="utf-8")


def seal(checkpoint: Path) -> None:
    """Write the digest of a checkpoint once every process has written its part."""
    state = PartialState()
    state.wait_for_everyone()
    found = _content(checkpoint)
    if state.is_main_process:
        (checkpoint / SEAL).write_text(found, encoding="utf-8")


def _content(checkpoint: Path) -> str:
    """The digest of a checkpoint's files. Each process reads its share of them: they may take 100 GB.

    Sizes and times are no substitute: silent damage changes bytes alone.
    """
    state = PartialState()
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    share = files[state.process_index :: state.num_processes]
    lines = gather_object([f"{file.relative_to(checkpoint)} {file_digest(file)}" for file in share])
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint still has the bytes that were written, by as many processes as run now."""
    seal_file = checkpoint / SEAL
    intact = seal_file.is_file() and seal_file.read_text(encoding="utf-8") == _content(checkpoint)
    written, running = len(list(checkpoint.glob("rng_state*.pth"))), int(os.environ.get("WORLD_SIZE", "1"))
    if not intact:
        log.warning("%s is torn or damaged, and is removed", checkpoint)
    elif written != running:
        log.warning("%s was written by %d processes, not %d, and is removed", checkpoint, written, running)
    return intact and written == running
