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
from alignxplore.training import lora
from alignxplore.workflow.config import OF_EVALUATION

Arguments = TypeVar("Arguments", bound=TrainingArguments)

RUN_SETTINGS = frozenset(
    {
        "disable_tqdm", "log_rollouts", "project", "report_to", "run_name", "save_steps", "save_strategy",
        "save_total_limit",
    }
)  # fmt: skip
"""The settings of `training.run`: when to save checkpoints, what to keep of rollouts, and where to report progress.
They change no checkpoint."""

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

_REFUSED = {
    "training.held_out turns evaluation on, and eval_steps says when": "eval_strategy do_eval do_predict",
    "an evaluation samples as many rollouts at once as a step does": "per_device_eval_batch_size",
    "an evaluation samples descriptions and asks for their rewards, and computes nothing else": """
        eval_do_concat_batches eval_use_gather_object eval_accumulation_steps eval_packing prediction_loss_only
        include_for_metrics batch_eval_metrics label_names bf16_full_eval fp16_full_eval""",
    "prompts and completions are encoded as at inference, before the trainer gets them": """
        chat_template_path chat_template_kwargs eos_token pad_token dataset_text_field dataset_kwargs dataset_num_proc
        completion_only_loss assistant_only_loss remove_unused_columns""",
    "set attn_implementation, dtype, and the revision of the model instead": "model_init_kwargs",
    "code that comes with a model is never run": "trust_remote_code",
    "the trained model is written to models/trained alone; upload it from there": """
        push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
        log_completions_hub_repo""",
    "an interrupted run resumes by itself, from its last whole checkpoint": """
        resume_from_checkpoint save_only_model enable_jit_checkpoint""",
    "processes may run different numbers of forward passes": "ddp_broadcast_buffers ddp_static_graph",
    "a sequence is never split over processes": "parallelism_config",
    "TRL has deprecated it, and it replaces parts of the model": "use_liger_kernel liger_kernel_config",
    "the losses (Eq. 8, Eq. 9) smooth no labels": "label_smoothing_factor",
    "there is one reward (Eq. 3)": "reward_weights",
    "the policy has no tools": "max_tool_calling_iterations",
}
_REFUSED_BY_SFT = {
    "only GRPO is evaluated while it trains": " ".join(OF_EVALUATION),
    "the loss is Eq. 8": "loss_type",
    "the loss (Eq. 8) balances no experts": "router_aux_loss_coef",
    "Eq. 8 needs each sequence in its own row": "packing packing_strategy padding_free",
    "sequences longer than max_length are left out, not cut": "truncation_mode",
}
REFUSED: dict[str, dict[str, str]] = {
    "GRPOConfig": {name: reason for reason, names in _REFUSED.items() for name in names.split()},
    "SFTConfig": {name: r for r, names in {**_REFUSED, **_REFUSED_BY_SFT}.items() for name in names.split()},
}
"""Why TRL's settings may only have their default, by class: any other value would have no effect here, or a wrong one.

tests/integration/test_trl_settings.py says of every other setting of TRL how it is known to work.
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Checked training settings: `trainer` holds TRL's, the other fields are our own."""

    trainer: dict[str, Any]
    adapter: str | None = None
    """That of the entry of the model that training starts from."""
    attn_implementation: str | None = None
    chat_template: str | Mapping[str, Any] | None = None
    """That of the entry of the model that training starts from; the checkpoint keeps it."""
    credit: str | Mapping[str, float] = "own"
    """Of GRPO over the steps of streams: what a rollout gets of the next step's rewards."""
    dtype: str = "float32"
    lora: Mapping[str, Any] | None = None
    """Settings of the adapter that is trained; without them, all weights are."""
    log_rollouts: int = 8
    """Rollouts of each step, and of each evaluation, that a table keeps."""
    max_held_out: int | None = None
    """The most held-out examples that an evaluation uses: the first ones of their file."""
    max_prompt_length: int | None = None
    """In tokens; examples with a longer prompt are left out. The past of a stream's step does not count."""
    revision: str | None = None
    stop: Sequence[str] = ()
    """That of the same entry; these texts end a rollout."""
    synthesis_phrases: Sequence[str] = ("putting", "taken together", "all in all", "overall", "in sum", "combining")
    """Phrases that mark reasoning which draws its observations together (section 4.5)."""


OWN_SETTINGS = tuple(field.name for field in dataclasses.fields(Settings) if field.name != "trainer")


def check_settings(values: Mapping[str, Any], config: type[TrainingArguments]) -> Settings:
    """The settings, after checking names and plain types against TRL's class `config`; UserError names a wrong key.

    So it does for a setting of REFUSED with another value than the default, and for those of `lora`.
    """
    fields = {field.name: field.default for field in dataclasses.fields(config) if field.init} | DEFAULTS
    del fields["output_dir"]
    hints = {**typing.get_type_hints(config), **typing.get_type_hints(Settings)}
    _check(values, [*fields, *OWN_SETTINGS], hints, config, REFUSED[config.__name__], fields)
    if values.get("lora") is not None:
        check_lora(values["lora"])
    own = {name: value for name, value in values.items() if name in OWN_SETTINGS}
    return Settings({name: value for name, value in values.items() if name not in OWN_SETTINGS}, **own)


def check_lora(values: Mapping[str, Any]) -> None:
    """Check the settings of `lora` in the same way, against peft's LoraConfig."""
    from peft import LoraConfig  # slow to import, and most trainings do not need it

    fields = {field.name: field.default for field in dataclasses.fields(LoraConfig)}
    hints = {**typing.get_type_hints(LoraConfig), **lora.OWN}
    _check(values, [*fields, *lora.OWN], hints, LoraConfig, lora.REFUSED, fields, "lora.")
    for name, allowed in lora.VALUES.items():
        if values.get(name, allowed[0]) not in allowed:
            said = ", ".join(map(repr, allowed))
            raise UserError(f"training setting 'lora.{name}' must be one of {said}, not {values[name]!r}")
    lora.peft_config(values)


def _check(
    values: Mapping[str, Any],
    known: Sequence[str],
    hints: Mapping[str, Any],
    config: type,
    refused: Mapping[str, str],
    defaults: Mapping[str, Any],
    prefix: str = "",
) -> None:
    """Raise UserError for the first name that is not known, or value that has a wrong type or is refused."""
    for name, value in values.items():
        key = f"training setting {prefix + name!r}"
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{key} is unknown to {config.__name__}{hint}")
        if not _fits(value, hints[name]):
            raise UserError(f"{key} must be {_names(hints[name])}, not {value!r}")
        if name in refused and value != defaults[name]:
            raise UserError(f"{key} cannot be {value!r}: {refused[name]}")


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
    if not set(members) <= {bool, int, float, str, types.NoneType}:
        return True
    return type(value) in members or (type(value) is int and float in members)


def _names(hint: Any) -> str:
    return " or ".join(member.__name__ for member in _members(hint) if member is not types.NoneType)


def _members(hint: Any) -> tuple[Any, ...]:
    """The member types of a union, or the hint itself."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else (hint,)
