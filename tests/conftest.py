"""Thread limits, and tiny real models for all tests that load one."""

import os
from pathlib import Path

import pytest
from random_models import random_qwen2

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores. This must come before any import of torch; child processes inherit it.
    os.environ["OMP_NUM_THREADS"] = "1"

WORDS = (
    "Infer this person's preferences from their behaviour. Decide which response this person prefers, in JSON. "
    'Post: Chosen: Rejected: Comment: Preference: Response A: Response B: {"selection": "Response A"} '
    "likes humor, dislikes travel; a quick joke would help and a passport would not. Answer the user in a few words."
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A Hugging Face directory with a randomly initialised Qwen2 model and a ChatML tokenizer."""
    return random_qwen2(tmp_path_factory.mktemp("models") / "tiny", WORDS)


@pytest.fixture(scope="session")
def vllm_model(tmp_path_factory) -> Path:
    """The same model, with a head size that vLLM's CPU attention supports."""
    return random_qwen2(tmp_path_factory.mktemp("models") / "wider", WORDS, hidden=128)
