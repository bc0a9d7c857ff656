"""Thread limits, and tiny real models for all tests that load one."""

import json
import os
import shutil
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


@pytest.fixture(scope="session")
def ending_model(tiny_model, tmp_path_factory) -> Path:
    """The tiny model with a third of its tokens ending a turn, so that completions differ in length."""
    path = tmp_path_factory.mktemp("models") / "ending"
    shutil.copytree(tiny_model, path)
    config = json.loads((path / "generation_config.json").read_text())
    config["eos_token_id"] = [config["eos_token_id"], *range(3, 400, 3)]
    (path / "generation_config.json").write_text(json.dumps(config))
    return path
