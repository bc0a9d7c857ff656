"""Training settings, TRL's and our own: checked first, then turned into the trainer's arguments."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformers import TrainingArguments

from alignxplore.errors import UserError

Arguments = TypeVar("Arguments", bound=TrainingArguments)

RUN_SETTINGS = frozenset({"disable_tqdm", "report_to", "save_steps", "save_strategy", "save_total_limit"})
"""The settings of `training.run`: when to save checkpoints and where to report progress. They change no result."""

DEFAULTS: dict[str, Any] = {
    "bf16": False,
    # Processes may run different numbers of forward passes: some have rollouts with an advantage, others have none.
    "ddp_broadcast_buffers": False,
    "dataloader_num_workers": 0,
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "steps",
    "save_steps": 10,
    "save_total_limit": 2,  # the newest may have been cut short
}
"""Our defaults for both stages, over TRL's."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Checked training settings: `trainer` holds TRL's, the other fields are our own."""

    trainer: dict[str, Any]
    attn_implementation: str | None = None
    chat_template: str | Mapping[str, Any] | None = None
    """That of the entry of the model that training starts from; the checkpoint keeps it."""
    dtype: str = "float32"
    max_prompt_length: int | None = None
    """In tokens; examples with a longer prompt are left out."""
    revision: str | None = None
    stop: Sequence[str] = ()
    """That of the same entry; these texts end a rollout."""
    synthesis_phrases: Sequence[str] = ("putting", "taken together", "all in all", "overall", "in sum", "combining")
    """Phrases that mark reasoning which draws its observations together (section 4.5)."""


OWN_SETTINGS = tuple(field.name for field in dataclasses.fields(Settings) if field.name != "trainer")


def check_settings(values: Mapping[str, Any], config: type[TrainingArguments]) -> Settings:
    """The settings, after checking names and plain types against TRL's class `config`; UserError names a wrong key."""
    fields = {field.name for field in dataclasses.fields(config) if field.init} - {"output_dir"}
    hints = {**typing.get_type_hints(config), **typing.get_type_hints(Settings)}
    known = [*fields, *OWN_SETTINGS]
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"training setting {name!r} is unknown to {config.__name__}{hint}")
        if not _fits(value, hints[name]):
            raise UserError(f"training setting {name!r} must be {_names(hints[name])}, not {value!r}")
    own = {name: value for name, value in values.items() if name in OWN_SETTINGS}
    return Settings({name: value for name, value in values.items() if name not in OWN_SETTINGS}, **own)


def make_arguments(config: type[Arguments], settings: Settings, defaults: Mapping[str, Any], output: Path) -> Arguments:
    """The trainer's arguments: `settings`, over the stage's `defaults`, over DEFAULTS, over TRL's own."""
    merged = {**DEFAULTS, **defaults, **settings.trainer}
    try:
        return config(output_dir=str(output), **merged)
    except (TypeError, ValueError) as error:
        raise UserError(f"training settings: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has one of the plain types of `hint`. Types that are not plain are left to TRL.

    The check matters because YAML reads 1e-6, without a dot, as a string.
    """
    members = _members(hint)
    if value is None or not set(members) <= {bool, int, float, str, types.NoneType}:
        return True
    return type(value) in members or (type(value) is int and float in members)


def _names(hint: Any) -> str:
    return " or ".join(member.__name__ for member in _members(hint) if member is not types.NoneType)


def _members(hint: Any) -> tuple[Any, ...]:
    """The member types of a union, or the hint itself."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else (hint,)
