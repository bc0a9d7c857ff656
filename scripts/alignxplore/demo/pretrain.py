"""Training of the scale models on texts of the demo world, each in a few minutes on one CPU core.

Two things let a model with less than a million parameters learn to read preferences so quickly:

* Initialisation. Embeddings start from word co-occurrence in the world's glossary (factorised positive pointwise
  mutual information, Levy & Goldberg 2014), so a pole's label and cues are close from the first step. Above the first
  layer, queries start equal to keys (mimetic initialisation, Trockman & Kolter 2023), so like attends to like.
* Annotated prompts. At the end of each clause, the model is also asked what the clause means for the task (deep
  supervision). This teaches it to read long before the final answer gives a useful gradient.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from alignxplore.demo.tasks import Sample
from alignxplore.demo.world import World
from alignxplore.formats import TAGS
from alignxplore.prompts import split_marked, strip_markers

log = logging.getLogger(__name__)

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(texts: Sequence[str], vocab_size: int, output: Path) -> None:
    """Train a byte-level BPE tokenizer with a ChatML template, and save it as a Hugging Face directory."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(list(TAGS))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=TURN_END, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(output)


def cooccurrence_embeddings(lines: Sequence[Sequence[int]], vocabulary: int, size: int, seed: int) -> torch.Tensor:
    """Embeddings, (vocabulary, size): the factorised PPMI of the lines, plus some noise that keeps words apart."""
    counts = np.zeros((vocabulary, vocabulary), np.float32)
    for line in lines:
        words = np.unique(line)
        counts[np.ix_(words, words)] += 1
    margin = counts.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        ppmi = np.nan_to_num(np.maximum(np.log(counts * counts.sum() / (margin * margin.T)), 0), posinf=0)
    generator = torch.Generator().manual_seed(seed)
    left, values, _ = np.linalg.svd(ppmi, hermitian=True)
    meaning = torch.from_numpy(np.ascontiguousarray(left[:, :size] * np.sqrt(values[:size]))).float()
    rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=generator))
    meaning = functional.normalize(meaning @ rotation, dim=1)
    noise = functional.normalize(torch.randn(vocabulary, size, generator=generator), dim=1)
    share = 0.85
    return 0.05 * math.sqrt(size) * (share * meaning + math.sqrt(1 - share**2) * noise)


@dataclass(frozen=True)
class Shape:
    """Architecture and initialisation of a scale model."""

    hidden_size: int = 128
    layers: int = 3
    heads: int = 4
    rope_theta: float = 1e4
    mimetic: bool = False
    """Whether queries start equal to keys in all layers but the first."""


def network_config(shape: Shape, tokens: int, **special: Any) -> Qwen2Config:
    """The config of a scale model with this many tokens; `special` are the ids of those that end and pad texts."""
    return Qwen2Config(
        vocab_size=tokens,
        hidden_size=shape.hidden_size,
        intermediate_size=3 * shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        bos_token_id=None,
        **special,
    )


def new_model(
    tokenizer: PreTrainedTokenizerFast, shape: Shape, world: World, axes: Sequence[str], seed: int
) -> Qwen2ForCausalLM:
    """An untrained Qwen2 model with embeddings from the world's glossary."""
    torch.manual_seed(seed)
    config = network_config(
        shape, len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model = Qwen2ForCausalLM(config)
    encode = tokenizer.backend_tokenizer.encode
    lines = [encode(" " + world.glossary_line(axes), add_special_tokens=False).ids for _ in range(6000)]
    embeddings = cooccurrence_embeddings(lines, len(tokenizer), shape.hidden_size, seed)
    model.model.embed_tokens.weight.data.copy_(embeddings)
    for layer in model.model.layers[1:] if shape.mimetic else ():
        attention = layer.self_attn
        torch.nn.init.orthogonal_(attention.q_proj.weight)
        attention.k_proj.weight.data.copy_(attention.q_proj.weight.data)
    return model


class Encoder:
    """Turns samples into targets and token ids, the same ids as engines give (engines/tokens.py)."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.backend = tokenizer.backend_tokenizer
        self.end_of_turn = tokenizer.eos_token_id
        self._ids: dict[str, int] = {}

    def word(self, word: str) -> int:
        """Id of the last token of ` word`, which differs between words."""
        if word not in self._ids:
            self._ids[word] = self.backend.encode(" " + word, add_special_tokens=False).ids[-1]
        return self._ids[word]

    def __call__(self, sample: Sample) -> tuple[list[int], list[int], list[int]]:
        """Token ids, next-token targets of the annotations, and next-token targets of the completion.

        In a judge's sample, for example (`.` is -100, no target; "last" is the last token of the prompt):

            ids      ...  go  with  a  joke  ,  see  how  it  goes     ...  last  A
            aux      ...  .   .     .  yes   .  .    .    .   neither  ...  .     .
            answer   ...  .   .     .  .     .  .    .    .   .        ...  A     .
        """
        prompt = sample.prompt
        system = f"{TURN_START}system\n{strip_markers(prompt.system)}{TURN_END}\n" if prompt.system else ""
        text = f"{system}{TURN_START}user\n"
        places: dict[int, int] = {}  # of annotated characters, to the words that they say
        pending = list(sample.notes)
        for piece, is_user in split_marked(prompt.user):
            if is_user and pending and pending[0][0] == piece:
                for end, word in pending.pop(0)[1]:
                    places[len(text) + end - 1] = self.word(word)
            text += piece
        if pending:
            raise ValueError(f"annotated text is not in the prompt: {pending[0][0]!r}")
        text += f"{TURN_END}\n{TURN_START}assistant\n{prompt.prefill}"
        encoding = self.backend.encode(text, add_special_tokens=False)
        ids = encoding.ids
        completion = self.backend.encode(text + sample.completion, add_special_tokens=False).ids[len(ids) :]
        if sample.closed:
            completion.append(self.end_of_turn)
        start = len(ids) - 1
        ids = ids + completion
        aux, answer = [-100] * len(ids), [-100] * len(ids)
        for place, target in places.items():
            position = encoding.char_to_token(place)
            assert position is not None, "every character of a prompt is in a token"
            aux[position] = target
        answer[start : start + len(completion)] = completion
        return ids, aux, answer


def _pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


@dataclass(frozen=True)
class Schedule:
    """Length, batches and learning rates of a training."""

    steps: int
    batch_tokens: int = 5000
    matrix_lr: float = 0.025
    vector_lr: float = 3e-3
    annotation_weight: float = 2.0


def fastest_precision() -> torch.dtype:
    """The type in which this CPU multiplies matrices fastest."""
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


FLOAT32_ATTENTION = "sdpa_float32"


def _float32_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    with torch.autocast("cpu", enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), *args, **kwargs)


# On a CPU, attention's backward pass is several times as slow in bfloat16 as in float32.
AttentionInterface.register(FLOAT32_ATTENTION, _float32_attention)
AttentionMaskInterface.register(FLOAT32_ATTENTION, sdpa_mask)


Row = tuple[list[int], list[int], list[int]]
"""A sample as `Encoder` returns it."""

MICRO_BATCH = 2500
"""The most tokens, padding included, of which gradients are computed at once."""


def micro_batches(encoder: Encoder, samples: Iterator[Sample], tokens: int) -> list[list[Row]]:
    """The rows of one step, of about so many `tokens`, sorted by length and cut into parts.

    So hardly anything is padded, and what a part computes stays in the processor's cache.
    """
    rows: list[Row] = []
    while sum(len(ids) for ids, _, _ in rows) < tokens:
        rows.append(encoder(next(samples)))
    rows.sort(key=lambda row: len(row[0]))
    parts: list[list[Row]] = [[]]
    for row in rows:
        if parts[-1] and (len(parts[-1]) + 1) * len(row[0]) > MICRO_BATCH:
            parts.append([])
        parts[-1].append(row)
    return parts


def train(
    model: Qwen2ForCausalLM,
    encoder: Encoder,
    samples: Callable[[float], Iterator[Sample]],
    schedule: Schedule,
    precision: torch.dtype,
) -> list[float]:
    """Train the model in place, with matrix products in `precision`, and return the loss of each step.

    `samples(progress)` yields samples for a step at `progress`, from 0 to 1. Muon trains the
    matrices, Adam the embeddings and norms. The learning rate warms up, and ends at zero.
    """
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    vectors = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=schedule.matrix_lr, weight_decay=0.01),
        torch.optim.AdamW(vectors, lr=schedule.vector_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    rates = (schedule.matrix_lr, schedule.vector_lr)
    losses = []
    started = time.monotonic()
    model.train()
    model.set_attn_implementation(FLOAT32_ATTENTION)
    for step in range(schedule.steps):
        progress = step / schedule.steps
        scale = min(1.0, (step + 1) / 20, (1 - progress) / 0.3)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
        weight = schedule.annotation_weight * (1.0 if progress < 0.5 else 0.3)
        parts = micro_batches(encoder, samples(progress), schedule.batch_tokens)
        rows = sum(len(part) for part in parts)
        losses.append(0.0)
        for part in parts:
            ids, aux, answer = (_pad([row[kind] for row in part], value) for kind, value in enumerate((0, -100, -100)))
            # Padding is on the right, where causal attention never looks, so no mask is needed.
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
                hidden = model.model(input_ids=ids).last_hidden_state.float()
            loss = (_token_loss(model, hidden, answer) + weight * _token_loss(model, hidden, aux)) / rows
            loss.backward()
            losses[-1] += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % 25 == 0:
            mean = sum(losses[-25:]) / 25
            log.info("step %d of %d: loss %.3f, %.0f s", step + 1, schedule.steps, mean, time.monotonic() - started)
    model.set_attn_implementation("sdpa")
    model.eval()
    return losses


def _token_loss(model: Qwen2ForCausalLM, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum over sequences of their mean cross-entropy. Logits are computed only at positions with a target."""
    kept = targets != -100
    losses = functional.cross_entropy(model.lm_head(hidden[kept]), targets[kept], reduction="none")
    return (losses / kept.sum(1, keepdim=True).expand_as(kept)[kept]).sum()


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Save the model as a Hugging Face directory."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def train_scale_model(
    entry: dict[str, Any],
    tokenizer: PreTrainedTokenizerFast,
    base: Path | None,
    world: World,
    axes: Sequence[str],
    samples: Callable[[random.Random, float], Iterator[Sample]],
    seed: int,
    output: Path,
    precision: str | None = None,
) -> list[float]:
    """Train and save the model that `entry` (of `demo.models`) describes; starts from `base`, or from scratch.

    `precision` is that of the matrix products, "bfloat16" or "float32"; default: the faster one on this CPU.
    """
    if base is None:
        model = new_model(tokenizer, Shape(**entry.get("shape", {})), world, axes, seed)
    else:
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM.from_pretrained(base, use_safetensors=True)
    products: torch.dtype = getattr(torch, precision) if precision else fastest_precision()
    log.info("%.2f M parameters, products in %s", sum(p.numel() for p in model.parameters()) / 1e6, products)
    schedule = Schedule(**entry["schedule"])
    encoder = Encoder(tokenizer)
    losses = train(model, encoder, lambda progress: samples(world.rng, progress), schedule, products)
    save(model, tokenizer, output)
    return losses
