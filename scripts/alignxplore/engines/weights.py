"""Loading a causal language model and its tokenizer from a directory, an adapter or the hub: whole, or not at all."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import constants, get_session
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import deepspeed
from transformers.utils import cached_file

from alignxplore import adapters
from alignxplore.errors import UserError, unloadable

# The hub client prints its warnings itself, and passes them on to our handlers as well.
logging.getLogger("huggingface_hub").handlers.clear()

_LOADING_ERRORS = (OSError, ValueError, ImportError, AttributeError, KeyError, TypeError, RuntimeError, SafetensorError)


def load_tokenizer(
    path: str | Path, revision: str | None = None, adapter: str | None = None, **options: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face directory or hub id, or of its adapter. Raises UserError if it cannot be loaded.

    An adapter without a tokenizer has that of its base model.
    """
    path, revision = adapters.tokenizer_source(adapters.source(path, revision, adapter))
    try:
        return AutoTokenizer.from_pretrained(path, **_source(path, revision), **options)
    except Exception as error:  # the library tokenizers raises plain exceptions
        raise UserError(unloadable(path, error)) from error


def load_model(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    revision: str | None = None,
    adapter: str | None = None,
    **options: Any,
) -> PreTrainedModel:
    """The model of a Hugging Face directory, adapter or hub id, with `options` of `from_pretrained`.

    An adapter is merged into the weights of its base model, W + B A, so that the model is a plain one. The raised
    errors are those of `load_base` and `with_adapter`.
    """
    found = adapters.source(path, revision, adapter)
    model = load_base(found.base, tokenizer, found.revision, **options)
    if found.adapter is None:
        return model
    if "quantization_config" in options:
        model = model.dequantize(model.dtype)
    return with_adapter(model, found.adapter).merge_and_unload(safe_merge=True).requires_grad_(True)


def with_adapter(model: PreTrainedModel, adapter: str, **options: Any) -> Any:
    """peft's model of a base and an adapter, with `options` of its `from_pretrained`.

    Raises UserError if the adapter cannot be loaded, does not fit the base, or lacks weights.
    """
    from peft import PeftModel  # slow to import, and not every environment has it

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        try:
            return PeftModel.from_pretrained(model, adapter, torch_device=str(model.device), **options)
        except (*_LOADING_ERRORS, UserWarning) as error:
            raise UserError(unloadable(adapter, error)) from error


def load_base(
    path: str | Path, tokenizer: PreTrainedTokenizerBase, revision: str | None = None, **options: Any
) -> PreTrainedModel:
    """The model of a Hugging Face directory or hub id, with `options` of `from_pretrained`; safetensors only.

    Raises UserError if it cannot be loaded, if its files lack weights of its architecture, which transformers would
    fill at random, or if its tokenizer has more tokens than the model.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(path), output_loading_info=True, use_safetensors=True, **_source(path, revision), **options
        )
    except _LOADING_ERRORS as error:
        raise UserError(unloadable(path, error)) from error
    model, report = loaded
    check_complete(path, report)
    check_vocabulary(path, model.config, tokenizer)
    return model


@contextmanager
def unsharded() -> Iterator[None]:
    """Load models whole inside this block, even in a process that trains with DeepSpeed ZeRO-3.

    transformers (seen in 5.17 to 5.23) shards whatever `from_pretrained` loads while it knows a ZeRO-3 config. A judge
    beside the policy would be left with empty weights, and a process that asks it alone would wait for the others
    forever. No option turns that off, so its config is hidden. Test: tests/integration/test_deepspeed.py,
    test_transformers_shards_what_it_loads_beside_zero3.
    """
    known = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = known


def directory_of(path: str | Path, revision: str) -> str:
    """The directory in the cache that holds this revision of a hub model, which has been loaded."""
    config: Any = cached_file(str(path), "config.json", revision=revision, local_files_only=True)
    return str(Path(config).parent)


def check_complete(path: str | Path, report: dict[str, Any]) -> None:
    """Raise UserError, naming the tensors, if transformers reports that it filled some at random."""
    lacking = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if not lacking:
        return
    unknown = sorted(report["unexpected_keys"])
    instead = f", but hold {_named(unknown)}, which it does not have" if unknown else ""
    raise UserError(
        f"model {path}: its files lack {_named(lacking)} of its architecture{instead}; these would be filled at random."
        " Download or convert the model again"
    )


def check_vocabulary(path: str | Path, config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError if the tokenizer has token ids that the model has no embedding for."""
    rows, highest = config.get_text_config().vocab_size, max(tokenizer.get_vocab().values())
    if highest >= rows:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise UserError(
            f"model {path}: its tokenizer has the token {token!r} with id {highest}, but the model has embeddings for"
            f" {rows} tokens only; they do not belong together"
        )


def _named(tensors: list[str]) -> str:
    """The first names of a list of tensors, and how many more there are."""
    more = f" and {len(tensors) - 3} more tensors" if len(tensors) > 3 else ""
    return f"{', '.join(tensors[:3])}{more}"


def _source(path: str | Path, revision: str | None) -> dict[str, Any]:
    local = Path(path).is_dir() or not _hub_is_there()
    return {"revision": revision, "local_files_only": local, "trust_remote_code": False}


@cache
def _hub_is_there() -> bool:
    """Whether the hub can be reached at all.

    Without a network, the hub client would retry every one of its requests for half a minute, and then look into its
    cache anyway.
    """
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except (ConnectionError, httpx2.ConnectError):  # the former if HF_HUB_OFFLINE is set
        return False
    except httpx2.HTTPError:
        pass  # slow or busy: worth the client's retries
    return True
