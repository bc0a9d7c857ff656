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
    import torch
    from alignxplore.demo.pretrain import save, train_tokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    path = tmp_path_factory.mktemp("models") / "tiny"
    train_tokenizer([WORDS] * 4, 400, path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
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
