"""What runs in processes of its own: one batch of questions to a model, and two steps of a training.

Nothing that random weights answer is kept: there is no journal, and no model is saved.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from alignxplore import engines
from alignxplore.engines.base import Sampling
from alignxplore.formats import Parsed
from alignxplore.judging.reward import Reward
from alignxplore.preflight.standins import longest_text
from alignxplore.prompts import JUDGE_CHOICES, JUDGE_PREFILL, Prompt, mark_user_text
from alignxplore.training import grpo, loop

SERVED_AT_ONCE = 32
"""Prompts in a measured batch of vLLM, which makes its batches itself."""
ANSWER_SHARE = 4
"""A scored response takes up to this part of a text's tokens."""


def memory_held() -> list[tuple[float, float]]:
    """Bytes held and bytes there are, of each card that this process sees, or of main memory on a CPU.

    A card's are of all that runs on it. PyTorch gives nothing back that it took, so this is the most that it held.
    """
    if torch.cuda.is_available():
        sizes = [torch.cuda.mem_get_info(index) for index in range(torch.cuda.device_count())]
        return [(total - free, total) for free, total in sizes]
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    held = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return [(1024.0 * held, float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))]


def ask(model: Mapping[str, Any], questions: Sequence[Mapping[str, Any]], tokens: int) -> dict[str, Any]:
    """Start a model and ask each question in one batch of prompts that are, with their answers, `tokens` tokens long.

    A question has `asks` and `new_tokens`. Seconds are per prompt.
    """
    started = time.monotonic()
    backend: Any = engines.start(model)
    loading = time.monotonic() - started
    batch = max(1, backend.batch_tokens // tokens) if hasattr(backend, "batch_tokens") else SERVED_AT_ONCE
    seconds = []
    for question in questions:
        prefill = JUDGE_PREFILL if question["asks"] == "choice_logprobs" else ""
        continued = tokens // ANSWER_SHARE if question["asks"] == "loglikelihood" else question["new_tokens"]

        def size(text: str, prefill: str = prefill) -> int:
            return len(backend.chat.encode(Prompt(mark_user_text(text), prefill)))

        text = longest_text(size, tokens - continued - 8, "0000 ")
        prompts = [Prompt(mark_user_text(f"{index:04}{text[4:]}"), prefill) for index in range(batch)]
        clock = time.monotonic()
        answered = sum(map(len, _answers(backend, question, prompts, longest_text(size, continued))))
        seconds.append((time.monotonic() - clock) / answered)
    return {"loading": loading, "seconds": seconds, "batch": batch, "memory": memory_held()}


def _answers(
    backend: engines.Backend, question: Mapping[str, Any], prompts: Sequence[Prompt], response: str
) -> Iterator[list[tuple[int, Any]]]:
    if question["asks"] == "generate":
        sampling = Sampling(1.0, 1.0, 0, question["new_tokens"], 0)
        return backend.generate(prompts, list(range(len(prompts))), sampling)
    if question["asks"] == "choice_logprobs":
        return backend.choice_logprobs(prompts, JUDGE_CHOICES)
    return backend.loglikelihood(prompts, [response] * len(prompts))


class Clock(TrainerCallback):
    """Takes the time of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.monotonic() - self.started)


def measure_steps(report: Path) -> None:
    """Make this process train as it would, but save nothing: it writes what each step took to `report`.

    A random policy writes nothing in format, and its rollouts would get equal rewards, which need no update. So the
    judge is asked about all that it writes, and every other rollout is rewarded.
    """

    def parsed_whole(text: str, finish_reason: str) -> Parsed:
        return Parsed("", text, True)

    own = Reward.__call__
    started = time.monotonic()

    def reward(self: Reward, parsed: Sequence[Parsed], cases: Sequence[Mapping[str, Any]]) -> list[float]:
        own(self, parsed, cases)
        return [float(index % 2) for index in range(len(parsed))]

    def steps(trainer: Any, *_: Any) -> None:
        loading, clock = time.monotonic() - started, Clock()
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        trainer.train()
        held = memory_held()
        here = held[torch.cuda.current_device() if torch.cuda.is_available() else 0]
        found = {"loading": loading, "seconds": clock.seconds, "memory": here}
        file = report / f"{trainer.accelerator.process_index}.json"
        file.write_text(json.dumps(found), encoding="utf-8")
        trainer.accelerator.wait_for_everyone()

    Reward.__call__ = reward  # type: ignore[method-assign]
    grpo.parse_completion = parsed_whole  # type: ignore[assignment]
    loop.complete = steps  # type: ignore[assignment]
