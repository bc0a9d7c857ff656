"""Rows padded to one length: how models run that cannot share beginnings (see packing.py).

Sampling pads on the left, so that all rows write their next token in the same column. Scoring pads on the right, where
causal attention never looks:

    sampling   . . p p | t t t        scoring   p p p c c
               p p p p | t t t                  p p c . .
"""

from collections.abc import Callable, Collection, Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from alignxplore.engines.packing import Read, column_logits, last_logits, sample


@torch.inference_mode()
def rollout(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    generations: int,
    max_new_tokens: int,
    end_tokens: Collection[int],
    temperature: float,
    top_p: float,
    top_k: int,
    uniforms: torch.Tensor,
    is_stopped: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> list[tuple[list[int], list[float]]]:
    """The same as `packing.rollout`, by the model's own `generate`."""
    rows = [list(prompt) for prompt in prompts for _ in range(generations)]
    width = max(map(len, rows))
    pad = min(end_tokens, default=0)  # its value is never seen
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    draw = _Draw(temperature, top_p, top_k, uniforms.to(model.device), width)
    output = model.generate(  # type: ignore[operator]
        ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        logits_processor=LogitsProcessorList([draw]),
        stopping_criteria=StoppingCriteriaList([_Stop(is_stopped, width)]) if is_stopped else None,
        eos_token_id=sorted(end_tokens) or None,
        pad_token_id=pad,
        synced_gpus=False,  # beside a policy that is sharded, a judge still answers on its own
    )[:, width:]
    ends = set(end_tokens)
    results = []
    for row, logprobs in zip(output, torch.stack(draw.logprobs, 1).tolist(), strict=True):
        tokens = row.tolist()
        count = 1
        while count < len(tokens) and tokens[count - 1] not in ends:
            if is_stopped is not None and is_stopped(row[None, :count]).item():
                break
            count += 1
        results.append((tokens[:count], logprobs[:count]))
    return results


@torch.inference_mode()
def row_logits(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], wanted: Sequence[int], read: Read = column_logits
) -> list[torch.Tensor]:
    """Logits at the last `wanted[i]` tokens of each row i: (wanted[i], vocabulary)."""
    tensors = [torch.tensor(row) for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True).to(model.device)
    return last_logits(model, [len(row) for row in rows], wanted, read, input_ids=ids, use_cache=False)


class _Draw(LogitsProcessor):
    """Draws each row's token with the row's own uniforms, and leaves a greedy `generate` no other choice."""

    def __init__(self, temperature: float, top_p: float, top_k: int, uniforms: torch.Tensor, width: int):
        self.settings = temperature, top_p, top_k
        self.uniforms, self.width = uniforms, width
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        chance = self.uniforms[:, input_ids.shape[1] - self.width]
        chosen = sample(scores, *self.settings, chance)[:, None]
        self.logprobs.append(scores.float().log_softmax(-1).gather(-1, chosen)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)  # type: ignore[return-value]


class _Stop(StoppingCriteria):
    """Stops rows whose new tokens are stopped."""

    def __init__(self, is_stopped: Callable[[torch.Tensor], torch.Tensor], width: int):
        self.is_stopped, self.width = is_stopped, width

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        return self.is_stopped(input_ids[:, self.width :])  # type: ignore[return-value]
