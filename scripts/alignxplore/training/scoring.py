"""Log-probabilities and entropies of label tokens: what both losses are computed from."""

from collections.abc import Mapping
from typing import Any

import torch

from alignxplore.engines.probe import REDUCED_TOLERANCE, TOLERANCE
from alignxplore.errors import UserError

MOST_LOGITS = 2**26
"""Up to this many logits are kept in memory: 256 MiB in float32."""


def score(
    model: Any,
    inputs: Mapping[str, Any],
    shift_labels: torch.Tensor,
    temperature: float = 1.0,
    fused: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each label and entropy of its distribution, in nats; both are 0 where the label is -100.

    `shift_labels`, shape (batch, length), holds at each position the token that the model predicts there:

        input_ids       u    s    e    r    a    b    c      u s e r: the prompt
        shift_labels  -100 -100 -100    a    b    c  end     a b c end: the completion
                                       └─ only these ─┘      positions get logits

    Logits, (positions, vocabulary), are the largest tensor of a step by far. TRL's fused head never holds them all: it
    computes them tile by tile, and again in the backward pass. That saves memory, but on small models keeping the
    logits is several times as fast. So they are kept if there are at most MOST_LOGITS of them, unless ZeRO-3 shards the
    model: all processes must then gather the head in the same way. Use no gradient of the entropy, which kept logits do
    not give. The entropy is None from a fused head without it, as TRL's reference model has. `temperature` divides kept
    logits; TRL gives the fused head its own when it builds it. `fused` overrules the choice.
    """
    kept = shift_labels != -100
    first = int(kept.any(0).int().argmax())
    vocabulary = getattr(model, "module", model).config.get_text_config().vocab_size
    if fused is None:
        fused = _is_sharded(model) or kept[:, first:].numel() * vocabulary > MOST_LOGITS
    if fused:
        outputs = model(**inputs, shift_labels=shift_labels, fused_lm_head=True)
        return outputs.log_probs, outputs.entropy
    positions = torch.arange(first, kept.shape[1], device=kept.device)
    logits = model(**inputs, use_cache=False, logits_to_keep=positions).logits[kept[:, first:]]
    log_probs = (logits.float() / temperature).log_softmax(-1)
    chosen = log_probs.gather(1, shift_labels[kept][:, None])[:, 0]
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(-1)
    empty = chosen.new_zeros(kept.shape)
    return empty.masked_scatter(kept, chosen), empty.masked_scatter(kept, entropy)


@torch.no_grad()
def check_fused_head(model: Any, temperature: float = 1.0) -> None:
    """Raise UserError if TRL's fused head does not give the model's own log-probabilities, on one short row.

    TRL re-implements what models do behind their output embedding, such as scaling and soft-capping.
    """
    whole = getattr(model, "module", model)
    if _is_sharded(model):
        # The fused head reads weights of a module that it never calls, so DeepSpeed must gather them with the model.
        # It notices by itself, except if it is fetching them already; TRL's own gathering fails in the backward pass.
        import deepspeed

        for weight in whole.get_output_embeddings().parameters():
            deepspeed.zero.register_external_parameter(whole, weight)
    config, training = whole.config, model.training
    device = next(model.parameters()).device
    ids = torch.arange(12, device=device)[None] * (config.get_text_config().vocab_size // 12)
    labels = ids.roll(-1, 1)
    inputs = {"input_ids": ids}
    model.eval()
    own, _ = score(model, inputs, labels, temperature, fused=False)
    fused, _ = score(model, inputs, labels, temperature, fused=True)
    model.train(training)
    reduced = next(model.parameters()).dtype != torch.float32 or torch.is_autocast_enabled(device.type)
    difference = (own - fused).abs().mean().item()
    if not difference <= (REDUCED_TOLERANCE if reduced else TOLERANCE):
        raise UserError(
            f"model {config.name_or_path}: TRL's fused output embedding gives other numbers than this architecture"
            f" ({config.model_type}; {difference:.2g} nats), so it cannot be trained"
        )


def _is_sharded(model: Any) -> bool:
    """Whether DeepSpeed ZeRO-3 shards the model's parameters."""
    return hasattr(next(model.parameters()), "ds_id")
