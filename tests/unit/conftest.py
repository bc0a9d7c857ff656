"""A tiny real model, for everything that loads one."""

from pathlib import Path

import pytest

WORDS = (
    "Infer this person's preferences from their behaviour. Decide which response this person prefers, in JSON. "
    'Post: Chosen: Rejected: Comment: Preference: Response A: Response B: {"selection": "Response A"} '
    "likes humor, dislikes travel; a quick joke would help and a passport would not. Answer the user in a few words."
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A Hugging Face directory with a randomly initialised Qwen2 model and a ChatML tokenizer."""
    return _random_model(tmp_path_factory.mktemp("models") / "tiny", hidden=32)


@pytest.fixture(scope="session")
def vllm_model(tmp_path_factory) -> Path:
    """The same with heads of a size that vLLM has CPU attention for."""
    return _random_model(tmp_path_factory.mktemp("models") / "wider", hidden=128)


def _random_model(path: Path, hidden: int) -> Path:
    import torch
    from alignxplore.demo.pretrain import save, train_tokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    train_tokenizer([WORDS] * 4, 400, path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    save(Qwen2ForCausalLM(config), tokenizer, path)
    return path
