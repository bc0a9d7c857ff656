"""Small real models with random weights, for everything that loads one."""

from pathlib import Path


def random_qwen2(path: Path, text: str, hidden: int = 32, spread: float = 0.3) -> Path:
    """A Hugging Face directory with a Qwen2 model of two layers and a ChatML tokenizer that knows the text's words.

    `spread` is the standard deviation of the weights: the larger, the surer the model is of what it says.
    """
    import torch
    from alignxplore.demo.pretrain import save, train_tokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    train_tokenizer([text] * 4, 400, path)
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
        initializer_range=spread,
    )
    save(Qwen2ForCausalLM(config), tokenizer, path)
    return path
