"""LoRA trains an adapter alone, and the adapter is the model that was trained, wherever it is loaded."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import small_training
import torch
from alignxplore import adapters
from alignxplore.digests import directory_digest
from alignxplore.engines.transformers import TransformersBackend
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt
from alignxplore.training import grpo, loop, lora, scoring, sft
from alignxplore.training.metrics import GRPO_METRICS, from_history
from alignxplore.training.models import load_model, load_tokenizer
from alignxplore.training.settings import check_lora, check_settings
from safetensors.torch import load_file, save_file
from small_training import QUESTIONS, letters, outcome, train
from transformers import AutoModelForCausalLM
from trl import SFTConfig

LORA = {"r": 4, "lora_alpha": 8}
SETTINGS = {"lora": LORA, "learning_rate": 3e-2}
LEARNING = {
    "per_device_train_batch_size": 12, "num_generations": 4, "max_completion_length": 6, "learning_rate": 3e-2,
    "temperature": 0.9, "top_p": 0.95, "top_k": 10, "seed": 5, "lr_scheduler_type": "constant",
}  # fmt: skip


def make(model, output, **settings):
    prompts = [Prompt(text) for text in QUESTIONS]
    cases = [{"example_id": text} for text in QUESTIONS]
    return grpo.make_trainer({**LEARNING, "lora": LORA, **settings}, model, cases, prompts, letters, output)


def weights_of(path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


@pytest.fixture(scope="module")
def adapter(ending_model, tmp_path_factory) -> Path:
    """The outcome of a short GRPO with LoRA."""
    output = tmp_path_factory.mktemp("adapter") / "policy"
    train(ending_model, output, **SETTINGS, max_steps=6)
    return output


def test_grpo_of_an_adapter_raises_the_reward_and_leaves_the_model_alone(tiny_model, tmp_path):
    trainer = make(tiny_model, tmp_path / "out", max_steps=25)
    assert trainer._packs, "rollouts of a prompt share a row"
    loop.run(trainer)
    rewards = from_history(trainer.state.log_history, GRPO_METRICS)["reward"]
    assert rewards[-5:].mean() > rewards[:5].mean() + 0.2
    network, before = trainer.model, weights_of(tiny_model)
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert len(trained) == 2 * 7 * 2 and all("lora_" in name for name in trained), "A and B of 7 matrices in 2 layers"
    for name, weight in network.unload().state_dict().items():
        assert torch.equal(weight, before[name]), name


@pytest.mark.parametrize("fused", [False, True])
def test_the_engine_gives_the_log_probabilities_of_the_trainer(ending_model, tmp_path, monkeypatch, fused):
    if fused:
        monkeypatch.setattr(scoring, "MOST_LOGITS", 0)
    trainer = make(ending_model, tmp_path / "policy", max_steps=5, temperature=1.0)
    loop.run(trainer)
    trainer.save_model(str(tmp_path / "saved"))
    backend = TransformersBackend(str(ending_model), adapter=str(tmp_path / "saved"))
    plain = TransformersBackend(str(ending_model))
    texts = ["a joke would help", "travel"]
    rows = [backend.chat.encode_scored([Prompt("likes humor")], [text])[0] for text in texts]
    for text, (row, start) in zip(texts, rows, strict=True):
        (((_, found),),) = backend.loglikelihood([Prompt("likes humor")], [text])
        (((_, before),),) = plain.loglikelihood([Prompt("likes humor")], [text])
        ids = torch.tensor([row])
        trainer.model.eval()
        scores, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, torch.ones_like(ids), len(row) - start
        )
        assert found.logprob == pytest.approx(scores.sum().item(), abs=2e-5)
        assert abs(found.logprob - before.logprob) > 2e-3, "the adapter has an effect"


def test_an_adapter_directory_is_a_model_with_its_base(adapter, ending_model):
    files = {path.name for path in adapter.iterdir()}
    weights = {"adapter_config.json", "adapter_model.safetensors"}
    assert files == weights | {"README.md", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
    assert adapters.source(adapter) == adapters.Source(str(ending_model), None, str(adapter))
    card = (adapter / "README.md").read_text()
    assert f"base_model: {ending_model}\nlibrary_name: peft\n" in card and "lora_alpha: 8" in card
    prompt, answer = [Prompt("likes humor")], ["travel"]
    ways = [TransformersBackend(str(adapter)), TransformersBackend(str(ending_model), adapter=str(adapter))]
    first, second = (list(backend.loglikelihood(prompt, answer)) for backend in ways)
    assert first == second


def test_merge_saves_the_whole_model(adapter, ending_model, tmp_path):
    settings = {**SETTINGS, "lora": {**LORA, "merge": True}}
    train(ending_model, tmp_path / "policy", **settings, max_steps=6)
    assert not adapters.is_adapter(tmp_path / "policy")
    assert "library_name: transformers" in (tmp_path / "policy/README.md").read_text()
    tokenizer = load_tokenizer(ending_model, check_settings({}, SFTConfig))
    merged = load_model(adapter, check_settings({}, SFTConfig), tokenizer).state_dict()
    saved = weights_of(tmp_path / "policy")
    assert saved.keys() == merged.keys() and all(torch.equal(saved[name], merged[name]) for name in saved)


def test_stopped_by_sigterm_and_resumed_ends_with_the_same_bytes(ending_model, tmp_path):
    settings = {"lora": {**LORA, "lora_dropout": 0.1}, "max_steps": 6}
    train(ending_model, tmp_path / "undisturbed/policy", **settings)
    output = tmp_path / "stopped/policy"

    def stopping(parsed, cases):
        os.kill(os.getpid(), signal.SIGTERM)
        return letters(parsed, cases)

    for step in (1, 2):
        with pytest.raises(UserError, match=f"stopped after step {step}, which is saved"):
            train(ending_model, output, stopping, **settings)
    train(ending_model, output, **settings)
    assert outcome(output) == outcome(tmp_path / "undisturbed/policy")


def test_a_second_stage_goes_on_with_the_adapter(adapter, ending_model, tmp_path):
    trainer = make(adapter, tmp_path / "out", lora={"r": 4, "target_modules": "all-linear"}, beta=0.1)
    before = {name: value.clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    saved = load_adapter_tensors(adapter)
    assert len(before) == len(saved) and all(torch.equal(saved[name], value) for name, value in before.items())
    train(adapter, tmp_path / "policy", lora={}, beta=0.1, max_steps=2)
    assert adapters.source(tmp_path / "policy").base == str(ending_model), "not an adapter of an adapter"
    assert not (tmp_path / "policy/ref").exists()
    config = json.loads((tmp_path / "policy/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert f"base: {ending_model}" in (tmp_path / "policy/README.md").read_text()


def load_adapter_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter, by their names in peft's model."""
    tensors = load_file(path / "adapter_model.safetensors")
    return {name.replace(".weight", ".default.weight"): value for name, value in tensors.items()}


@pytest.mark.parametrize(("settings", "message"), [
    ({"r": 8}, "'lora.r' is 8, but the adapter .* has 4"),
    ({"lora_alpha": 16}, "'lora.lora_alpha' is 16, but the adapter .* has 8"),
    ({"target_modules": ["q_proj"]}, r"'lora.target_modules' is \['q_proj'\], but the adapter .*up_proj'"),
    ({"use_rslora": True}, "'lora.use_rslora' is True"),
])  # fmt: skip
def test_a_second_stage_of_another_shape_is_refused(adapter, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        make(adapter, tmp_path / "out", lora=settings)


def test_all_linear_is_compared_with_what_the_adapter_has(ending_model, tmp_path):
    train(ending_model, tmp_path / "part", lora={"target_modules": ["q_proj", "v_proj"]}, max_steps=1)
    with pytest.raises(UserError, match=r"'lora.target_modules' is 'all-linear', .* has \['q_proj', 'v_proj'\]"):
        make(tmp_path / "part", tmp_path / "out", lora={"target_modules": "all-linear"})


def test_full_training_starts_from_the_merged_weights(adapter, ending_model, tmp_path):
    trainer = make(adapter, tmp_path / "out", lora=None)
    assert all(weight.requires_grad for weight in trainer.model.parameters())
    merged, before = trainer.model.state_dict(), weights_of(ending_model)
    assert not torch.equal(merged["model.layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"])
    with pytest.raises(UserError, match="'beta': TRL loads the reference model from files"):
        make(adapter, tmp_path / "out", lora=None, beta=0.1)


def test_sft_with_gradient_checkpointing_trains_the_adapter(tiny_model, tmp_path):
    rows = [{"input_ids": [5, 6, 7, 8, number], "labels": [-100, -100, 7, 8, number]} for number in range(9, 17)]
    weights = []
    for checkpointing in (False, True):
        settings = {
            "lora": LORA, "max_steps": 2, "learning_rate": 1e-2, "gradient_checkpointing": checkpointing,
        }  # fmt: skip
        trainer = sft.make_trainer(settings, tiny_model, rows, tmp_path / "out")
        loop.run(trainer)
        weights.append([w.detach() for w in trainer.model.parameters() if w.requires_grad])
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(*weights, strict=True))
    assert sum(weight.abs().sum() for weight in weights[0][1::2]) > 0, "B starts at zero"


@pytest.mark.parametrize(("settings", "message"), [
    ({"rr": 4}, r"'lora.rr' is unknown to LoraConfig; did you mean 'r'\?"),
    ({"r": "8"}, "'lora.r' must be int, not '8'"),
    ({"lora_dropout": "none"}, "'lora.lora_dropout' must be float"),
    ({"quantize": 8}, "'lora.quantize' must be one of 4, not 8"),
    ({"merge": "yes"}, "'lora.merge' must be bool"),
    ({"task_type": "SEQ_CLS"}, "'lora.task_type' cannot be 'SEQ_CLS': it is set by the stage"),
    ({"init_lora_weights": "pissa"}, "'lora.init_lora_weights' must be one of True, False, 'gaussian'"),
    ({"bias": "some"}, "'lora.bias' must be one of 'none', 'all', 'lora_only'"),
])  # fmt: skip
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(UserError, match=message):
        check_lora(settings)


@pytest.mark.parametrize(("settings", "message"), [
    ({"lora": {"r": 0}}, "'lora': .*positive"),
    ({"lora": {"target_modules": ["nowhere"]}}, "'lora': .*nowhere"),
    ({"lora": {"target_modules": ["lm_head"]}}, "'lora': Applying a PEFT adapter to `lm_head` is not supported"),
    ({"sync_ref_model": True, "beta": 0.1}, "'lora': .*sync_ref_model"),
    ({"lora": {"quantize": 4}, "use_vllm": True}, "'lora.quantize': vLLM cannot take quantised weights"),
])  # fmt: skip
def test_what_does_not_fit_the_model_or_the_trainer_is_refused(tiny_model, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        make(tiny_model, tmp_path / "out", **settings)


def test_quantisation_without_bitsandbytes_is_refused(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="'lora.quantize' needs the package bitsandbytes"):
        make(tiny_model, tmp_path / "out", lora={"quantize": 4})


@pytest.mark.parametrize("damage", ["config", "weights", "tensor", "base"])
def test_a_damaged_adapter_is_refused(adapter, tmp_path, damage):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    config = json.loads((copy / "adapter_config.json").read_text())
    if damage == "config":
        (copy / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "IA3"}))
        message = "of type IA3, and only LORA"
    elif damage == "weights":
        (copy / "adapter_model.safetensors").rename(copy / "adapter_model.bin")
        message = "there is no adapter_model.safetensors; other formats are not read"
    elif damage == "tensor":
        tensors = load_file(copy / "adapter_model.safetensors")
        tensors.popitem()
        save_file(tensors, copy / "adapter_model.safetensors", metadata={"format": "pt"})
        message = "missing adapter keys"
    else:
        gone = {"base_model_name_or_path": "models/demo/gone"}
        (copy / "adapter_config.json").write_text(json.dumps({**config, **gone}))
        message = "model models/demo/gone cannot be loaded"
    with pytest.raises(UserError, match=message):
        TransformersBackend(str(copy))


def test_facts_of_a_run_have_the_adapter_and_its_base(adapter, ending_model, tmp_path):
    train(adapter, tmp_path / "policy", lora={}, max_steps=1)
    card = (tmp_path / "policy/README.md").read_text()
    assert directory_digest(adapter) in card and directory_digest(ending_model) in card
    assert small_training.SETTINGS["max_steps"] != 1


@pytest.fixture
def wide_model(vllm_model, monkeypatch) -> Path:
    """A model whose sizes are multiples of the 64 values that bitsandbytes quantises together."""
    pytest.importorskip("bitsandbytes")
    # On CPUs with this instruction set, bitsandbytes repacks weights when a model is evaluated, and cannot train then.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    return vllm_model


def test_a_quantised_base_trains_and_merges_to_what_was_trained(wide_model, tmp_path):
    settings = {"lora": {**LORA, "quantize": 4}, "max_steps": 4}
    trainer = make(wide_model, tmp_path / "out", **settings, temperature=1.0)
    assert "Linear4bit" in {type(module).__name__ for module in trainer.model.modules()}
    assert {weight.dtype for weight in trainer.model.parameters() if weight.requires_grad} == {torch.float32}
    loop.run(trainer)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
    trainer.model.eval()
    with torch.no_grad():
        trained = trainer.model(ids).logits.log_softmax(-1)
    facts = {"model": str(wide_model), "settings": {"lora": {**LORA, "quantize": 4, "merge": True}}}
    trainer.save_model(str(tmp_path / "final"))
    adapter = shutil.copytree(tmp_path / "final", tmp_path / "adapter")
    lora.finish(tmp_path / "final", facts, trainer)

    def logprobs(model) -> torch.Tensor:
        with torch.no_grad():
            return model(ids).logits.log_softmax(-1)

    merged = logprobs(AutoModelForCausalLM.from_pretrained(tmp_path / "final"))
    assert (merged - trained).abs().max() < 1e-3
    # Over the model's own weights, which were not quantised, the same adapter gives other numbers.
    unquantised = TransformersBackend(str(wide_model), adapter=str(adapter)).model
    assert (logprobs(unquantised) - trained).abs().max() > 0.01
