"""Compute what prompts share once: rollouts of one prompt, and continuations of a common beginning.

The G rollouts of a prompt all start with the same tokens, so the prompt's keys and values are computed once and every
rollout attends to them. In training, a group of rollouts is packed into one row (prompt p0..p3; rollouts a, b):

    input      p0 p1 p2 | p3 a0 a1 | p3 b0 b1 b2        The prompt's last token is repeated, because it
    position    0  1  2 |  3  4  5 |  3  4  5  6        predicts the first token of each rollout.
    label       -  -  - | a0 a1 a2 | b0 b1 b2 b3
    segment     0  0  0 |  1  1  1 |  2  2  2  2        A token sees earlier tokens of segment 0 and its own.

With that mask and these positions, the model computes for each rollout what it would for prompt and rollout in a row
of their own. The prompt is most of the work if signals are long and reasoning is short, and is paid for once instead
of G times, in sampling (`rollout`), training (`pack`) and scoring (`tail_logits`). It needs a causal model that takes
a 4-D mask and positions, such as most with scaled-dot-product attention; engines/probe.py tries it.
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

_IGNORED = -100
"""The label of a position that predicts nothing."""


def column_logits(model: PreTrainedModel, columns: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """Logits at these columns, (rows, columns, vocabulary), from the model's own forward pass.

    What a model does behind its output embedding (scaling, soft-capping) is in `forward` alone, so no logits are made
    from hidden states here. A model that can leave columns out does, which saves most of the memory.
    """
    if _leaves_out_columns(model):
        return model(**inputs, logits_to_keep=columns).logits
    return model(**inputs).logits[:, columns]


def column_states(model: PreTrainedModel, columns: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """The last hidden states at these columns, (rows, columns, size): what the output embedding reads."""
    seen: list[torch.Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        column_logits(model, columns, **inputs)
    finally:
        hook.remove()
    return seen[0] if _leaves_out_columns(model) else seen[0][:, columns]


Read = Callable[..., torch.Tensor]
"""`column_logits` or `column_states`."""


def _leaves_out_columns(model: PreTrainedModel) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters


@dataclass(frozen=True)
class Packed:
    """Groups of rollouts as rows, and where each rollout's predictions are.

    `input_ids`, `position_ids` and `shift_labels` are (groups, length). `attention_mask` is (groups, 1, length,
    length), true where a token may attend. `row` and `start` are (rollouts,): the rollout's group, and the column where
    its predictions begin.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    shift_labels: torch.Tensor
    attention_mask: torch.Tensor
    row: torch.Tensor
    start: torch.Tensor

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """Arguments for the model's forward pass."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }

    def unpack(self, values: torch.Tensor, lengths: torch.Tensor, width: int) -> torch.Tensor:
        """`values` (groups, length) at each rollout's predictions: (rollouts, width).

        Zero beyond the rollout's length; `lengths` is (rollouts,).
        """
        offsets = torch.arange(width, device=values.device)
        inside = offsets < lengths[:, None]
        columns = torch.where(inside, self.start[:, None] + offsets, 0)
        return values[self.row[:, None], columns] * inside


def pack(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device) -> Packed:
    """Pack the rollouts `completions[i]` of `prompts[i]`; rollouts of equal prompts share a row, in order."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(index)
    ids, positions, labels, segments = [], [], [], []
    row, start = [0] * len(prompts), [0] * len(prompts)
    for number, (prompt, members) in enumerate(groups.items()):
        head = len(prompt) - 1
        row_ids, row_positions = list(prompt[:-1]), list(range(head))
        row_labels, row_segments = [_IGNORED] * head, [0] * head
        for segment, member in enumerate(members, 1):
            completion = list(completions[member])
            row[member], start[member] = number, len(row_ids)
            tokens = [prompt[-1], *completion[:-1]]  # one token even if the completion is empty
            row_ids += tokens
            row_positions += range(head, head + len(tokens))
            row_labels += completion or [_IGNORED]
            row_segments += [segment] * len(tokens)
        ids.append(row_ids)
        positions.append(row_positions)
        labels.append(row_labels)
        segments.append(row_segments)

    def padded(rows: list[list[int]], value: int) -> torch.Tensor:
        tensors = [torch.tensor(values) for values in rows]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value).to(device)

    segment = padded(segments, -1)
    length = segment.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    visible = (segment[:, None, :] == segment[:, :, None]) | (segment[:, None, :] == 0)
    return Packed(
        padded(ids, 0),
        padded(positions, 0),
        padded(labels, _IGNORED),
        (visible & causal)[:, None],
        torch.tensor(row, device=device),
        torch.tensor(start, device=device),
    )


def sample(
    logits: torch.Tensor, temperature: float, top_p: float, top_k: int, uniforms: torch.Tensor | None = None
) -> torch.Tensor:
    """Draw a token from each row of logits (n, vocabulary): apply temperature, then top-k, then top-p.

    `uniforms` (n,) in [0, 1) decide the draws; without them, torch's global generator does. Temperature 0 takes the
    most probable token.
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    k = min(top_k, logits.shape[-1]) if top_k > 0 else logits.shape[-1]
    if k < logits.shape[-1] or top_p < 1:
        logits, tokens = torch.topk(logits, k)
        probabilities = logits.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0)
        return tokens.gather(-1, _draw(probabilities, uniforms)[:, None])[:, 0]
    return _draw(logits.softmax(-1), uniforms)


def _draw(probabilities: torch.Tensor, uniforms: torch.Tensor | None) -> torch.Tensor:
    """An index per row of unnormalised probabilities; `uniforms` are looked up in the cumulative distribution."""
    if uniforms is None:
        return torch.multinomial(probabilities, 1)[:, 0]
    reached = probabilities.double().cumsum(-1)
    places = torch.searchsorted(reached, uniforms[:, None] * reached[:, -1:], right=True)[:, 0]
    return places.clamp(max=probabilities.shape[-1] - 1)


class _PreallocatedLayer(DynamicLayer):
    """A cache layer with space for `length` tokens: a step writes its keys and values in place and copies no others."""

    def __init__(self, length: int):
        super().__init__()
        self.length = length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        seen = self.get_seq_length()
        if not seen:
            self.lazy_initialization(key_states, value_states)
            batch, heads, _, size = key_states.shape
            self._keys = key_states.new_empty(batch, heads, self.length, size)
            self._values = value_states.new_empty(batch, heads, self.length, value_states.shape[-1])
        end = seen + key_states.shape[2]
        self._keys[:, :, seen:end] = key_states
        self._values[:, :, seen:end] = value_states
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        return self.keys, self.values

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Drop all other rows of the batch."""
        seen = self.get_seq_length()
        self._keys, self._values = self._keys[rows], self._values[rows]
        self.keys, self.values = self._keys[:, :, :seen], self._values[:, :, :seen]


@torch.no_grad()
def rollout(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    generations: int,
    max_new_tokens: int,
    end_tokens: Collection[int],
    temperature: float,
    top_p: float,
    top_k: int,
    uniforms: torch.Tensor | None = None,
    is_stopped: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> list[tuple[list[int], list[float]]]:
    """Sample `generations` completions per prompt: the tokens and log-probabilities of each, prompt by prompt.

    A completion includes its end token. `uniforms` (rollouts, max_new_tokens) decide the draws as in `sample`.
    `is_stopped` gets the tokens so far (rollouts, steps) and returns which rollouts have ended in another way.
    Log-probabilities are in nats, before temperature and truncation.

    The cache of a group holds the prompt without its last token, then G columns per step. Each step computes one token
    of every rollout; its query sees the prompt and every G-th column. For G = 3:

        cache column       p0 p1 p2  . | 1 2 3 | 1 2 3 | 1 2 3        . is padding of shorter prompts
        rollout 2 attends   x  x  x    |   x   |   x   |   x
    """
    device = model.device
    groups, width = len(prompts), max(len(prompt) for prompt in prompts) - 1
    lengths = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    head = torch.zeros(groups, width, dtype=torch.long)
    for index, prompt in enumerate(prompts):
        head[index, : len(prompt) - 1] = torch.tensor(prompt[:-1])
    space = width + generations * max_new_tokens
    layers = [_PreallocatedLayer(space) for _ in range(model.config.get_text_config().num_hidden_layers)]
    cache = Cache(layers=layers)
    if width:
        # Prompts are padded on the right: causal attention hides the padding from them, `visible` from later tokens.
        last = torch.tensor([width - 1], device=device)
        column_logits(model, last, input_ids=head.to(device), past_key_values=cache, use_cache=True)
    own = torch.eye(generations, dtype=torch.bool, device=device).repeat(1, max_new_tokens)
    visible = torch.arange(width, device=device) < lengths[:, None]
    tokens = torch.tensor([prompt[-1] for prompt in prompts], device=device)[:, None].repeat(1, generations)
    ends = torch.tensor(sorted(end_tokens), device=device)
    finished = torch.zeros_like(tokens, dtype=torch.bool)
    drawn = torch.zeros(groups, generations, max_new_tokens, dtype=torch.long, device=device)
    scores = torch.zeros(groups, generations, max_new_tokens, device=device)
    counts = torch.full((groups, generations), max_new_tokens, device=device)
    live = torch.arange(groups, device=device)  # the groups still in the batch
    if uniforms is not None:
        uniforms = uniforms.to(device).view(groups, generations, max_new_tokens)
    for step in range(max_new_tokens):
        prompt_mask = visible[live, None].expand(-1, generations, -1)
        own_mask = own[None, :, : (step + 1) * generations].expand(len(live), -1, -1)
        logits = model(
            input_ids=tokens,
            attention_mask=torch.cat([prompt_mask, own_mask], -1)[:, None],
            position_ids=(lengths[live, None] + step).expand(-1, generations),
            past_key_values=cache,
            use_cache=True,
        ).logits.flatten(0, 1)
        chance = None if uniforms is None else uniforms[live, :, step].flatten()
        chosen = sample(logits, temperature, top_p, top_k, chance)
        logprobs = logits.float().log_softmax(-1).gather(-1, chosen[:, None])
        tokens = chosen.view(-1, generations)
        drawn[live, :, step], scores[live, :, step] = tokens, logprobs.view(-1, generations)
        ending = torch.isin(tokens, ends)
        if is_stopped is not None:
            ending |= is_stopped(drawn[live, :, : step + 1].flatten(0, 1)).view(-1, generations)
        counts[live] = torch.where(ending & ~finished, step + 1, counts[live])
        finished |= ending
        open_groups = ~finished.all(1)
        if not open_groups.any():
            break
        # Removing finished groups copies the cache, so it waits until they are half of the batch.
        if 2 * open_groups.sum() <= len(live):
            (rows,) = open_groups.nonzero(as_tuple=True)
            live, tokens, finished = live[rows], tokens[rows], finished[rows]
            for layer in layers:
                layer.keep_rows(rows)
    rows = zip(drawn.flatten(0, 1).tolist(), scores.flatten(0, 1).tolist(), counts.flatten().tolist(), strict=True)
    return [(row[:count], row_scores[:count]) for row, row_scores, count in rows]


@torch.inference_mode()
def tail_logits(
    model: PreTrainedModel,
    heads: Sequence[Sequence[int]],
    tails: Sequence[tuple[int, Sequence[int]]],
    wanted: Sequence[int],
    read: Read = column_logits,
) -> list[torch.Tensor]:
    """Logits at the last `wanted[i]` tokens of each tail i: (wanted[i], vocabulary).

    A tail is (index of the head that it continues, its tokens). Each head is computed once, then its keys and values
    are copied to a row per tail:

        head 0 ─┬─ tail (0, ...)      pass 1: heads, padded on the right
                └─ tail (0, ...)      pass 2: tails, each masked to its head without padding, and itself
        head 1 ─── tail (1, ...)
    """
    device = model.device
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    lengths = torch.tensor([len(head) for head in heads], device=device)
    head_ids = pad([torch.tensor(head, dtype=torch.long) for head in heads]).to(device)
    tail_ids = pad([torch.tensor(tail) for _, tail in tails]).to(device)
    owner = torch.tensor([head for head, _ in tails], device=device)
    cache = DynamicCache()
    last = torch.tensor([head_ids.shape[1] - 1], device=device)
    column_logits(model, last, input_ids=head_ids, past_key_values=cache, use_cache=True)
    cache.batch_select_indices(owner)
    rows, size = tail_ids.shape
    visible = torch.arange(head_ids.shape[1], device=device) < lengths[owner, None]
    causal = torch.ones(size, size, dtype=torch.bool, device=device).tril()
    mask = torch.cat([visible[:, None].expand(-1, size, -1), causal.expand(rows, -1, -1)], -1)[:, None]
    positions = lengths[owner, None] + torch.arange(size, device=device)
    ends = [len(tail) for _, tail in tails]
    return last_logits(
        model,
        ends,
        wanted,
        read,
        input_ids=tail_ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )


def last_logits(
    model: PreTrainedModel, ends: Sequence[int], wanted: Sequence[int], read: Read = column_logits, **inputs: Any
) -> list[torch.Tensor]:
    """Logits at the last `wanted[i]` tokens of each row i, which is padded behind its first `ends[i]` tokens."""
    columns = sorted({column for end, n in zip(ends, wanted, strict=True) for column in range(end - n, end)})
    logits = read(model, torch.tensor(columns, device=model.device), **inputs)
    places = [columns.index(end - n) for end, n in zip(ends, wanted, strict=True)]
    return [row[place : place + n] for row, place, n in zip(logits, places, wanted, strict=True)]
