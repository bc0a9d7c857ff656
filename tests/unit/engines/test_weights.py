"""Checkpoints that are not what their configuration says are refused: by engines, by training and as GGUF."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from alignxplore.engines import weights
from alignxplore.engines.gguf import convert
from alignxplore.engines.transformers import TransformersBackend
from alignxplore.errors import UserError
from alignxplore.training import models
from alignxplore.training.settings import Settings
from safetensors.torch import load_file, save_file


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def edit_tensors(model: Path, edit) -> None:
    tensors = load_file(model / "model.safetensors")
    save_file(edit(tensors), model / "model.safetensors", metadata={"format": "pt"})


def load_to_train(model: Path):
    settings = Settings({})
    return models.load_model(model, settings, models.load_tokenizer(model, settings))


LOADERS = {"engine": lambda model: TransformersBackend(str(model)), "training": load_to_train}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_a_complete_model_loads(load, model):
    load(model)


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_missing_tensors_are_named(load, model):
    lost = "model.layers.1.mlp.up_proj.weight"
    edit_tensors(model, lambda tensors: {name: value for name, value in tensors.items() if name != lost})
    with pytest.raises(UserError, match=f"model {model}: its files lack {lost} of its architecture; .*at random"):
        load(model)


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_tensors_under_other_names_are_named(load, model):
    edit_tensors(model, lambda tensors: {name.replace("layers.0", "blocks.0"): t for name, t in tensors.items()})
    with pytest.raises(UserError, match=r"lack model\.layers\.0.* and 9 more tensors .*but hold model\.blocks\.0"):
        load(model)


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_tensors_of_another_size_are_refused(load, model):
    lost = "model.layers.1.mlp.up_proj.weight"
    edit_tensors(model, lambda tensors: {**tensors, lost: torch.zeros(3, 5)})
    with pytest.raises(UserError, match=f"model {model}"):
        load(model)


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(load, model):
    tokenizer = weights.load_tokenizer(model)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(model)
    with pytest.raises(UserError, match="the token '<extra>' with id .* they do not belong together"):
        load(model)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"nonsense"])
@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_unreadable_files_are_a_message_not_a_traceback(load, model, name, content):
    (model / name).write_bytes(content)
    with pytest.raises(UserError, match=f"model {model} cannot be loaded"):
        load(model)


def test_an_unknown_precision_is_a_message(model):
    with pytest.raises(UserError, match="cannot be loaded.*float33"):
        TransformersBackend(str(model), dtype="float33")


def test_a_model_that_computes_nan_is_refused_with_its_precision(model):
    def overflow(tensors):
        name = "model.layers.1.mlp.down_proj.weight"
        return {**tensors, name: torch.full_like(tensors[name], torch.inf)}

    edit_tensors(model, overflow)
    with pytest.raises(UserError, match=f"model {model} computes NaN in bfloat16; try dtype: float32"):
        TransformersBackend(str(model), dtype="bfloat16")


def test_a_gguf_file_without_all_tensors_is_refused(tmp_path):
    gguf = pytest.importorskip("gguf")
    llama = tmp_path / "lacking.gguf"
    writer = gguf.GGUFWriter(llama, "llama")
    for method, value in (("block_count", 2), ("context_length", 64), ("embedding_length", 32),
                          ("feed_forward_length", 48), ("head_count", 4), ("head_count_kv", 4),
                          ("layer_norm_rms_eps", 1e-5), ("rope_dimension_count", 8), ("vocab_size", 260)):  # fmt: skip
        getattr(writer, f"add_{method}")(value)
    characters = [*(chr(number) for number in range(33, 33 + 256)), "!!", "<s>", "</s>", "<unk>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(characters)
    writer.add_token_merges(["! !"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_tensor("token_embd.weight", torch.zeros(260, 32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="lack lm_head|lack model"):
        convert(llama, tmp_path / "out", "float32")
    assert not (tmp_path / "out").exists()


def test_a_damaged_gguf_file_is_a_message(tmp_path):
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF nonsense")
    with pytest.raises(UserError, match="damaged.gguf"):
        convert(tmp_path / "damaged.gguf", tmp_path / "out", "float32")


def test_the_generation_config_changes_no_sampling(model):
    """Only the stated sampling counts, not a repetition penalty or a length that the model's authors prefer."""
    from alignxplore.engines import Sampling
    from alignxplore.engines.probe import Layout
    from alignxplore.prompts import Prompt

    def texts() -> list[str]:
        backend = TransformersBackend(str(model))
        backend.layout = Layout(False, True)
        batches = backend.generate([Prompt("a joke")] * 4, [1, 2, 3, 4], Sampling(1.0, 1.0, 0, 20, seed=1))
        return [completion.text for batch in batches for _, completion in batch]

    before = texts()
    config = json.loads((model / "generation_config.json").read_text())
    changes = {"repetition_penalty": 5.0, "min_new_tokens": 18, "suppress_tokens": list(range(100)), "do_sample": True}
    (model / "generation_config.json").write_text(json.dumps({**config, **changes, "temperature": 0.1}))
    assert texts() == before
