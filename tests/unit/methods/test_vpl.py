"""VPL: its equations, what its latent variable learns, and the path from texts to judgements."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from alignxplore import records
from alignxplore.engines.transformers import TransformersBackend
from alignxplore.errors import UserError
from alignxplore.methods import vpl
from alignxplore.prompts import Prompt, mark_user_text
from torch.distributions import Normal, kl_divergence

SETTINGS = vpl.Settings(latent_size=4, hidden_size=32, beta=0.01, learning_rate=0.01, batch_size=32, epochs=4)


def planted(users: int, seed: int) -> vpl.Pairs:
    """Users of two kinds: one prefers responses high in the first feature, the other responses low in it."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(2, (users,), generator=generator) * 2 - 1
    features = torch.randn(users * 5, 2, 6, generator=generator)  # each user's four signals and target
    wrong = (features[:, 0, 0] < features[:, 1, 0]) == (kind.repeat_interleave(5) > 0)
    features[wrong] = features[wrong].flip(1)
    places = torch.arange(users * 10).view(users, 5, 2)
    return vpl.Pairs(features.flatten(0, 1), places[:, :4], places[:, 4])


def test_the_bound_equals_a_float64_reference():
    torch.manual_seed(0)
    model = vpl.VPL(feature_size=5, latent_size=3, hidden_size=7).double()
    pairs = planted(6, 0)
    pairs = vpl.Pairs(pairs.features[:, :5].double(), pairs.signals.clone(), pairs.targets)
    pairs.signals[2, 1:] = -1  # a user with one pair
    model.standardise(pairs.features)
    noise = torch.randn(6, 3, dtype=torch.float64)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    features = (pairs.features.numpy() - pairs.features.numpy().mean(0)) / pairs.features.numpy().std(0)

    def perceptron(name: str, x: np.ndarray) -> np.ndarray:
        for layer in (0, 2, 4):
            x = weights[f"{name}.{layer}.weight"] @ x + weights[f"{name}.{layer}.bias"]
            x = x if layer == 4 else np.where(x > 0, x, 0.2 * x)
        return x

    bounds = []
    for user in range(6):
        hidden = [perceptron("pair", features[pair].ravel()) for pair in pairs.signals[user].numpy() if pair[0] >= 0]
        scores = np.exp([(weights["attention.weight"] @ h)[0] for h in hidden])
        pooled = sum(score / scores.sum() * h for score, h in zip(scores, hidden, strict=True))
        posterior = weights["posterior.weight"] @ pooled + weights["posterior.bias"]
        mean, deviation = posterior[:3], (1 / (1 + np.exp(-posterior[3:]))) ** 0.5
        z = mean + deviation * noise[user].numpy()
        chosen, rejected = (perceptron("reward", np.r_[features[i], z])[0] for i in pairs.targets[user].numpy())
        prior = Normal(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
        kl = kl_divergence(Normal(torch.tensor(mean), torch.tensor(deviation)), prior).sum().item()
        bounds.append((chosen - rejected, -np.log1p(np.exp(rejected - chosen)), kl))
    found = torch.stack(vpl.evidence(model, *pairs.of(torch.arange(6)), noise), 1)
    np.testing.assert_allclose(found.detach().numpy(), bounds, rtol=1e-9)


def test_texts_that_the_model_refuses_cost_their_pair_or_their_user(monkeypatch, caplog):
    planned = planted(40, 3)
    texts = [str(index) for index in range(400)]

    def users():
        pairs = [
            [{"prompt": "", "chosen": texts[c], "rejected": texts[r]} for c, r in user] for user in planned.signals
        ]
        ends = [{"prompt": "", "chosen": texts[c], "rejected": texts[r]} for c, r in planned.targets]
        return pl.DataFrame(
            [{**end, "pairs": own, "case_id": str(i)} for i, (end, own) in enumerate(zip(ends, pairs, strict=True))]
        )

    def features(refused):
        def of(entry, asked):
            found = torch.stack([planned.features[int(text)] for _, text in asked])
            found[[int(text) in refused for _, text in asked]] = torch.nan
            return found

        monkeypatch.setattr(vpl, "_features", of)
        return vpl.featured_pairs({}, users())

    whole = features(())
    assert whole.usable().tolist() == list(range(40))
    pair, target = int(planned.signals[0, 0, 1]), int(planned.targets[1, 0])
    every = set(planned.signals[2].flatten().tolist())
    # The last text is what padded places of other users read.
    partly = features({pair, target, *every, 399})
    assert (partly.signals[0, :, 0] >= 0).tolist() == [True, True, True, False]
    assert partly.usable().tolist() == [0, *range(3, 39)]
    model, metrics = vpl.train(partly, SETTINGS, seed=1)
    assert "left out 3 of 40 users" in caplog.text and metrics["loss"].is_finite().all()
    found = vpl.p_chosen(model, partly)
    assert np.flatnonzero(np.isnan(found)).tolist() == [1, 2, 39]
    np.testing.assert_allclose(found[3:39], vpl.p_chosen(model, whole)[3:39], rtol=1e-5)
    with pytest.raises(UserError, match="the model refuses texts of every user"):
        vpl.train(features(set(range(400))), SETTINGS, seed=1)


def test_the_posterior_ignores_padding_and_the_order_of_pairs():
    model, pairs = vpl.VPL(6, 2, 8), planted(5, 1)
    flipped = vpl.Pairs(pairs.features, pairs.signals.flip(1), pairs.targets)
    padding = torch.full((5, 2, 2), -1)
    padded = vpl.Pairs(pairs.features, torch.cat([pairs.signals, padding], 1), pairs.targets)
    for other in (flipped, padded):
        np.testing.assert_allclose(vpl.p_chosen(model, other), vpl.p_chosen(model, pairs), rtol=1e-5)


def test_a_latent_preference_is_learnt_from_the_signals():
    model, metrics = vpl.train(planted(2000, 2), SETTINGS, seed=1)
    held_out = planted(500, 3)
    assert (vpl.p_chosen(model, held_out) > 0.5).mean() > 0.9
    # Half of the users like what the others dislike, so without z the accuracy is one half.
    strangers = vpl.Pairs(held_out.features, held_out.signals.roll(1, 0), held_out.targets)
    assert 0.4 < (vpl.p_chosen(model, strangers) > 0.5).mean() < 0.6
    ignorant, _ = vpl.train(planted(2000, 2), replace(SETTINGS, beta=100.0), seed=1)
    assert 0.4 < (vpl.p_chosen(ignorant, held_out) > 0.5).mean() < 0.6
    last = metrics.tail(20).mean()
    assert last["kl"].item() > 0.1 and last["log_likelihood"].item() > -0.4
    np.testing.assert_allclose(metrics["loss"], 0.01 * metrics["kl"] - metrics["log_likelihood"], rtol=1e-5, atol=1e-6)


WORDS = (
    "a quick joke",
    "a passport",
    "likes humor",
    "dislikes travel",
    "would help",
    "few words",
    "</answer><|im_end|>",
)


def user(number: int, **identity: str) -> dict:
    """An example or case with one to four pairs; users share some texts."""
    word = [WORDS[(number * step + step) % len(WORDS)] for step in range(1, 11)]
    pairs = [
        {"prompt": f"{word[i]}?", "chosen": f"{word[i + 1]} {i}", "rejected": word[i + 2], "direction": [1]}
        for i in range(1 + number % 4)
    ]
    target = {"prompt": f"{word[8]}?", "chosen": word[9], "rejected": f"{word[7]}, not"}
    return {"direction": [1], "pairs": pairs, "ugc": [], "rendered": "", **records.NO_STREAM, **target, **identity}


EXAMPLES = pl.DataFrame(
    [user(n, example_id=f"e{n}", user_id=f"u{n}") for n in range(20)], schema=records.EXAMPLE, orient="row"
)
CASES = pl.DataFrame(
    [
        user(n, case_id=f"c{n}", benchmark="b", dimension="style", golden_preference="g", profile="")
        for n in range(30, 39)
    ],
    schema=records.CASE,
    orient="row",
)


@pytest.fixture(scope="module")
def entry(tiny_model) -> dict:
    return {"engine": "transformers", "path": str(tiny_model), "run": {"batch_tokens": 64}}


def test_features_equal_the_last_states_of_unbatched_forward_passes(entry):
    pairs = vpl.featured_pairs(entry, CASES)
    backend = TransformersBackend(entry["path"])
    case = CASES.row(3, named=True)
    for place, side in zip(pairs.targets[3], ("chosen", "rejected"), strict=True):
        ids, _ = backend.chat.encode_answered(Prompt(mark_user_text(case["prompt"])), case[side])
        with torch.inference_mode():
            expected = backend.model.base_model(torch.tensor([ids])).last_hidden_state[0, -1]
        np.testing.assert_allclose(pairs.features[place], expected, atol=1e-4)
    texts = {(p["prompt"], p[s]) for c in CASES.to_dicts() for p in (*c["pairs"], c) for s in ("chosen", "rejected")}
    assert len(pairs.features) == len(texts)


def run(entry: dict, directory: Path) -> dict[str, str]:
    """Train, save, load and judge; returns the digests of all files."""
    model, metrics = vpl.train(vpl.featured_pairs(entry, EXAMPLES), SETTINGS, seed=7)
    vpl.save(model, directory / "heads")
    records.write(metrics, directory / "metrics.parquet", vpl.METRICS)
    judgements = vpl.judge(vpl.load(directory / "heads"), CASES, vpl.featured_pairs(entry, CASES), "vpl", "judge")
    records.write(judgements, directory / "judgements.parquet", records.JUDGEMENT)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_training_and_judging_give_the_same_bytes_each_time(entry, tmp_path):
    torch.manual_seed(0)
    first = run(entry, tmp_path / "first")
    torch.manual_seed(1)
    assert run(entry, tmp_path / "second") == first
    assert list(first) == ["heads/config.json", "heads/model.safetensors", "judgements.parquet", "metrics.parquet"]
    assert json.loads((tmp_path / "first/heads/config.json").read_text())["latent_size"] == 4
    judged = pl.read_parquet(tmp_path / "first/judgements.parquet")
    assert judged["case_id"].to_list() == CASES["case_id"].to_list()
    assert judged.select("benchmark", "method", "judge").unique().rows() == [("b", "vpl", "judge")]
    assert (judged["p_chosen_ab"] == judged["p_chosen_ba"]).all() and not judged["position_flip"].any()
    assert (judged["correct"] == (judged["p_chosen_ab"] > 0.5)).all() and judged["unparsed"].sum() == 0
    assert judged["format_ok"].null_count() == judged.height
    assert pl.read_parquet(tmp_path / "first/metrics.parquet").height == SETTINGS.epochs
    assert vpl.train(vpl.featured_pairs(entry, EXAMPLES), SETTINGS, seed=8)[1]["loss"][0] != pytest.approx(
        pl.read_parquet(tmp_path / "first/metrics.parquet")["loss"][0]
    )


def test_divergence_is_an_error():
    with pytest.raises(UserError, match=r"the loss is \w+ at step \d+: lower vpl.learning_rate or raise vpl.beta"):
        vpl.train(planted(300, 2), replace(SETTINGS, learning_rate=1e18), seed=1)


def test_bad_input_is_named(entry, tmp_path):
    comments = CASES.with_columns(pairs=CASES["pairs"].list.head(0))
    with pytest.raises(UserError, match="c30 of b has none: leave its benchmark out"):
        vpl.featured_pairs(entry, comments)
    with pytest.raises(UserError, match="there are no users"):
        vpl.featured_pairs(entry, EXAMPLES.head(0))
    with pytest.raises(UserError, match="model gpt needs the engine transformers"):
        vpl.featured_pairs({"engine": "openai", "path": "gpt", "base_url": "http://127.0.0.1:9"}, EXAMPLES)
    with pytest.raises(UserError, match="heads: no trained VPL can be read"):
        vpl.load(tmp_path / "heads")
    vpl.save(vpl.VPL(6, 2, 8), tmp_path / "heads")
    (tmp_path / "heads/model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="heads: no trained VPL can be read"):
        vpl.load(tmp_path / "heads")
    with pytest.raises(UserError, match="trained on 6 features per text, but its model now has 32: train it again"):
        vpl.judge(vpl.VPL(6, 2, 8), CASES, vpl.featured_pairs(entry, CASES), "vpl", "judge")
