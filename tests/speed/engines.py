"""Compare engines and judging with plain alternatives: `python tests/speed/engines.py [--model DIR]`.

Each ratio is between two ways in one process, with one model and one thread setting:

- judging: probabilities in both orders, with the common beginning computed once, against the official way (a judgement
  of up to 128 tokens sampled in one order and parsed, in padded batches of 16) and against two plain forward passes,
  padded in batches of 16 and one row at a time, in rounds that alternate;
- generation: against padded `generate` in order of arrival, in batches of 16;
- the journal: the time to open a million records and find 10,000 of them.

Without --model, the model has the default's shape and random weights. It rarely stops, so both ways write the same
number of tokens.
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alignxplore.engines import Sampling
from alignxplore.engines.journal import Journal
from alignxplore.engines.transformers import TransformersBackend
from alignxplore.judging.verdicts import parse_selection
from alignxplore.prompts import JUDGE_CHOICES, Prompt, Templates

ROOT = Path(__file__).parents[2]
TEMPLATES = Templates(judge=ROOT / "resources/prompts/judge.jinja")
ARRIVAL_BATCH = 16
ROUNDS = 3
WORDS = ["this", "person", "likes", "short", "clear", "warm", "answers", "and", "would", "rather", "not", "travel"]


def words(rng: random.Random, tokens: float) -> str:
    """Text of about `tokens` tokens, with lengths spread like those of posts and responses."""
    return " ".join(rng.choices(WORDS, k=max(4, int(tokens * rng.lognormvariate(-0.08, 0.4)))))


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def padded(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


@torch.inference_mode()
def plain_generate(backend: TransformersBackend, rows: list[list[int]], tokens: int, **options: Any) -> list[str]:
    """Completions by transformers' `generate`, in order of arrival, in padded batches of 16."""
    texts, pad = [], backend.chat.tokenizer.pad_token_id
    for start in range(0, len(rows), ARRIVAL_BATCH):
        ids, mask = padded(rows[start : start + ARRIVAL_BATCH], pad)
        output = backend.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=True,
            pad_token_id=pad,
            **options,
        )
        texts += backend.chat.tokenizer.batch_decode(output[:, ids.shape[1] :])
    return texts


@torch.inference_mode()
def plain_logprobs(backend: TransformersBackend, rows: list[list[int]], choices: list[int], batch: int) -> np.ndarray:
    """Log-probabilities at the last token by forward passes, in order of arrival, in padded batches."""
    found = []
    for start in range(0, len(rows), batch):
        ids, mask = padded(rows[start : start + batch], backend.chat.tokenizer.pad_token_id)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = backend.model(ids, attention_mask=mask, position_ids=positions, logits_to_keep=1).logits[:, -1]
        found.append(logits.double().log_softmax(-1)[:, choices].numpy())
    return np.concatenate(found)


def judging(backend: TransformersBackend, cases: int, official_cases: int) -> None:
    rng = random.Random(1)
    texts = [(words(rng, 200), words(rng, 300), words(rng, 150), words(rng, 150)) for _ in range(cases)]

    def prompts(written: bool) -> list[list[Prompt]]:
        make = TEMPLATES.judge
        return [[make(p, d, a, b, written=written), make(p, d, b, a, written=written)] for p, d, a, b in texts]

    both = [prompt for pair in prompts(False) for prompt in pair]
    encoded = [backend.chat.encode(prompt) for prompt in both]
    print(f"judging: {cases} cases, prompts of {np.mean([len(row) for row in encoded]):.0f} tokens")

    def ours() -> np.ndarray:
        found = dict(pair for batch in backend.choice_logprobs(both, JUDGE_CHOICES) for pair in batch)
        return np.array([found[index].logprobs for index in range(len(both))])

    choices = [backend.chat.tokenizer.encode(choice, add_special_tokens=False)[0] for choice in JUDGE_CHOICES]
    ways = {
        "both orders, shared": ours,
        "two forward passes, batches of 16": lambda: plain_logprobs(backend, encoded, choices, ARRIVAL_BATCH),
        "two forward passes, one by one": lambda: plain_logprobs(backend, encoded, choices, 1),
    }
    rounds = [{name: timed(way) for name, way in ways.items()} for _ in range(ROUNDS)]
    found, expected = (rounds[0][name][1] for name in list(ways)[:2])
    one_order = [backend.chat.encode(pair[0]) for pair in prompts(True)[:official_cases]]

    def official() -> list[str | None]:
        # Apart from log-probabilities, this is what the official evaluation does.
        return [parse_selection(text) for text in plain_generate(backend, one_order, 128, temperature=1.0)]

    sampled, _ = timed(official)
    single, _ = timed(
        lambda: [plain_generate(backend, [row], 128, temperature=1.0) for row in one_order[: ARRIVAL_BATCH // 4]]
    )
    rates = {name: [cases / round_[name][0] for round_ in rounds] for name in ways}
    rates["one order sampled, batches of 16"] = [len(one_order) / sampled] * ROUNDS
    rates["one order sampled, one by one"] = [ARRIVAL_BATCH // 4 / single] * ROUNDS
    for name, rate in rates.items():
        ratio = np.median(np.divide(rates["both orders, shared"], rate))
        print(f"  {name:34} {np.median(rate):8.2f} cases/s   {ratio:6.2f}")
    print(f"  largest difference between log-probabilities: {abs(found - expected).max():.1e}")


def generation(backend: TransformersBackend, prompts: int, tokens: int) -> None:
    rng = random.Random(2)
    asked = [Prompt(words(rng, 300 * rng.choice((0.3, 0.6, 1.0, 1.8)))) for _ in range(prompts)]
    rows = [backend.chat.encode(prompt) for prompt in asked]
    sampling = Sampling(temperature=0.9, top_p=0.95, top_k=10, max_new_tokens=tokens, seed=1)

    def ours() -> int:
        return sum(c.completion_tokens for batch in backend.generate(asked, range(prompts), sampling) for _, c in batch)

    seconds, count = timed(ours)
    plain, _ = timed(lambda: plain_generate(backend, rows, tokens, temperature=0.9, top_p=0.95, top_k=10))
    lengths = sorted(map(len, rows))
    print(f"generation: {prompts} prompts of {lengths[0]} to {lengths[-1]} tokens, up to {tokens} new, {count} written")
    print(f"  by length, own rollouts             {prompts / seconds:8.2f} prompts/s")
    print(f"  padded generate, batches of 16      {prompts / plain:8.2f} prompts/s   {plain / seconds:6.2f}")


OPEN_JOURNAL = """
import sys, time
started = time.perf_counter()
from alignxplore.engines.journal import Journal
imported = time.perf_counter()
journal = Journal(sys.argv[1])
opened = time.perf_counter()
step = int(sys.argv[2]) // 10_000
found = journal.get([f"{n * step + 1:032x}" for n in range(10_000)])
done = time.perf_counter()
assert len(found) == 10_000 and found[f"{step + 1:032x}"]["prompt_tokens"] == step
# getrusage would include the peak of the parent process.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
print(f"  opened in {opened - imported:.2f} s, 10,000 hits in {done - opened:.2f} s, together"
      f" {done - imported:.2f} s; imports {imported - started:.2f} s; peak memory {peak:,.0f} MiB")
"""


def journal(records: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        text = "The person likes short, clear and warm answers. " * 6
        for start in range(0, records, 50_000):
            Journal(directory).add(
                [
                    (
                        f"{n + 1:032x}",
                        {
                            "model": "m",
                            "text": text,
                            "finish_reason": "stop",
                            "prompt_tokens": n,
                            "logprobs": [-0.1] * 8,
                        },
                    )
                    for n in range(start, start + 50_000)
                ]
            )
        files = list(Path(directory).glob("*.jsonl"))
        size = sum(file.stat().st_size for file in files) / 1e6
        print(f"journal: {records:,} records in {len(files)} files, {size:,.0f} MB")
        subprocess.run([sys.executable, "-c", OPEN_JOURNAL, directory, str(records)], check=True)


def random_model(directory: Path, hidden: int, layers: int) -> Path:
    """An untrained model and a tokenizer in the shape of the default's."""
    from alignxplore.demo.pretrain import save, train_tokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    train_tokenizer([" ".join(WORDS) + ' Response A B {"selection"'] * 4, 400, directory)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=1500,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    save(Qwen2ForCausalLM(config), tokenizer, directory)
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model's directory")
    parser.add_argument("--cases", type=int, default=128)
    parser.add_argument("--official-cases", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=160)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--records", type=int, default=1_000_000)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as directory:
        path = arguments.model or random_model(Path(directory) / "model", hidden=128, layers=4)
        backend = TransformersBackend(str(path))
        parameters = sum(p.numel() for p in backend.model.parameters())
        print(f"{path.name}: {parameters / 1e6:.1f} million parameters, {arguments.threads} threads")
        judging(backend, arguments.cases, arguments.official_cases)
        generation(backend, arguments.cases, arguments.new_tokens)
    if arguments.records:
        journal(arguments.records)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")


if __name__ == "__main__":
    main()
