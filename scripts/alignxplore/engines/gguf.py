"""Convert a model in a GGUF file to the directory that all engines read: safetensors, tokenizer, chat template."""

import copy
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignxplore.engines.weights import check_complete, check_vocabulary
from alignxplore.errors import UserError, unloadable


def locate(file: str, package: str) -> Path:
    """The path of a file inside an installed package, without importing the package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{file} is in the package {package}, which is not installed: see envs/requirements/")
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return path


def convert(file: Path, output: Path, dtype: str, chat_template: str | None = None) -> None:
    """Write the model of a GGUF file to the directory `output`; `chat_template` replaces the file's own."""
    source = {"gguf_file": file.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, output_loading_info=True, **source
        )
    except Exception as error:  # the reader raises whatever it meets in a damaged file
        raise UserError(unloadable(file, error)) from error
    quantised, report = loaded
    check_complete(file, report)
    check_vocabulary(file, quantised.config, tokenizer)
    # transformers dequantises on loading but keeps the quantisation config, and then refuses to save the model.
    config = copy.deepcopy(quantised.config)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)
