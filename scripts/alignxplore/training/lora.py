"""LoRA: training updates an adapter over the frozen weights of a model, which may be quantised (QLoRA).

`lora` in the training settings holds peft's settings under their own names, and two of ours: `quantize` and `merge`.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate.utils import is_peft_model
from transformers import BitsAndBytesConfig, PreTrainedModel, Trainer, TrainingArguments, set_seed
from transformers.integrations import deepspeed

from alignxplore import adapters
from alignxplore.engines import weights
from alignxplore.errors import UserError

if TYPE_CHECKING:
    from peft import LoraConfig

AnyTrainer = TypeVar("AnyTrainer", bound=Trainer)

log = logging.getLogger(__name__)

DEFAULTS = {"target_modules": "all-linear"}
"""Our defaults, over peft's."""

OWN = {"quantize": int, "merge": bool}
"""Our settings: bits of the base's weights, and whether the checkpoint is the whole model."""

_REFUSED = {
    "it is set by the stage": "task_type peft_type inference_mode auto_mapping peft_version",
    "the model that training starts from is named by `from`": "base_model_name_or_path revision",
    "the adapter would then belong to other weights than the model's": "layer_replication loftq_config",
    "it needs data or objects that a setting cannot give": """
        eva_config corda_config lora_ga_config velora_config monteclora_config arrow_config kasa_config use_bdlora
        runtime_config megatron_config megatron_core alora_invocation_tokens use_qalora qalora_group_size""",
}
REFUSED = {name: reason for reason, names in _REFUSED.items() for name in names.split()}
"""Why settings of peft cannot be given."""

VALUES: dict[str, Sequence[Any]] = {
    "quantize": [4],
    "bias": ["none", "all", "lora_only"],
    "init_lora_weights": [True, False, "gaussian", "orthogonal"],  # others change the model's own weights too
}
"""All values of settings that have few."""

_NOT_OF_THE_SHAPE = frozenset({*REFUSED, "lora_dropout", "init_lora_weights"})
"""Settings in which two stages that train one adapter may differ."""


def peft_config(lora: Mapping[str, Any]) -> "LoraConfig":
    """peft's settings of checked `lora` settings. Raises UserError if peft does not accept them."""
    from peft import LoraConfig  # slow to import, and most trainings do not need it

    own = {name: value for name, value in lora.items() if name not in OWN}
    try:
        return LoraConfig(task_type="CAUSAL_LM", **{**DEFAULTS, **own})
    except (TypeError, ValueError) as error:
        raise UserError(f"training setting 'lora': {error}") from error


def quantisation(lora: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The option of `from_pretrained` that quantises a base (Dettmers et al. 2023), if the settings ask for it.

    Products are computed in `dtype`.
    """
    if "quantize" not in lora:
        return {}
    if find_spec("bitsandbytes") is None:
        raise UserError(
            "training setting 'lora.quantize' needs the package bitsandbytes, which is not installed here"
            " (envs/requirements/gpu.txt)"
        )
    if deepspeed.is_deepspeed_zero3_enabled():
        raise UserError("training setting 'lora.quantize': ZeRO-3 cannot shard quantised weights; launch with ZeRO-2")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": config}


def continued(base: PreTrainedModel, adapter: str, lora: Mapping[str, Any]) -> Any:
    """peft's model that goes on training `adapter`.

    Raises UserError if settings that are given disagree with its shape. Its dropout is that of the settings.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

    wanted, config = peft_config(lora), LoraConfig.from_pretrained(adapter)
    differing = {n for n in lora.keys() - OWN - _NOT_OF_THE_SHAPE if getattr(wanted, n) != getattr(config, n)}
    linear = [module for module in base.modules() if isinstance(module, torch.nn.Linear)]
    config.lora_dropout = wanted.lora_dropout
    # ZeRO-3 gathers weights of one type together. TRL does the same for a new adapter.
    upcasts = not deepspeed.is_deepspeed_zero3_enabled()
    network = weights.with_adapter(base, adapter, config=config, is_trainable=True, autocast_adapter_dtype=upcasts)
    if lora.get("target_modules") == "all-linear":  # in the adapter's file, these are listed
        adapted = [m.get_base_layer() for m in network.modules() if isinstance(m, BaseTunerLayer)]
        if {*map(id, linear)} - {id(base.get_output_embeddings())} == {*map(id, adapted)}:
            differing.discard("target_modules")
    for name in sorted(differing):
        raise UserError(
            f"training setting 'lora.{name}' is {_shown(wanted, name)}, but the adapter {adapter} that training starts"
            f" from has {_shown(config, name)}; make them equal, or train the merged weights without lora"
        )
    return network


def make_trainer(
    kind: Callable[..., AnyTrainer],
    network: Any,
    arguments: TrainingArguments,
    lora: Mapping[str, Any] | None,
    **more: Any,
) -> AnyTrainer:
    """The trainer `kind` of a loaded model; with `lora`, of an adapter over it. UserError if they do not fit."""
    if lora is None:
        return kind(model=network, args=arguments, **more)
    set_seed(arguments.seed)  # TRL makes the adapter before it seeds
    config = None if is_peft_model(network) else peft_config(lora)
    try:
        trainer = kind(model=network, args=arguments, peft_config=config, **more)
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"training setting 'lora': {error}") from error
    if "quantize" in lora:
        # TRL makes the adapter bfloat16, in which small steps vanish.
        for weight in trainer.model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
    trained, total = trainer.model.get_nb_trainable_parameters()
    log.info("training an adapter: %s of %s weights (%.2f %%)", f"{trained:,}", f"{total:,}", 100 * trained / total)
    return trainer


def finish(directory: Path, facts: Mapping[str, Any], trainer: Trainer) -> None:
    """Complete a saved adapter: it names the model that it belongs to, or with `merge` becomes a whole model.

    Its modules are sorted, because peft's order is not reproducible. A reference adapter, which TRL saves beside it, is
    removed.
    """
    settings = facts["settings"]
    found = adapters.source(facts["model"], settings.get("revision"), settings.get("adapter"))
    shutil.rmtree(directory / "ref", ignore_errors=True)
    file = directory / adapters.CONFIG
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": found.base, "revision": found.revision}
    for name in ("target_modules", "exclude_modules"):
        if isinstance(config[name], list):
            config[name].sort()
    file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    if settings["lora"].get("merge"):
        dtype = settings.get("dtype", "float32")
        with weights.unsharded():
            options = {"dtype": dtype, **quantisation(settings["lora"], dtype)}
            network = weights.load_model(directory, trainer.processing_class, **options)
        network.generation_config = trainer.model.generation_config
        for path in directory.iterdir():
            path.unlink()
        network.save_pretrained(directory)


def _shown(config: "LoraConfig", name: str) -> str:
    value = getattr(config, name)
    return repr(sorted(value) if isinstance(value, set) else value)
