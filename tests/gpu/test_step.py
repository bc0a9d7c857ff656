"""A real GRPO step by phase: rollouts, judge, update; and its peak of memory against the calculated one."""

import random
import time
from pathlib import Path

from alignxplore import engines
from alignxplore.formats import Parsed
from alignxplore.judging.judge import Judge
from alignxplore.judging.reward import Reward
from alignxplore.prompts import Prompt, Templates
from alignxplore.training import grpo
from alignxplore.training.memory import CONTEXTS, Job, Shape
from alignxplore.training.settings import check_settings
from memory_peaks import peak_of

ROOT = Path(__file__).parents[2]
# The shape of Qwen2.5-1.5B: with float32 weights and Adam it leaves room on an 80 GB card.
POLICY = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
TOY = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": 4000,
}  # fmt: skip
STEPS = 3


def test_a_grpo_step(machine, figures, tiny_model, tmp_path, monkeypatch):
    network = machine.model(**(TOY if machine.is_toy else POLICY)).float()
    network.generation_config.pad_token_id = 0
    monkeypatch.setattr(grpo, "load_model", lambda *_: network)
    prompt, completion = machine.size(2048, 120), machine.size(512, 30)
    settings = {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": machine.size(4, 2), "num_generations": 4,
        "max_prompt_length": prompt, "max_completion_length": completion, "max_steps": STEPS, "save_strategy": "no",
        "use_cpu": machine.device == "cpu", "bf16": not machine.is_toy, "gradient_checkpointing": True,
        "learning_rate": 1e-6,
    }  # fmt: skip
    judge = Judge("jud", engines.load({"engine": "transformers", "path": str(tiny_model)}),
                  Templates(judge=ROOT / "resources/prompts/judge.jinja"))  # fmt: skip
    asked = Reward(judge)
    spent = dict.fromkeys(("rollouts", "judge", "tokens"), 0.0)

    def reward(parsed, cases):
        # Random rollouts are out of format, so the judge is asked about their text as it stands.
        texts = [item.preference or "likes humor" for item in parsed]
        formatted = [Parsed("a", f"{text} {index}", True) for index, text in enumerate(texts)]
        started = time.perf_counter()
        asked(formatted, cases)
        spent["judge"] += time.perf_counter() - started
        return [float(index % 2) for index in range(len(parsed))]

    pair = {"example_id": "e", "prompt": "A quick joke", "chosen": "likes humor", "rejected": "a passport"}
    prompts = [Prompt(f"joke {index}") for index in range(32)]
    trainer = grpo.make_trainer(settings, tiny_model, [pair] * len(prompts), prompts, reward, tmp_path / "out")
    drawn = random.Random(0)
    trainer.encoded = {name: [drawn.randrange(5, 300) for _ in range(prompt)] for name in trainer.encoded}
    sample = trainer._generate_single_turn

    def timed(*arguments):
        result = []
        spent["rollouts"] += machine.seconds(lambda: result.append(sample(*arguments)))
        spent["tokens"] += sum(map(len, result[0][0]))
        return result[0]

    trainer._generate_single_turn = timed
    weights = sum(weight.nbytes for weight in network.parameters())
    whole: list[float] = []
    measured = weights + peak_of(lambda: whole.append(machine.seconds(trainer.train)))
    job = Job.of(Shape.of(network.config), trainer.args, check_settings(settings, type(trainer.args)))
    predicted = job.peak(0) - CONTEXTS
    figures["rollout tokens per second"] = spent["tokens"] / spent["rollouts"]
    figures["rollouts, s per step"] = spent["rollouts"] / STEPS
    figures["judge, s per step"] = spent["judge"] / STEPS
    figures["update, s per step"] = (whole[0] - spent["rollouts"] - spent["judge"]) / STEPS
    figures["peak measured, GB"], figures["peak calculated, GB"] = measured / 1e9, predicted / 1e9
    figures["calculated / measured"] = predicted / measured
    assert spent["tokens"] > 0 and spent["judge"] > 0
    assert 0.8 < figures["calculated / measured"] < 1.25
