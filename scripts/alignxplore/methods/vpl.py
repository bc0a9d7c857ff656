"""VPL, variational preference learning (Poddar et al. 2024, arXiv 2408.10075): a baseline that writes no description.

A user's pairs say which latent z the user has, q(z | pairs), a diagonal Gaussian; a reward r(response, z) says which
response such a user prefers. Both are small networks on the features of a frozen language model, trained together to
maximise the evidence lower bound on the target pair's preference.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignxplore import engines, records
from alignxplore.engines.transformers import TransformersBackend
from alignxplore.errors import UserError
from alignxplore.judging.rows import judgement_rows
from alignxplore.prompts import Prompt, mark_user_text

log = logging.getLogger(__name__)

METRICS = pl.Schema(
    {
        "step": pl.Int64(),
        "loss": pl.Float64(),
        "log_likelihood": pl.Float64(),
        "kl": pl.Float64(),
        "accuracy": pl.Float64(),
    }
)
"""Means over a step's users, in nats; accuracy is the share of target pairs whose chosen response has more reward."""

_SIZES, _WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Settings:
    """The config's section `vpl`; `beta` weighs the KL divergence from the prior, the learning rate is Adam's."""

    latent_size: int
    hidden_size: int
    beta: float
    learning_rate: float
    batch_size: int
    epochs: int


@dataclass(frozen=True)
class Pairs:
    """Users' pairs as rows of `features` (texts, size), the chosen response's first.

    `signals` (users, pairs, 2) is -1 where a user has fewer pairs than others; `targets` is (users, 2).
    """

    features: Tensor
    signals: Tensor
    targets: Tensor

    def of(self, users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of some users' signals (users, pairs, 2, size) and targets (users, 2, size), and which are there.

        The last is true for the pairs (users, pairs) that a user has.
        """
        signals = self.signals[users]
        return self.features[signals], self.features[self.targets[users]], signals[..., 0] >= 0


class VPL(nn.Module):
    """Encoder q(z | pairs) and reward r(response, z), on features standardised by `shift` and `scale`."""

    shift: Tensor
    scale: Tensor

    def __init__(self, feature_size: int, latent_size: int, hidden_size: int):
        super().__init__()
        self.sizes = {"feature_size": feature_size, "latent_size": latent_size, "hidden_size": hidden_size}
        self.register_buffer("shift", torch.zeros(feature_size))
        self.register_buffer("scale", torch.ones(feature_size))
        self.pair = _perceptron(2 * feature_size, hidden_size, hidden_size)
        self.attention = nn.Linear(hidden_size, 1)
        self.posterior = nn.Linear(hidden_size, 2 * latent_size)
        self.reward = _perceptron(feature_size + latent_size, hidden_size, 1)

    def standardise(self, features: Tensor) -> None:
        """Let `features` (texts, size) have mean 0 and standard deviation 1 in each column."""
        # Some columns of a language model's states are hundreds of times as large as the others.
        deviation = features.std(0, correction=0)
        self.shift.copy_(features.mean(0))
        self.scale.copy_(torch.where(deviation > 0, deviation, 1.0))

    def infer(self, signals: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (users, latent size) of q(z | pairs), whatever the order of the pairs.

        `signals` (users, pairs, 2, size) holds features of chosen and rejected; `present` (users, pairs) is true for
        pairs that a user has.
        """
        hidden = self.pair(((signals - self.shift) / self.scale).flatten(2))
        weights = self.attention(hidden).masked_fill(~present[..., None], -torch.inf).softmax(1)
        mean, logit = self.posterior((weights * hidden).sum(1)).chunk(2, -1)
        # No wider than the prior, as evidence never makes it: unbounded, the variance can run away where beta is small.
        return mean, F.logsigmoid(logit)

    def margin(self, targets: Tensor, z: Tensor) -> Tensor:
        """r(chosen, z) - r(rejected, z): (users,), from `targets` (users, 2, size) and `z` (users, latent size)."""
        responses = (targets - self.shift) / self.scale
        rewards = self.reward(torch.cat([responses, z[:, None].expand(-1, 2, -1)], -1))[..., 0]
        return rewards[:, 0] - rewards[:, 1]


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, outputs),
    )


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, I)) over the last dimension, in nats."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1)


def evidence(
    model: VPL, signals: Tensor, targets: Tensor, present: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Reward margin, its Bradley-Terry log-likelihood, and KL(q || N(0, I)): each (users,).

    The log-likelihood is at z = mean + deviation * `noise`; log-likelihood - beta * KL is the bound to maximise.
    """
    mean, log_variance = model.infer(signals, present)
    margin = model.margin(targets, mean + (log_variance / 2).exp() * noise)
    return margin, F.logsigmoid(margin), kl_divergence(mean, log_variance)


def train(pairs: Pairs, settings: Settings, seed: int) -> tuple[VPL, pl.DataFrame]:
    """A model trained on all users, and METRICS of each step; the same on every run with the same `seed`.

    Raises UserError where the loss leaves all bounds.
    """
    users, size = len(pairs.targets), pairs.features.shape[1]
    rows: list[tuple[float, ...]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VPL(size, settings.latent_size, settings.hidden_size)
        model.standardise(pairs.features)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        for _ in range(settings.epochs):
            for batch in torch.randperm(users).split(settings.batch_size):
                noise = torch.randn(len(batch), settings.latent_size)
                margin, log_likelihood, kl = evidence(model, *pairs.of(batch), noise)
                loss = (settings.beta * kl - log_likelihood).mean()
                if not loss.isfinite():
                    raise UserError(
                        f"VPL: the loss is {loss.item()} at step {len(rows) + 1}:"
                        " lower vpl.learning_rate or raise vpl.beta"
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                figures = (loss, log_likelihood.mean(), kl.mean(), (margin > 0).double().mean())
                rows.append((len(rows) + 1, *(figure.item() for figure in figures)))
                log.info("step %d: loss %.4g, log-likelihood %.4g, KL %.4g, accuracy %.3g", *rows[-1])
    return model, pl.DataFrame(rows, schema=METRICS, orient="row")


@torch.inference_mode()
def p_chosen(model: VPL, pairs: Pairs) -> np.ndarray:
    """Probability (users,) that a user prefers the target's chosen response, at the posterior's mean."""
    margins = []
    for batch in torch.arange(len(pairs.targets)).split(1024):
        signals, targets, present = pairs.of(batch)
        margins.append(model.margin(targets, model.infer(signals, present)[0]))
    return torch.cat(margins).double().sigmoid().numpy()


def judge(model: VPL, cases: pl.DataFrame, pairs: Pairs, method: str, name: str) -> pl.DataFrame:
    """JUDGEMENT rows of `cases`, whose pairs are `pairs`, by VPL's own reward, under the judge's name `name`."""
    size = model.sizes["feature_size"]
    if pairs.features.shape[1] != size:
        raise UserError(
            f"VPL of method {method!r} was trained on {size} features a text, but its model has"
            f" {pairs.features.shape[1]}: train it again"
        )
    # No response is shown first.
    probabilities = np.repeat(p_chosen(model, pairs)[:, None], 2, axis=1)
    judged = cases.with_columns(method=pl.lit(method), format_ok=pl.lit(None, pl.Boolean))
    return judgement_rows(judged, name, probabilities)


def featured_pairs(entry: Mapping[str, Any], users: pl.DataFrame) -> Pairs:
    """The pairs of `users`, EXAMPLE or CASE rows, with features from the model of the config entry `entry`.

    A text is a post and a response to it, as a chat; its features are the model's hidden state at its last token. Each
    distinct text is read once. Raises UserError for users without pairs, and for engines that show no hidden state.
    """
    index: dict[tuple[str, str], int] = {}

    def place(pair: Mapping[str, Any]) -> list[int]:
        return [index.setdefault((pair["prompt"], pair[side]), len(index)) for side in ("chosen", "rejected")]

    signals, targets = [], []
    for user in users.iter_rows(named=True):
        if not user["pairs"]:
            raise UserError(
                f"VPL infers from pairs, and {user.get('case_id') or user['example_id']}"
                f" of {user.get('benchmark', 'the training set')} has none: leave its benchmark out of the method's"
            )
        signals.append(torch.tensor([place(pair) for pair in user["pairs"]]))
        targets.append(place(user))
    if not targets:
        raise UserError("VPL: there is no user to train on or to judge")
    padded = nn.utils.rnn.pad_sequence(signals, batch_first=True, padding_value=-1)
    return Pairs(_features(entry, list(index)), padded, torch.tensor(targets))


def _features(entry: Mapping[str, Any], texts: list[tuple[str, str]]) -> Tensor:
    backend = engines.start(entry)
    if not isinstance(backend, TransformersBackend):
        raise UserError(f"VPL reads hidden states: model {entry['path']} needs the engine transformers")
    started = time.monotonic()
    features = backend.last_states(
        [Prompt(mark_user_text(post)) for post, _ in texts], [response for _, response in texts]
    )
    log.info("%s: features of %d texts in %.1f s", entry["path"], len(texts), time.monotonic() - started)
    return features


def save(model: VPL, directory: str | Path) -> None:
    """Write sizes (config.json) and weights (model.safetensors); equal models give equal bytes."""
    with records.replacing(Path(directory) / _SIZES) as partial:
        partial.write_text(json.dumps(model.sizes, indent=2) + "\n", encoding="utf-8")
    with records.replacing(Path(directory) / _WEIGHTS) as partial:
        partial.write_bytes(safetensors.torch.save(model.state_dict()))


def load(directory: str | Path) -> VPL:
    """The model that `save` wrote in `directory`; UserError where it cannot be read."""
    try:
        model = VPL(**json.loads((Path(directory) / _SIZES).read_text(encoding="utf-8")))
        model.load_state_dict(safetensors.torch.load_file(Path(directory) / _WEIGHTS))
    except (OSError, ValueError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{directory}: no trained VPL can be read from it; make it again: {reason}") from error
    return model
