"""Training against stock TRL: `python tests/speed/training.py TREE`, TREE holding a finished default run.

One process each, so that peaks of memory are their own: GRPO steps (rollout, reward by the run's judge, update) by
our trainer and by TRL's GRPOTrainer, with the same model, prompts, rollouts a prompt, lengths and sampling; and SFT
steps by our trainer and by TRL's SFTTrainer in padded batches.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl

ROOT = Path(__file__).parents[2]
GRPO = {
    "per_device_train_batch_size": 60, "num_generations": 5, "max_completion_length": 150, "temperature": 0.9,
    "top_p": 0.95, "top_k": 10, "learning_rate": 1e-5, "seed": 1, "save_strategy": "no",
}  # fmt: skip
SFT = {"per_device_train_batch_size": 16, "learning_rate": 1e-5, "seed": 1, "save_strategy": "no"}


class Clock:
    """Seconds of each step but the first, which warms up."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def callback(self) -> Any:
        from transformers import TrainerCallback

        clock = self

        class Callback(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                clock.ends.append(time.perf_counter())

        return Callback()

    @property
    def seconds(self) -> float:
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def run(tree: Path, kind: str, steps: int) -> dict[str, float]:
    """Train `steps` steps in one way; seconds a step, and figures that show that both do the same work."""
    import torch
    from alignxplore.engines import load
    from alignxplore.engines.tokens import ChatTokenizer
    from alignxplore.judging.judge import Judge
    from alignxplore.judging.reward import Reward
    from alignxplore.prompts import Templates, strip_markers
    from alignxplore.training import grpo, sft
    from alignxplore.training.settings import check_settings, make_arguments
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

    torch.set_num_threads(1)
    templates = Templates(**{name: ROOT / f"resources/prompts/{name}.jinja" for name in ("preference", "judge")})
    clock = Clock()
    stage, _, who = kind.partition("/")
    model = str(tree / ("models/trained/no_rl" if stage == "grpo" else "models/demo/backbone"))
    if stage == "grpo":
        settings = {**GRPO, "max_steps": steps}
        cases = pl.read_parquet(tree / "data/splits/rl.parquet").to_dicts()
        judge = load({"engine": "transformers", "path": str(tree / "models/demo/judge"), "batch_tokens": 4096})
        reward = Reward(Judge("jud", judge, templates))
        prompts = [templates.preference(case) for case in cases]
        if who == "ours":
            trainer = grpo.make_trainer(settings, model, cases, prompts, reward, Path("/tmp/none"))
        else:
            from datasets import Dataset
            from trl import GRPOConfig, GRPOTrainer

            tokenizer = AutoTokenizer.from_pretrained(model)
            chat = ChatTokenizer(tokenizer)
            arguments = make_arguments(
                GRPOConfig, check_settings(settings, GRPOConfig), grpo.DEFAULTS, Path("/tmp/none")
            )
            rows = [[{"role": "user", "content": strip_markers(prompt.user)}] for prompt in prompts]
            trainer = GRPOTrainer(
                model=AutoModelForCausalLM.from_pretrained(model),
                reward_funcs=grpo.reward_function(reward, cases, chat, {tokenizer.eos_token_id}, ()),
                args=arguments,
                train_dataset=Dataset.from_dict({"prompt": rows, "row": list(range(len(rows)))}),
                processing_class=tokenizer,
            )
    else:
        settings = {**SFT, "max_steps": steps}
        examples = pl.read_parquet(tree / "data/cold/d_cold.parquet")
        prompts = [templates.preference(case) for case in examples.iter_rows(named=True)]
        tokenizer = AutoTokenizer.from_pretrained(model)
        rows = sft.tokenise(ChatTokenizer(tokenizer), prompts, examples["completion"].to_list())
        if who == "ours":
            trainer = sft.make_trainer(settings, model, rows, Path("/tmp/none"))
        else:
            from datasets import Dataset
            from trl import SFTConfig, SFTTrainer

            arguments = make_arguments(
                SFTConfig, check_settings(settings, SFTConfig), {"max_length": None}, Path("/tmp/none")
            )
            trainer = SFTTrainer(
                model=AutoModelForCausalLM.from_pretrained(model),
                args=arguments,
                train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer,
            )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock.callback())
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    figures = {"tokens": "completions/mean_length", "reward": "reward", "loss": "loss"}
    means = {n: sum(e[k] for e in history) / len(history) for n, k in figures.items() if k in history[0]}
    # Unlike getrusage's, this peak is not inherited from the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    return {"seconds": clock.seconds, "peak": peak, **means}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(run(arguments.tree, arguments.only, arguments.steps)))
        return
    for stage in ("grpo", "sft"):
        found = {}
        for who in ("ours", "stock"):
            command = [sys.executable, __file__, str(arguments.tree), "--steps", str(arguments.steps)]
            done = subprocess.run([*command, "--only", f"{stage}/{who}"], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            found[who] = json.loads(done.stdout.splitlines()[-1])
            rest = ", ".join(f"{n} {v:.4g}" for n, v in found[who].items() if n not in ("seconds", "peak"))
            print(f"{stage} {who:6} {found[who]['seconds']:7.2f} s a step {found[who]['peak']:7,.0f} MiB   {rest}")
        print(f"{stage}: {found['stock']['seconds'] / found['ours']['seconds']:.2f} times as fast", flush=True)


if __name__ == "__main__":
    main()
