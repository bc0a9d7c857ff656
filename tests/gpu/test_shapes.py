"""Qwen2.5-7B's shape with random weights: a judge's batch, and the output embedding of the update."""

import random
from pathlib import Path

import torch
from alignxplore import engines
from alignxplore.judging.judge import Judge
from alignxplore.prompts import Templates
from alignxplore.training.memory import Shape
from alignxplore.training.scoring import score
from memory_peaks import peak_of
from trl.trainer.utils import add_fused_lm_head

ROOT = Path(__file__).parents[2]
WORDS = ("likes", "humor", "dislikes", "travel", "and", "a", "quick", "joke", "would", "help", "passport")
TOY = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
TOY_VOCABULARY = 4000


def test_a_judge_of_7b(machine, figures, tiny_model, monkeypatch):
    network = machine.model(**(TOY if machine.is_toy else {}))
    monkeypatch.setattr("alignxplore.engines.transformers.load_model", lambda *_, **__: network)
    shape = Shape.of(network.config)
    engine = engines.load({"engine": "transformers", "path": str(tiny_model), "dtype": "bfloat16"})
    judge = Judge("jud", engine, Templates(judge=ROOT / "resources/prompts/judge.jinja"))
    drawn = random.Random(0)

    def text(length: int) -> str:
        return " ".join(drawn.choices(WORDS, k=length))

    length = machine.size(200, 20)

    def judge_new_cases() -> None:
        """The engine answers nothing that it was asked before without its model, so cases are new each time."""
        cases = [{name: text(length) for name in ("prompt", "chosen", "rejected")} for _ in range(count)]
        probabilities = judge.p_chosen(cases, [text(length) for _ in cases])
        assert ((probabilities > 0) & (probabilities < 1)).all()

    count = machine.size(128, 4)
    judge_new_cases()  # warms up
    figures["peak beyond weights, GB"] = peak_of(judge_new_cases) / 1e9
    seconds = machine.seconds(judge_new_cases)
    figures["cases per second"], figures["prompts per second"] = count / seconds, 2 * count / seconds
    held = sum(weight.nbytes for weight in network.parameters())
    figures["weights, GB"] = held / 1e9
    assert held == shape.engine("bfloat16")


def test_fused_against_kept_logits(machine, figures):
    vocabulary = machine.size(152064, TOY_VOCABULARY)
    network = machine.model(**{**TOY, "hidden_size": machine.size(3584, 64), "vocab_size": vocabulary})
    add_fused_lm_head(network, outputs=("log_probs", "entropy"))
    tokens = machine.size(1024, 64)
    ids = torch.arange(1, tokens + 1, device=machine.device)[None] * (vocabulary // (tokens + 1))
    labels = ids.roll(-1, 1)
    scores, gradients = {}, {}
    for name, fused in (("kept", False), ("fused", True)):

        def run(name: str = name, fused: bool = fused) -> None:
            network.zero_grad()
            scores[name], _ = score(network, {"input_ids": ids}, labels, fused=fused)
            (-scores[name].mean()).backward()

        run()
        figures[f"{name}: peak, GB"] = peak_of(run) / 1e9
        figures[f"{name}: seconds"] = machine.seconds(run)
        gradients[name] = network.lm_head.weight.grad.float()
    scale = gradients["kept"].norm()
    figures["mean difference, nats"] = (scores["kept"] - scores["fused"]).abs().mean().item()
    figures["largest difference, nats"] = (scores["kept"] - scores["fused"]).abs().max().item()
    figures["relative difference of gradients"] = ((gradients["kept"] - gradients["fused"]).norm() / scale).item()
    assert figures["mean difference, nats"] < 0.05
    assert figures["relative difference of gradients"] < 0.05
