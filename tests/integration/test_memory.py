"""The memory that a job is said to need: measured in a real training, and as docs/scale.md and the command say it."""

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from alignxplore.training import memory_table, shapes
from alignxplore.training.memory import CONTEXTS, Job, Shape
from alignxplore.workflow.config import read_layers
from alignxplore.workflow.launcher import sharding
from configs import merged
from conftest import WORDS
from memory_peaks import sized_qwen2, training_peak
from transformers import AutoConfig, LlamaConfig, MixtralConfig

ROOT = Path(__file__).parents[2]
SHAPE = ROOT / "tests/support/shapes/qwen2.5-7b.json"
SCALE = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
CARD = 85.5e9
SIZES = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "vocab_size": 4000,
    "num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_real_training_holds_what_is_predicted(tmp_path, stage):
    model = sized_qwen2(tmp_path / "model", WORDS, **SIZES)
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    prompt, completion = 400, 60
    # The rollouts of one batch are not shuffled, so that rows always have the same rollouts.
    own = {"num_generations": 4, "steps_per_generation": 1} if stage == "grpo" else {}
    measured, job, _ = training_peak(stage, model, tmp_path / "out", prompt, completion, **settings, **own)
    job = replace(job, prompt=prompt, completion=completion, samples=False, has_triton=False)
    assert job.peak(0) - CONTEXTS == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(("stage", "settings"), [
    ("sft", {"lora": {"r": 8}, "dtype": "bfloat16", "bf16": True}),
    ("grpo", {"lora": {"r": 64}}),
    ("sft", {"lora": {"r": 8, "quantize": 4}}),
], ids=str)  # fmt: skip
def test_training_an_adapter_holds_what_is_predicted(tmp_path, monkeypatch, stage, settings):
    if "quantize" in settings["lora"]:
        pytest.importorskip("bitsandbytes")
        monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)  # it cannot train with that
    model = sized_qwen2(tmp_path / "model", WORDS, **SIZES)
    settings = {**settings, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    own = {"num_generations": 4, "steps_per_generation": 1} if stage == "grpo" else {}
    measured, job, trainer = training_peak(stage, model, tmp_path / "out", 400, 60, **settings, **own)
    job = replace(job, prompt=400, completion=60, samples=False, has_triton=False)
    assert job.peak(0) - CONTEXTS == pytest.approx(measured, rel=0.05)
    held = sum(weight.nbytes for weight in trainer.model.parameters())
    assert job.weights == pytest.approx(held, rel=0.02)
    trained = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    assert (job.trained, job.gradients, job.optimiser) == (trained, 4 * trained, 8 * trained)


@pytest.fixture(scope="module")
def paper() -> dict:
    return merged("paper")


def with_batch(config: dict, batch: int, accumulation: int) -> dict:
    config = copy.deepcopy(config)
    config["training"]["grpo"] |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    return config


@pytest.mark.parametrize(("batch", "accumulation", "fits"), [(4, 16, False), (1, 64, True)])
def test_the_page_shows_what_is_calculated(paper, monkeypatch, batch, accumulation, fits):
    monkeypatch.chdir(ROOT)
    config = with_batch(paper, batch, accumulation)
    jobs = memory_table.variant_jobs(config, str(SHAPE))
    job = jobs["alignxplore"]
    assert job.batch * job.accumulation * job.processes == 512
    assert job.fits(CARD) == fits
    if fits:
        assert memory_table.table(config, jobs, CARD) in SCALE
    else:
        text = " ".join(SCALE.split())
        assert f"activations take {job.activations / 1e9:.1f} GB and working memory {job.working / 1e9:.1f} GB" in text
        assert f"largest moment then has {job.peak(CARD) / 1e9:.1f} GB" in text
        assert replace(job, vllm_sleeps=True).fits(CARD)


def test_the_page_shows_what_one_card_holds(monkeypatch):
    monkeypatch.setattr("alignxplore.training.shapes.AutoConfig.from_pretrained", unreachable)
    config = merged("one_gpu")
    jobs, card = memory_table.variant_jobs(config, None), memory_table.card_of(config)
    assert card == 23.6e9 and all(job.fits(card) for job in jobs.values())
    assert memory_table.table(config, jobs, card) in SCALE


def test_the_page_shows_what_eight_cards_hold(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("alignxplore.training.shapes.AutoConfig.from_pretrained", unreachable)
    config = merged("one_gpu", "one_gpu/eight_cards")
    jobs, card = memory_table.variant_jobs(config, None), memory_table.card_of(config)
    assert all(job.fits(card) and job.processes == 8 for job in jobs.values())
    assert memory_table.table(config, jobs, card) in SCALE


def unreachable(*_, **__):
    raise OSError("no hub")


def test_shapes_of_known_models_have_the_parameters_that_their_cards_state(monkeypatch):
    monkeypatch.setattr("alignxplore.training.shapes.AutoConfig.from_pretrained", unreachable)
    for path, facts in yaml.safe_load(shapes.KNOWN.read_text(encoding="utf-8")).items():
        shape = Shape.of(shapes.model_config({}, {"path": path}))
        assert shape.parameters / 1e9 == pytest.approx(facts["parameters"], rel=0.01), path
    with pytest.raises(Exception, match=r"its shape is unknown.*hf download"):
        shapes.model_config({}, {"path": "nobody/nothing"})


@pytest.mark.parametrize(("stage", "name"), [(0, "DDP"), (2, "ZeRO-2"), (3, "ZeRO-3")])
def test_the_page_shows_what_each_stage_divides(stage, name):
    job = Job(Shape.of(AutoConfig.from_pretrained(SHAPE)), 1, 1, 0, 1, processes=8, stage=stage, weight_bytes=2)
    if stage == 0:
        job = replace(job, weight_bytes=4)  # 2-byte weights alone would not train
    row = next(line for line in SCALE.splitlines() if line.startswith(f"| {name}"))
    shown = [float(cell) for cell in row.split("|")[2:-1]]
    assert shown == [round(value / 1e9, 1) for value in (job.weights, job.gradients, job.optimiser)]


def run_command(directory: Path, *arguments: str) -> subprocess.CompletedProcess:
    model = sized_qwen2(directory / "model", WORDS, **SIZES)
    grpo = {"per_device_train_batch_size": 5, "max_prompt_length": 100, "max_completion_length": 50}
    settings = {"training": {"grpo": grpo, "sft": {"max_length": 150}}}
    file = directory / "small.yaml"
    file.write_text(yaml.safe_dump(settings))
    files = ["--configfile", str(ROOT / "config/demo.yaml"), str(file), "--shape", str(model / "config.json")]
    command = [sys.executable, "-m", "alignxplore", "memory", *files, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(("card", "status", "answer"), [("85.5", 0, "yes"), ("3.5", 1, "no")])
def test_the_command_fails_if_a_card_is_too_small(tmp_path, card, status, answer):
    done = run_command(tmp_path, "--card", card)
    assert done.returncode == status, done.stderr
    verdict = next(line for line in done.stdout.splitlines() if "fits" in line)
    assert verdict.split(" | ")[1:] == [answer] * (verdict.count(" | ") - 1) + [f"{answer} |"]


def test_mixtures_of_experts_are_refused():
    with pytest.raises(Exception, match="mixture of experts"):
        Shape.of(MixtralConfig(num_hidden_layers=1))


def test_parameters_are_those_of_the_model():
    config = LlamaConfig(
        vocab_size=50, hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    shape = Shape.of(config)
    layer = 8 * 8 * 2 + 2 * 8 * 4 + 3 * 8 * 12 + 2 * 8
    assert (shape.layer_parameters, shape.parameters) == (layer, 3 * layer + 50 * 8 + 8)


def test_stage_and_offload_are_read_from_the_launch_files(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    launch = "accelerate launch --config_file"
    assert sharding(f"{launch} config/accelerate/zero3.yaml") == (3, False)
    assert sharding(f"{launch}=config/accelerate/zero2.yaml") == (2, False)
    assert sharding("python") == (0, False)
    assert sharding("accelerate launch --use_deepspeed") == (2, False)
    options = "--zero-stage 1 --offload_optimizer_device cpu"
    assert sharding(f"{launch} config/accelerate/zero2.yaml {options}") == (1, True)
    file = "--deepspeed_config_file config/deepspeed/zero3.json"
    assert sharding(f"accelerate launch --use_deepspeed {file}") == (3, False)
    offloading = tmp_path / "offload.yaml"
    text = Path("config/accelerate/zero2.yaml").read_text()
    offloading.write_text(text.replace("offload_optimizer_device: none", "offload_optimizer_device: cpu"))
    assert sharding(f"{launch} {offloading}") == (2, True)


def test_files_are_merged_as_snakemake_does(paper):
    assert read_layers([ROOT / "config/base.yaml", ROOT / "config/paper.yaml"]) == paper


def test_checks_on_a_gpu_say_in_one_line_why_nothing_runs():
    command = [sys.executable, "-m", "pytest", "tests/gpu"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    said = (done.stdout + done.stderr).strip()
    assert done.returncode == 0 and len(said.splitlines()) == 1, said
    assert "GPU tests skipped" in said and "finds no CUDA device" in said
