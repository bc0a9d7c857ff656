"""Options that say how something is run, not what comes out: a changed one reruns nothing and keeps every answer.

Rules leave them out of their parameters; scripts take them from the configuration as it is when a job starts.
"""

from collections.abc import Collection, Mapping
from typing import Any

MODEL_OPTIONS = frozenset({"batch_tokens", "gpu", "concurrency", "timeout", "retries", "key_env", "price"})
"""Of an entry of `models`: how the model is run, reached and paid. (`max_model_len` can cut an answer short.)"""

TRAINING_OPTIONS = frozenset({"disable_tqdm", "report_to", "save_steps", "save_strategy", "save_total_limit"})
"""Of training settings: when checkpoints are kept, and who is told of the progress."""


def without(options: Collection[str], entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry without these options."""
    return {name: value for name, value in entry.items() if name not in options}


def restored(options: Collection[str], entry: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    """`entry` with those of the options that are in `whole`."""
    return {**entry, **{name: whole[name] for name in options if name in whole}}


def of_model(entry: Mapping[str, Any], config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A rule's entry of a model, with the options that the config now gives the model of this name."""
    return restored(MODEL_OPTIONS, entry, config["models"][name])


def of_judge(entry: Mapping[str, Any], config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A rule's entry of a judge, whose `model` is the entry of the model of this name."""
    return {**entry, "model": of_model(entry["model"], config, name)}
