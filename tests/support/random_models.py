"""Small real models with random weights."""

from pathlib import Path


def random_qwen2(
    path: Path, text: str, hidden: int = 32, spread: float = 0.3, *, tied: bool = True, vocabulary: int = 0
) -> Path:
    """Write a Hugging Face directory: a two-layer Qwen2 model and a ChatML tokenizer trained on `text`.

    `spread` is the standard deviation of the weights; the larger it is, the more confident the model. `tied` says
    whether its output embedding is its input embedding. It has `vocabulary` embeddings, or one per token.
    """
    import torch
    from alignxplore.demo.pretrain import save, train_tokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    train_tokenizer([text] * 4, 400, path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary or len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=spread,
    )
    save(Qwen2ForCausalLM(config), tokenizer, path)
    return path


def random_adapter(path: Path, base: Path, rank: int = 4, alpha: int = 8) -> Path:
    """Write a LoRA with random weights for `base`, in peft's format but without peft, which not all engines have."""
    import json

    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    random = torch.Generator().manual_seed(1)
    modules = dict(AutoModelForCausalLM.from_pretrained(base).named_modules())
    tensors = {}
    for name, module in modules.items():
        if name.endswith(("q_proj", "v_proj", "up_proj")):
            rows, columns = module.weight.shape
            for part, shape in (("A", (rank, columns)), ("B", (rows, rank))):
                key = f"base_model.model.{name}.lora_{part}.weight"
                tensors[key] = torch.randn(shape, generator=random) / shape[1] ** 0.5
    path.mkdir(parents=True)
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": rank,
        "lora_alpha": alpha, "target_modules": ["q_proj", "up_proj", "v_proj"], "lora_dropout": 0.0, "bias": "none",
    }  # fmt: skip
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path
