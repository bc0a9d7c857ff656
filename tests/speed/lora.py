"""LoRA and QLoRA against full training: `python tests/speed/lora.py`.

GRPO steps (rollout, reward without a judge, update) of a Qwen2 model with random weights, with the same prompts,
lengths and batches, in a process each. The peak is what torch held in an update, with the weights.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[1])]

SIZES = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "vocab_size": 4000,
    "num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": True,
}  # fmt: skip
SETTINGS = {
    "per_device_train_batch_size": 16, "num_generations": 4, "max_completion_length": 60, "learning_rate": 1e-4,
    "save_strategy": "no", "seed": 1, "gradient_checkpointing": True,
}  # fmt: skip
WAYS = {
    "full": {},
    "lora": {"lora": {"r": 16}},
    "lora, bfloat16": {"lora": {"r": 16}, "dtype": "bfloat16", "bf16": True, "use_cpu": True},
    "qlora": {"lora": {"r": 16, "quantize": 4}},
}
PROMPT = 400
"""Tokens."""


def measure(way: str, steps: int) -> dict[str, float]:
    """Figures of one way to train."""
    import random

    import bitsandbytes.nn.modules
    import torch
    from alignxplore.prompts import Prompt
    from alignxplore.training import grpo, loop
    from conftest import WORDS
    from memory_peaks import sized_qwen2, training_peak
    from transformers import TrainerCallback

    # On CPUs with this instruction set, bitsandbytes repacks weights when a model is evaluated, and cannot train then.
    bitsandbytes.nn.modules.has_avx512bf16 = lambda: False
    torch.set_num_threads(1)
    ends = []

    class Clock(TrainerCallback):
        def on_step_end(self, *arguments: object, **more: object) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as directory:
        model = sized_qwen2(Path(directory, "model"), WORDS, **SIZES)
        prompts = [Prompt(f"joke {number}") for number in range(16)]

        def reward(parsed: list, cases: list) -> list[float]:
            return [float(index % 2) for index, _ in enumerate(parsed)]

        settings = {**SETTINGS, **WAYS[way], "max_steps": steps}
        trainer = grpo.make_trainer(
            settings,
            model,
            [{"example_id": prompt.user} for prompt in prompts],
            prompts,
            reward,
            Path(directory, "out"),
        )
        drawn = random.Random(0)
        trainer.encoded = {name: [drawn.randrange(300) for _ in range(PROMPT)] for name in trainer.encoded}
        trainer.add_callback(Clock())
        loop.run(trainer)
        trainer.save_model(str(Path(directory, "saved")))
        saved = sum(path.stat().st_size for path in Path(directory, "saved").glob("*.safetensors"))
        own = {**SETTINGS, **WAYS[way]}
        length = own.pop("max_completion_length")
        peak, *_ = training_peak("grpo", model, Path(directory, "peak"), PROMPT, length, **own)
    weights = list(trainer.model.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    state = sum(value.nbytes for entry in trainer.optimizer.state.values() for value in entry.values())
    held = sum(weight.nbytes for weight in weights)
    seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
    figures = {"trained": trained, "seconds": seconds, "peak": peak / 2**20}
    return {**figures, "weights": held / 2**20, "adam": state / 2**20, "saved": saved / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.steps)))
        return
    print(f"{'':16}{'trained':>12}{'s a step':>10}{'peak MiB':>10}{'weights':>9}{'Adam':>7}{'saved':>7}")
    for way in WAYS:
        command = [sys.executable, __file__, "--steps", str(arguments.steps), "--only", way]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        f = json.loads(done.stdout.splitlines()[-1])
        shown = f"{f['seconds']:10.2f}{f['peak']:10,.0f}{f['weights']:9,.0f}{f['adam']:7,.0f}{f['saved']:7,.1f}"
        print(f"{way:16}{f['trained']:12,}{shown}", flush=True)


if __name__ == "__main__":
    main()
