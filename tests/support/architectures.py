"""Causal language models of many architectures, tiny and random, each as a directory that engines load."""

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

SIZES = {
    name: size
    for names, size in [
        ("hidden_size n_embd d_model embedding_size word_embed_proj_dim", 32),
        ("intermediate_size ffn_dim n_inner d_ff decoder_ffn_dim encoder_ffn_dim", 48),
        ("num_hidden_layers n_layer num_layers n_layers decoder_layers encoder_layers", 2),
        ("num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads", 4),
        ("num_key_value_heads kv_n_heads linear_num_key_heads num_experts_per_tok", 2),
        ("num_experts num_local_experts n_routed_experts linear_num_value_heads mamba_n_heads", 4),
        ("head_dim rotary_dim qk_rope_head_dim qk_nope_head_dim v_head_dim linear_key_head_dim", 8),
        ("linear_value_head_dim state_size mamba_d_state mamba_head_dim mamba_num_heads", 8),
        ("moe_intermediate_size q_lora_rank kv_lora_rank mamba_d_head", 16),
        ("n_group topk_group first_k_dense_replace", 1),
        ("max_position_embeddings n_positions", 512),
    ]
    for name in names.split()
}
"""Small values for the settings that configurations of transformers share; each takes those that it has."""

MLA = {"num_key_value_heads": 4, "head_dim": 8}

OWN = {
    "bamba": {"attn_layer_indices": [1]},
    "deepseek_v2": MLA,
    "deepseek_v3": MLA,
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "lm_head_multiplier": 0.5},
    "gemma3_text": {"final_logit_softcapping": 3.0},
    "glm4_moe_lite": MLA,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "granite": {"logits_scaling": 4.0},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hyperclovax": {"logits_scaling": 4.0},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "longcat_flash": MLA,
    "minicpm3": {**MLA, "dim_model_base": 8},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1},
}
"""What single architectures need, and heads that do more than multiply."""


def random_model(kind: str, seed: int = 0, **settings: object) -> PreTrainedModel:
    """A model of two layers with weights large enough that its predictions differ from token to token.

    A sliding window, if the architecture has one, is 8 tokens.
    """
    known = set(AutoConfig.for_model(kind).to_dict())
    wanted = {name: value for name, value in {**SIZES, "sliding_window": 8}.items() if name in known}
    config = AutoConfig.for_model(kind, **{**wanted, **OWN.get(kind, {}), **settings})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def save_random(kind: str, tokenizer_of: Path, path: Path, **settings: object) -> Path:
    """Save a random model with the tokenizer of another directory."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.eos_token_id}
    model = random_model(kind, **ids, pad_token_id=tokenizer.pad_token_id, **settings)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer_of / name).exists():
            shutil.copy(tokenizer_of / name, path)
    return path
