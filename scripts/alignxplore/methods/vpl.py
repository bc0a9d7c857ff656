"""VPL, variational preference learning (Poddar et al. 2024, arXiv 2408.10075): a baseline without descriptions.

A user is a latent variable z. Two small networks work on features of a frozen language model:

    pairs of the user   -> features -> encoder q(z | pairs), a diagonal Gaussian -> z
    target responses, z -> features -> reward r(response, z)                     -> r(chosen, z) - r(rejected, z)

They are trained together to maximise the evidence lower bound on the preference in the target pair.
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
from alignxplore.judging.offline import judgement_rows
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
"""Means over the users of a training step, in nats; `accuracy` is how often the chosen response has more reward."""

_SIZES, _WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Settings:
    """The config's `vpl` section; `beta` weighs the KL divergence from the prior, `learning_rate` is Adam's."""

    latent_size: int
    hidden_size: int
    beta: float
    learning_rate: float
    batch_size: int
    epochs: int


@dataclass(frozen=True)
class Pairs:
    """Users' pairs: each is two row numbers of `features` (texts, size), chosen response first.

    `signals` is (users, pairs, 2), padded with -1 for users with fewer pairs; `targets` is (users, 2). Features are NaN
    for a text that the model refuses. Pairs with such a text are left out of `signals`.
    """

    features: Tensor
    signals: Tensor
    targets: Tensor

    def of(self, users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of these users' signals (users, pairs, 2, size) and targets (users, 2, size), and a mask.

        The mask (users, pairs) is false for padding.
        """
        signals = self.signals[users]
        present = signals[..., 0] >= 0
        # A padded place reads some other text, which may be NaN, and a weight of 0 does not hide that.
        features = self.features[signals].masked_fill(~present[..., None, None], 0.0)
        return features, self.features[self.targets[users]], present

    def usable(self) -> Tensor:
        """The numbers of the users who have a pair and a target with features."""
        known = ~self.features[self.targets].isnan().flatten(1).any(1)
        return torch.nonzero(known & (self.signals[..., 0] >= 0).any(1)).flatten()


class VPL(nn.Module):
    """Encoder q(z | pairs) and reward r(response, z), on features standardised with `shift` and `scale`."""

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
        """Set `shift` and `scale` so that each column of `features` (texts, size) gets mean 0 and deviation 1."""
        # Some columns of a language model's hidden states are hundreds of times larger than the others.
        deviation = features.std(0, correction=0)
        self.shift.copy_(features.mean(0))
        self.scale.copy_(torch.where(deviation > 0, deviation, 1.0))

    def infer(self, signals: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | pairs), each (users, latent size), independent of the order of pairs.

        `signals` (users, pairs, 2, size) holds features of chosen and rejected responses; `present` (users, pairs) is
        false for padding.
        """
        hidden = self.pair(((signals - self.shift) / self.scale).flatten(2))
        weights = self.attention(hidden).masked_fill(~present[..., None], -torch.inf).softmax(1)
        mean, logit = self.posterior((weights * hidden).sum(1)).chunk(2, -1)
        # Evidence only narrows a posterior, so bound the variance by the prior's: with a small beta it could diverge.
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
    """KL(N(mean, variance) || N(0, I)) in nats, summed over the last dimension."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1)


def evidence(
    model: VPL, signals: Tensor, targets: Tensor, present: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Reward margin, its Bradley-Terry log-likelihood, and KL(q || N(0, I)), each (users,).

    The first two are at z = mean + deviation * `noise`. The bound to maximise is log-likelihood - beta * KL.
    """
    mean, log_variance = model.infer(signals, present)
    margin = model.margin(targets, mean + (log_variance / 2).exp() * noise)
    return margin, F.logsigmoid(margin), kl_divergence(mean, log_variance)


def train(pairs: Pairs, settings: Settings, seed: int) -> tuple[VPL, pl.DataFrame]:
    """A model trained on all usable users, and the METRICS of each step; the same `seed` gives the same model.

    Raises UserError if the loss diverges.
    """
    users, size = pairs.usable(), pairs.features.shape[1]
    if not len(users):
        raise UserError("VPL: the model refuses texts of every user")
    if left_out := len(pairs.targets) - len(users):
        log.warning("left out %d of %d users, whose texts the model refuses", left_out, len(pairs.targets))
    rows: list[tuple[float, ...]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VPL(size, settings.latent_size, settings.hidden_size)
        model.standardise(pairs.features[~pairs.features.isnan().any(1)])
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        for _ in range(settings.epochs):
            for batch in users[torch.randperm(len(users))].split(settings.batch_size):
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
    """Probability that each user prefers the chosen response of the target, at the posterior's mean: (users,).

    It is NaN for users who are not usable.
    """
    margins = []
    for batch in torch.arange(len(pairs.targets)).split(1024):
        signals, targets, present = pairs.of(batch)
        margins.append(model.margin(targets, model.infer(signals, present)[0]))
    return torch.cat(margins).double().sigmoid().numpy()


def judge(model: VPL, cases: pl.DataFrame, pairs: Pairs, method: str, name: str) -> pl.DataFrame:
    """JUDGEMENT rows of `cases` by VPL's own reward, under the judge name `name`; `pairs` are those of the cases."""
    size = model.sizes["feature_size"]
    if pairs.features.shape[1] != size:
        raise UserError(
            f"VPL of method {method!r} was trained on {size} features per text, but its model now has"
            f" {pairs.features.shape[1]}: train it again"
        )
    # The reward sees one response at a time, so there is no order of presentation.
    probabilities = np.repeat(p_chosen(model, pairs)[:, None], 2, axis=1)
    judged = cases.with_columns(method=pl.lit(method), format_ok=pl.lit(None, pl.Boolean), completion_tokens=0)
    return judgement_rows(judged, name, probabilities)


def featured_pairs(entry: Mapping[str, Any], users: pl.DataFrame) -> Pairs:
    """The pairs of `users` (EXAMPLE or CASE rows) with features from the model of the config entry `entry`.

    A text is a chat: a post and a response to it. Its features are the model's hidden state at the last token. Each
    distinct text is computed once. Raises UserError for users without pairs and for engines without hidden states.
    """
    index: dict[tuple[str, str], int] = {}

    def place(pair: Mapping[str, Any]) -> list[int]:
        return [index.setdefault((pair["prompt"], pair[side]), len(index)) for side in ("chosen", "rejected")]

    signals, targets = [], []
    for user in users.iter_rows(named=True):
        if not user["pairs"]:
            raise UserError(
                f"VPL infers from pairs, but {user.get('case_id') or user['example_id']}"
                f" of {user.get('benchmark', 'the training set')} has none: leave its benchmark out of the method's"
                " benchmarks"
            )
        signals.append(torch.tensor([place(pair) for pair in user["pairs"]]))
        targets.append(place(user))
    if not targets:
        raise UserError("VPL: there are no users to train on or to judge")
    features = _features(entry, list(index))
    known = ~features.isnan().any(1)
    signals = [pairs[known[pairs].all(1)] for pairs in signals]
    padded = nn.utils.rnn.pad_sequence(signals, batch_first=True, padding_value=-1)
    return Pairs(features, padded, torch.tensor(targets))


def _features(entry: Mapping[str, Any], texts: list[tuple[str, str]]) -> Tensor:
    backend = engines.start(entry)
    if not isinstance(backend, TransformersBackend):
        raise UserError(f"VPL reads hidden states, so model {entry['path']} needs the engine transformers")
    started = time.monotonic()
    features = backend.last_states(
        [Prompt(mark_user_text(post)) for post, _ in texts], [response for _, response in texts]
    )
    log.info("%s: features of %d texts in %.1f s", entry["path"], len(texts), time.monotonic() - started)
    return features


def save(model: VPL, directory: str | Path) -> None:
    """Write the sizes (config.json) and weights (model.safetensors); equal models give equal bytes."""
    with records.replacing(Path(directory) / _SIZES) as partial:
        partial.write_text(json.dumps(model.sizes, indent=2) + "\n", encoding="utf-8")
    with records.replacing(Path(directory) / _WEIGHTS) as partial:
        partial.write_bytes(safetensors.torch.save(model.state_dict()))


def load(directory: str | Path) -> VPL:
    """The model that `save` wrote to `directory`. Raises UserError if it cannot be read."""
    try:
        model = VPL(**json.loads((Path(directory) / _SIZES).read_text(encoding="utf-8")))
        model.load_state_dict(safetensors.torch.load_file(Path(directory) / _WEIGHTS))
    except (OSError, ValueError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{directory}: no trained VPL can be read from it; train it again: {reason}") from error
    return model
