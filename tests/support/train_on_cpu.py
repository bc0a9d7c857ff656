"""Runs a training program, its first argument, under DeepSpeed on CPUs, and lets its second step be stopped.

A random model writes nothing in format, so GRPO gets rollouts that are; the policy still writes its own.
"""

import hashlib
import os
import runpy
import sys
import time
from pathlib import Path

from accelerate.state import DistributedType, PartialState
from alignxplore.training.packed import PackedTrainer
from transformers import Trainer

# accelerate starts DeepSpeed only on accelerators that it knows.
PartialState._prepare_backend = lambda self, *args: ("gloo", DistributedType.MULTI_GPU)

LIKED = ("travel", "humor, dislikes travel", "a joke", "no", "a passport", "quick responses", "few words", "x")
own_step, own_rollouts = Trainer.training_step, PackedTrainer._generate_single_turn


def slow_step(self, *args, **kwargs):
    if self.state.global_step == 1:
        Path(os.environ["SLOW"], os.environ["RANK"]).touch()
        time.sleep(2)
    return own_step(self, *args, **kwargs)


def rollouts_in_format(self, prompt_ids, images, multimodal_fields, num_generations, **kwargs):
    written, _ = own_rollouts(self, prompt_ids, images, multimodal_fields, num_generations, **kwargs)
    assert len(written) == len(prompt_ids) and all(written)
    texts = []
    for place, ids in enumerate(prompt_ids):
        number = hashlib.sha256(f"{ids} {place}".encode()).digest()[0]
        texts.append(f"<think>\n{number}\n</think>\n<answer>\nlikes {LIKED[number % len(LIKED)]}\n</answer>")
    return [self.processing_class.encode(text) + [self.eos_token_ids[0]] for text in texts], None


Trainer.training_step = slow_step
PackedTrainer._generate_single_turn = rollouts_in_format
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
