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
