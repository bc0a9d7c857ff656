"""What a training program is started with."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alignxplore.errors import UserError
from alignxplore.training import programs
from alignxplore.training.models import load_model, load_tokenizer
from alignxplore.training.programs import STEP_SECONDS, launch
from alignxplore.training.settings import Settings

SEEN = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT")


@pytest.fixture
def started(tmp_path):
    """Launches a program that tells its environment, and returns that."""
    program = tmp_path / "program.py"
    program.write_text(f"import os, sys; open(sys.argv[2], 'w').write(repr([os.environ.get(n) for n in {SEEN}]))")

    def start(gpus: int) -> dict[str, str | None]:
        launch(sys.executable, str(program), {"output": str(tmp_path / "seen")}, 3, gpus)
        return dict(zip(SEEN, eval((tmp_path / "seen").read_text()), strict=True))

    return start


@pytest.mark.parametrize(
    ("visible", "gpus", "shown"),
    [
        (None, 0, ""),
        (None, 1, "0"),
        (None, 8, "0,1,2,3,4,5,6,7"),
        ("2,3", 0, ""),
        ("2,3", 1, "2"),
        ("GPU-a,GPU-b", 2, "GPU-a,GPU-b"),
    ],
)
def test_a_program_sees_as_many_gpus_as_the_config_gives_it(started, monkeypatch, visible, gpus, shown):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert started(gpus)["CUDA_VISIBLE_DEVICES"] == shown


@pytest.mark.parametrize("visible", ["", "5"])
def test_a_program_is_not_started_with_too_few_gpus(started, monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match="training.gpus: 2, but CUDA_VISIBLE_DEVICES shows"):
        started(2)


def test_the_launcher_gives_a_step_time_to_end_unless_told_otherwise(started, monkeypatch):
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    environment = started(0)
    assert (environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"], environment["OMP_NUM_THREADS"]) == (STEP_SECONDS, "3")
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "7")
    assert started(0)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "7"


def test_a_gpu_that_torch_cannot_use_is_an_error(tiny_model, monkeypatch):
    chat = load_tokenizer(tiny_model, Settings({}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES is '0', but torch .* finds no GPU"):
        load_model(tiny_model, Settings({}), chat)
    assert load_model(tiny_model, Settings({"use_cpu": True}), chat)


@pytest.mark.parametrize(("chosen", "found"), [(None, "0"), ("1", "1")])
def test_vllm_of_rollouts_does_not_compile_a_sampler_when_it_starts(monkeypatch, chosen, found):
    monkeypatch.setattr(programs.job, "run", lambda main, log: main())
    monkeypatch.setattr(os, "environ", {"VLLM_USE_FLASHINFER_SAMPLER": chosen} if chosen else {})
    seen = []
    programs.run(argparse.Namespace(log=None), lambda _: seen.append(os.environ["VLLM_USE_FLASHINFER_SAMPLER"]))
    assert seen == [found]


def test_attention_whose_package_is_missing_is_named(tiny_model):
    chat = load_tokenizer(tiny_model, Settings({}))
    with pytest.raises(UserError, match=r"cannot be loaded.*FlashAttention2"):
        load_model(tiny_model, Settings({}, attn_implementation="flash_attention_2"), chat)


def test_vllm_starts_from_the_pinned_revision(tiny_model, tmp_path):
    """TRL gives vLLM the model's name alone, so the name must be the directory of the revision."""
    commit = "0123456789" * 4
    snapshot = tmp_path / f"hub/models--owner--name/snapshots/{commit}"
    shutil.copytree(tiny_model, snapshot)
    program = f"""
from pathlib import Path
from alignxplore.training.models import load_model, load_tokenizer
from alignxplore.training.settings import Settings
model, settings = Path("owner/name"), Settings({{"use_cpu": True}}, revision={commit!r})
print(load_model(model, settings, load_tokenizer(model, settings)).name_or_path)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]) == snapshot
