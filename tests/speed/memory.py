"""Memory that training/memory.py predicts against measured peaks: `python tests/speed/memory.py`.

Each line is a real training of two steps on the CPU, in a process of its own. docs/scale.md says what came out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

SMALL = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "vocab_size": 4000}
LARGE = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "vocab_size": 8000}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": False}
BOTH = {"gradient_accumulation_steps": 2}
CHECKPOINTS = {"gradient_checkpointing": True}
LONG = {**CHECKPOINTS, "per_device_train_batch_size": 8}
SFT = {**BOTH, "per_device_train_batch_size": 4}
LORA = {"lora": {"r": 16, "lora_alpha": 32}}
REDUCED = {"dtype": "bfloat16", "bf16": True}
GRPO = {**BOTH, "per_device_train_batch_size": 8, "num_generations": 4}
RUNS = {
    "sft, small": ("sft", SMALL, 200, 100, SFT),
    "sft, large": ("sft", LARGE, 400, 200, SFT),
    "sft, large, checkpoints": ("sft", LARGE, 400, 200, {**SFT, **CHECKPOINTS}),
    "sft, small, fused head": ("sft", {**SMALL, "vocab_size": 32000}, 100, 300, {**SFT, **LONG}),
    "sft, large, autocast": ("sft", LARGE, 400, 200, {**SFT, "bf16": True}),
    "sft, large, autocast, checkpoints": ("sft", LARGE, 400, 200, {**SFT, "bf16": True, **CHECKPOINTS}),
    "grpo, small": ("grpo", SMALL, 200, 50, GRPO),
    "grpo, large": ("grpo", LARGE, 400, 100, GRPO),
    "grpo, large, checkpoints": ("grpo", LARGE, 400, 100, {**GRPO, **CHECKPOINTS}),
    "sft, large, adapter": ("sft", LARGE, 400, 200, {**SFT, **LORA}),
    "sft, large, adapter, bfloat16": ("sft", LARGE, 400, 200, {**SFT, **LORA, **REDUCED}),
    "sft, large, adapter, bfloat16, checkpoints": ("sft", LARGE, 400, 200, {**SFT, **LORA, **REDUCED, **CHECKPOINTS}),
    "grpo, large, adapter, bfloat16": ("grpo", LARGE, 400, 100, {**GRPO, **LORA, **REDUCED}),
}  # fmt: skip


def compare(name: str) -> tuple[float, float]:
    """Bytes predicted and measured."""
    from alignxplore.training.memory import CONTEXTS
    from conftest import WORDS
    from memory_peaks import sized_qwen2, training_peak

    stage, sizes, prompt, completion, settings = RUNS[name]
    with tempfile.TemporaryDirectory() as directory:
        model = sized_qwen2(Path(directory, "model"), WORDS, **sizes, **HEADS)
        measured, job, _ = training_peak(stage, model, Path(directory, "out"), prompt, completion, **settings)
    job = replace(job, prompt=prompt, completion=completion, samples=False, has_triton=False)
    return job.peak(0) - CONTEXTS, measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="NAME", help=f"default: all of {', '.join(map(repr, RUNS))}")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    if only := parser.parse_args().only:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        print(json.dumps(compare(only)))
        return
    chosen = parser.parse_args().runs or list(RUNS)
    print(f"{'MB':44}{'predicted':>10}{'measured':>10}{'ratio':>8}")
    for name in chosen:
        done = subprocess.run([sys.executable, __file__, "--only", name], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        predicted, measured = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:44}{predicted / 1e6:10,.0f}{measured / 1e6:10,.0f}{predicted / measured:8.2f}", flush=True)


if __name__ == "__main__":
    main()
