"""Peaks of memory in real trainings of small models, and what training/memory.py predicts for them."""

import gc
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from alignxplore.training.memory import Adapter, Job, Shape
from random_models import random_qwen2


def peak_of(action: Callable[[], Any]) -> int:
    """The most bytes that torch held at once during `action`, beyond what it held before.

    On a CPU this adds up the allocations and releases that torch's profiler records. Unlike the size of the process,
    it depends on nothing else that runs.
    """
    gc.collect()  # what is released during `action` must have been made in it
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        action()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def sized_qwen2(path: Path, text: str, **sizes: Any) -> Path:
    """Write a Hugging Face directory: a Qwen2 model of these sizes, and the tokenizer of `random_qwen2`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    random_qwen2(path, text)
    config = AutoConfig.from_pretrained(path)
    config.update({"layer_types": ["full_attention"] * sizes["num_hidden_layers"], **sizes})
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


def training_peak(stage: str, model: Path, output: Path, prompt: int, completion: int, **settings: Any) -> tuple:
    """Bytes that two steps of a real training held at most, and the job whose peak should be the same.

    All prompts and completions have the same lengths, in tokens.
    """
    from alignxplore.prompts import Prompt
    from alignxplore.training import grpo, sft
    from alignxplore.training.settings import check_settings

    settings = {"use_cpu": not torch.cuda.is_available(), "max_steps": 2, "save_strategy": "no", **settings}
    drawn = random.Random(0)
    answers = [[drawn.randrange(300) for _ in range(completion)] for _ in range(64)]
    if stage == "sft":
        rows = [
            {"input_ids": [drawn.randrange(300) for _ in range(prompt)] + answer, "labels": [-100] * prompt + answer}
            for answer in answers
        ]
        trainer = sft.make_trainer(settings, model, rows, output)
    else:
        settings |= {"max_completion_length": completion}
        prompts = [Prompt("joke " * drawn.randrange(1, 4)) for _ in range(16)]

        def reward(parsed, cases):
            return [float(index % 2) for index, _ in enumerate(parsed)]

        trainer = grpo.make_trainer(
            settings, model, [{"example_id": prompt.user} for prompt in prompts], prompts, reward, output
        )
        trainer.encoded = {name: [drawn.randrange(300) for _ in range(prompt)] for name in trainer.encoded}
        trainer._generate_single_turn = lambda ids, *_: (answers[: len(ids)], None)
    weights = sum(weight.nbytes for weight in trainer.model.parameters())
    checked = check_settings(settings, type(trainer.args))
    adapter = None if checked.lora is None else Adapter.of(trainer.model.config, checked.lora)
    job = Job.of(Shape.of(trainer.model.config), trainer.args, checked, adapter=adapter)
    return weights + peak_of(trainer.train), job, trainer
