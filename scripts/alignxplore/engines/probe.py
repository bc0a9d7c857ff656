"""Which layouts of a batch give the numbers of a model's own forward pass: tried on a few short rows, at load.

Architectures differ in what they do with positions, masks, caches and padding, and a layout that does not suit a model
gives other numbers without a word. So each layout is compared with plain passes of one row at a time.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from alignxplore.engines import packing, padding
from alignxplore.errors import UserError

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest difference of a log-probability, in nats, that counts as the same number in float32."""

REDUCED_TOLERANCE = 0.25
"""Largest mean difference in bfloat16 and float16, whose rounding depends on the layout."""

_WINDOWS = ("sliding_window", "sliding_window_size", "attention_window", "window_size", "attention_chunk_size")
"""Settings of models in which a token does not see all before it. The probe's rows are too short to show that."""

_LENGTHS = (7, 12, 9)
_SHARED, _NEW, _GENERATIONS = 5, 4, 2


@dataclass(frozen=True)
class Layout:
    """What suits a model: to compute a common beginning once, and to pad prompts to one length when sampling."""

    shares: bool
    pads: bool


def find_layout(model: PreTrainedModel, name: str) -> Layout:
    """The fastest layout that gives this model's own numbers. Raises UserError if there is none."""
    with _evaluating(model):
        layout = _fastest(_Probe(model, name), may_share(model))
    if layout is None:
        raise UserError(
            f"model {name}: batches of this architecture ({model.config.model_type}) do not give the numbers of single"
            " passes, so it cannot be run by transformers; use the engine vllm or a server"
        )
    return layout


def check_left_padding(model: PreTrainedModel, name: str) -> None:
    """Raise UserError if the model reads other positions where TRL pads on the left and states no positions."""
    with _evaluating(model):
        probe = _Probe(model, name)
        agrees = probe.agrees(probe.left_padded_scores)
    if not agrees:
        raise UserError(
            f"model {name}: TRL pads prompts on the left, and this architecture ({model.config.model_type}) then gives"
            " other numbers, so it cannot be trained by GRPO"
        )


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout and other noise of training."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _fastest(probe: "_Probe", may_share: bool) -> Layout | None:
    if may_share and probe.agrees(probe.shared_scores) and probe.agrees(probe.shared_samples):
        return Layout(shares=True, pads=True)
    if probe.agrees(probe.padded_scores):
        if probe.agrees(probe.padded_samples):
            return Layout(shares=False, pads=True)
        if probe.agrees(probe.equal_samples):
            return Layout(shares=False, pads=False)
    return None


def may_share(model: PreTrainedModel) -> bool:
    """Whether every token of the model sees all tokens before it, through scaled-dot-product attention."""
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = any(getattr(config, name, None) is not None for name in _WINDOWS) or layers != {"full_attention"}
    return config._attn_implementation == "sdpa" and not windowed


class _Probe:
    """Short rows of random tokens, and the log-probabilities of plain passes; the methods return (got, expected)."""

    def __init__(self, model: PreTrainedModel, name: str):
        config = model.config.get_text_config()
        special = {getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
        random = np.random.default_rng(0)
        usual = [token for token in random.integers(0, config.vocab_size, 200).tolist() if token not in special]
        head, rest = usual[:_SHARED], iter(usual[_SHARED:])
        self.rows = [head + [next(rest) for _ in range(length - _SHARED)] for length in _LENGTHS]
        self.uniforms = torch.tensor(random.random((len(_LENGTHS) * _GENERATIONS, _NEW)))
        self.model = model
        self.expected = [self.plain(row) for row in self.rows]
        if not all(bool(values.isfinite().any(-1).all()) for values in self.expected):
            dtype = str(model.dtype).removeprefix("torch.")
            raise UserError(f"model {name} computes NaN in {dtype}; try dtype: float32, or check the model's files")

    @torch.inference_mode()
    def plain(self, row: list[int]) -> torch.Tensor:
        """Log-probabilities of the next token after each token of a row: (tokens, vocabulary)."""
        ids = torch.tensor([row], device=self.model.device)
        return self.model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)

    def agrees(self, layout: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> bool:
        """Whether a layout runs with this model and gives its numbers."""
        try:
            got, expected = layout()
        except Exception as error:  # whatever an architecture raises for what it was not made for
            log.debug("%s fails with %s: %s", layout.__name__, type(error).__name__, error)
            return False
        difference = (got - expected).abs()
        if self.model.dtype == torch.float32:
            return difference.max().item() <= TOLERANCE
        return difference.mean().item() <= REDUCED_TOLERANCE

    def shared_scores(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Tails of one common beginning, and a tail of a beginning of its own."""
        heads = [self.rows[0][:_SHARED], self.rows[2][:-2]]
        tails = [(0, self.rows[0][_SHARED:]), (0, self.rows[1][_SHARED:]), (1, self.rows[2][-2:])]
        wanted = [len(tail) for _, tail in tails]
        return self._scores(packing.tail_logits(self.model, heads, tails, wanted), wanted)

    def padded_scores(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Whole rows, padded on the right."""
        wanted = [3, 4, 5]
        return self._scores(padding.row_logits(self.model, self.rows, wanted), wanted)

    def left_padded_scores(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Whole rows, padded on the left and masked, without positions."""
        width = max(map(len, self.rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in self.rows], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in self.rows], device=ids.device)
        wanted = [3, 4, 5]
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return self._scores([values[-n:] for values, n in zip(logits, wanted, strict=True)], wanted)

    def shared_samples(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rollouts that attend to a prompt computed once."""
        return self._samples(packing.rollout, self.rows)

    def padded_samples(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rollouts of prompts padded on the left."""
        return self._samples(padding.rollout, self.rows)

    def equal_samples(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rollouts of prompts of one length."""
        return self._samples(padding.rollout, [row[: min(_LENGTHS)] for row in self.rows])

    def _scores(self, logits: list[torch.Tensor], wanted: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        got = torch.cat(logits).double().log_softmax(-1)
        return _finite(got, torch.cat([values[-n:] for values, n in zip(self.expected, wanted, strict=True)]))

    def _samples(self, rollout: Callable, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = rollout(self.model, rows, _GENERATIONS, _NEW, (), 1.0, 1.0, 0, self.uniforms)
        expected = []
        for number, (tokens, _) in enumerate(drawn):
            row = rows[number // _GENERATIONS]
            values = self.plain(row + tokens)[len(row) - 1 : -1]
            expected.append(values.gather(1, torch.tensor(tokens, device=values.device)[:, None])[:, 0])
        got = [torch.tensor(logprobs, dtype=torch.float64, device=self.model.device) for _, logprobs in drawn]
        return torch.cat(got), torch.cat(expected)


def _finite(got: torch.Tensor, expected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both without the tokens that a model rules out by minus infinity."""
    possible = expected.isfinite()
    return got[possible], expected[possible]
