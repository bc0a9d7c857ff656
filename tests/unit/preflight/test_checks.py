"""What a preflight finds wrong without trying it: each error names a key, the figures, and what to do."""

from dataclasses import replace

import pytest
from alignxplore.preflight import checks
from alignxplore.preflight.machine import Machine
from alignxplore.training.memory import Asked, Job, Shape
from configs import merged

SHAPE = Shape(
    parameters=1_500_000_000, layer_parameters=46_000_000, layers=28, hidden=1536, heads=12, queries=1536, keys=256,
    intermediate=8960, vocabulary=151_936, context=32_768, ties=True,
)  # fmt: skip
GPUS = Machine((24e9,) * 2, 2, "2.13.0", "12.8", "12.8", 64e9, 500e9, has_flash_attention=False)
JOB = Job(SHAPE, batch=1, accumulation=64, prompt=2048, completion=512, rollouts=64, generations=4)


@pytest.fixture
def config() -> dict:
    return merged("one_gpu")


@pytest.mark.parametrize(
    ("launch", "gpus", "wrong"),
    [
        ("python", 1, None),
        ("python", 2, "starts 1 processes for 2 cards"),
        ("accelerate launch --num_processes 4", 4, None),
        ("accelerate launch --num_processes 4", 8, "set training.gpus: 4, or start as many"),
        ("srun --nodes 4 bash nodes.sh --num_processes 32", 8, None),
        ("accelerate launch", 8, None),
    ],
)
def test_a_training_has_one_process_per_card(config, launch, gpus, wrong):
    config["training"] |= {"launch": launch, "gpus": gpus}
    found = list(checks.process_errors(config))
    assert len(found) == (wrong is not None) and (wrong or "") in "".join(found)


def test_heads_divide_over_cards(config):
    config["models"]["teacher"]["run"]["gpu"] = 8
    config["models"]["reward"]["run"]["gpu"] = 2
    found = list(checks.model_errors(config, {"teacher": SHAPE, "reward": SHAPE, "judge": SHAPE}))
    assert [error.partition(":")[0] for error in found] == ["models.teacher.run.gpu", "models.reward.run.gpu"]
    assert "8 cards cannot share 12 attention heads" in found[0]


def test_a_step_has_enough_prompts(config):
    rows = {"data/splits/rl.parquet": 15.0}
    (found,) = checks.step_errors(config, {"alignxplore": JOB, "no_rl": JOB}, rows)
    assert "training.variants.alignxplore: one step needs 16 prompts, and there are 15" in found
    assert not list(checks.step_errors(config, {"alignxplore": JOB}, {"data/splits/rl.parquet": 16.0}))


@pytest.mark.parametrize(
    ("change", "offloads", "wrong"),
    [
        ({}, False, None),
        ({"torch_cuda": None, "usable": 0}, False, "2 GPUs, but torch 2.13.0 is built for CPUs"),
        ({"usable": 0}, False, "can use 0 of 2 GPUs; update the driver to one for CUDA 12.8"),
        ({"nvcc": None}, True, "there is no nvcc; install CUDA 12.8"),
        ({"nvcc": "11.8"}, True, "nvcc 11.8 for torch's CUDA 12.8"),
        ({"nvcc": "12.4"}, True, None),
        ({"cards": (), "usable": 0, "torch_cuda": None}, False, None),
    ],
)
def test_the_machines_software_suits_its_cards(config, change, offloads, wrong):
    found = list(checks.software_errors(config, replace(GPUS, **change), offloads))
    assert len(found) == (wrong is not None) and (wrong or "") in "".join(found)


def test_flash_attention_is_there_if_asked_for(config):
    config["training"]["grpo"]["attn_implementation"] = "flash_attention_2"
    (found,) = checks.software_errors(config, GPUS, False)
    assert found.startswith("training.grpo.attn_implementation: ") and "flash-attn.txt" in found
    assert not list(checks.software_errors(config, replace(GPUS, has_flash_attention=True), False))


def test_checkpoints_fit_the_disk_and_the_optimiser_main_memory(config):
    config["training"]["run"] = {"save_total_limit": 4}
    needed = 5 * JOB.checkpoint + 4 * SHAPE.parameters
    assert not list(checks.size_errors(config, {"alignxplore": JOB}, replace(GPUS, disk=needed + 1), True))
    (found,) = checks.size_errors(config, {"alignxplore": JOB}, replace(GPUS, disk=needed - 1e9), True)
    assert "training.run.save_total_limit: variant alignxplore keeps 5 checkpoints of 18.0 GB" in found
    config["training"]["gpus"] = 2
    offloads = replace(JOB, processes=2, stage=2, offloads=True)
    machine = replace(GPUS, memory=20e9)
    (found,) = checks.size_errors(config, {"alignxplore": offloads}, machine, True)
    assert "offloads 24.0 GB to main memory, which has 20.0 GB" in found
    assert not list(checks.size_errors(config, {"alignxplore": offloads}, machine, False))


def test_what_cannot_fit_is_refused_with_the_card_and_the_sum():
    job = replace(JOB, checkpoints=True)
    asked = {"teacher": Asked(replace(SHAPE, parameters=7_600_000_000, ties=False), "vllm", "bfloat16", 8192)}
    on_cards = {"training.variants.alignxplore": True, "models.teacher": True}
    training, model = checks.memory_errors({"alignxplore": job}, asked, 16e9, on_cards)
    assert f"does not fit: {job.peak(16e9) / 1e9:.1f} GB on a card of 16.0 GB (weights 6.0 + gradients 6.0" in training
    assert training.startswith("training.variants.alignxplore: ") and "optimiser 12.0" in training
    assert training.endswith(
        "train an adapter (`lora`), or divide it: training.launch with config/accelerate/zero3.yaml"
    )
    assert model.startswith("models.teacher: does not fit: ") and "on a card of 16.0 GB (weights" in model
    assert not list(checks.memory_errors({"alignxplore": job}, asked, 80e9, on_cards))
    assert not list(checks.memory_errors({"alignxplore": job}, asked, 16e9, dict.fromkeys(on_cards, False)))
