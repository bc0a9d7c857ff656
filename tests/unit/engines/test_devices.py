"""Engines that ask for GPUs, and how vLLM is imported."""

import importlib
import os
import sys

import pytest
from alignxplore import engines
from alignxplore.errors import UserError

MODULES = ("vllm", "vllm.lora", "vllm.lora.request", "vllm.platforms", "alignxplore.engines.vllm")
STUB = """
import os
SAMPLER = os.environ.get("VLLM_USE_FLASHINFER_SAMPLER")
LLM = SamplingParams = None
"""
PLATFORM = """
class current_platform:
    is_cpu = staticmethod(lambda: True)
"""


@pytest.fixture
def vllm(tmp_path, monkeypatch):
    """A package in the place of vLLM, which tells what it was imported with."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/__init__.py").write_text(STUB)
    (tmp_path / "vllm/platforms.py").write_text(PLATFORM)
    (tmp_path / "vllm/lora").mkdir()
    (tmp_path / "vllm/lora/__init__.py").touch()
    (tmp_path / "vllm/lora/request.py").write_text("LoRARequest = None")
    monkeypatch.syspath_prepend(tmp_path)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop("VLLM_USE_FLASHINFER_SAMPLER", None)

    def load():
        importlib.import_module("alignxplore.engines.vllm")
        return sys.modules["vllm"]

    yield load
    for name in MODULES:
        sys.modules.pop(name, None)


def test_vllm_does_not_compile_a_sampler_when_it_starts(vllm):
    assert vllm().SAMPLER == "0"


def test_a_sampler_that_the_user_chose_stays(vllm):
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "1"
    assert vllm().SAMPLER == "1"


def test_an_entry_that_asks_for_a_gpu_does_not_fall_back_to_a_cpu(vllm, tiny_model, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for engine, message in (("transformers", r"torch .* finds none here; set gpu: 0"), ("vllm", "vLLM finds none")):
        entry = {"engine": engine, "path": str(tiny_model), "run": {"gpu": 1}}
        with pytest.raises(UserError, match=rf"model {tiny_model} asks for a GPU \(run.gpu: 1\), and {message}"):
            engines.start(entry)
    assert engines.start({"engine": "transformers", "path": str(tiny_model), "run": {"gpu": 0}})
