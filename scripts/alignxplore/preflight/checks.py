"""What of a configuration does not agree with itself, with the machine, or with the memory of a card.

Each error begins with the key of the configuration to change, and says what to do.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from alignxplore.preflight.machine import Machine
from alignxplore.training.memory import Asked, Job
from alignxplore.workflow.config import DATA_OF_STAGE, Config, variant_settings, variants
from alignxplore.workflow.launcher import processes

GB = 1e9
ADVICE = {
    "weights": "start from a smaller model, or divide it: training.launch with config/accelerate/zero3.yaml",
    "gradients": "train an adapter (`lora`), or divide them: training.launch with config/accelerate/zero3.yaml",
    "optimiser": "train an adapter (`lora`), or divide it: training.launch with config/accelerate/zero3.yaml",
    "gathered weights": "start from a smaller model",
    "activations": "lower per_device_train_batch_size and raise gradient_accumulation_steps, or set"
    " gradient_checkpointing: true",
    "working memory": "lower per_device_train_batch_size and raise gradient_accumulation_steps",
    "vLLM": "lower vllm_gpu_memory_utilization, or set vllm_enable_sleep_mode: true",
    "judge": "give the judge a smaller model, or serve it (engine: openai)",
    "sampling": "lower steps_per_generation",
    "keys and values": "lower its max_model_len, or its run.batch_tokens",
    "logits": "lower its max_model_len, or its run.batch_tokens",
    "contexts": "take larger cards",
}


def settings_of(config: Config, variant: str) -> dict[str, Any]:
    """A variant's settings over those of `training.run`."""
    return {**config["training"].get("run", {}), **variant_settings(config, variant)}


def process_errors(config: Config) -> Iterator[str]:
    """Yield an error if the launch command starts another number of processes than there are cards."""
    if not variants(config):
        return
    training = config["training"]
    gpus, started = training["gpus"], processes(training["launch"])
    if started is None or not gpus:
        return
    if started % gpus:
        yield (
            f"training.launch: starts {started} processes for {gpus} cards, and each process trains on one card: set"
            f" training.gpus: {started}, or start as many as there are cards (accelerate launch --num_processes {gpus})"
        )


def model_errors(config: Config, models: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error if tensor parallelism cannot divide the heads of a model; `models` has their shapes by name."""
    for name, shape in models.items():
        entry = config["models"][name]
        gpus = entry.get("run", {}).get("gpu", 0)
        if entry["engine"] == "vllm" and gpus > 1 and shape.heads % gpus:
            yield f"models.{name}.run.gpu: {gpus} cards cannot share {shape.heads} attention heads; take a divisor"
        if entry["engine"] == "transformers" and gpus > 1:
            yield f"models.{name}.run.gpu: the engine transformers uses one card, not {gpus}; set 1, or engine: vllm"


def step_errors(config: Config, jobs: Mapping[str, Job], rows: Mapping[str, float | None]) -> Iterator[str]:
    """Yield an error if there are fewer prompts than a GRPO step needs."""
    for name, job in jobs.items():
        entry = variants(config)[name]
        found = rows.get(entry.get("data", DATA_OF_STAGE[entry["stage"]]))
        needed = job.batch * job.accumulation * job.processes // job.generations
        if entry["stage"] == "grpo" and found is not None and found < needed:
            yield (
                f"training.variants.{name}: one step needs {needed} prompts, and there are {found:.0f}: raise"
                " data.splits.rl.size, or lower gradient_accumulation_steps"
            )


def software_errors(config: Config, machine: Machine, offloads: bool) -> Iterator[str]:
    """Yield what the machine's software lacks for what the configuration asks for."""
    for name, entry in variants(config).items():
        asked = settings_of(config, name).get("attn_implementation")
        if asked == "flash_attention_2" and not machine.has_flash_attention:
            yield (
                f"training.{entry['stage']}.attn_implementation: flash_attention_2 is not installed here; install"
                " envs/requirements/flash-attn.txt, or leave the setting out"
            )
    wants = [*(f"models.{n}.run.gpu" for n, e in config["models"].items() if e.get("run", {}).get("gpu"))]
    wants += ["training.gpus"] if variants(config) and config["training"]["gpus"] else []
    if not wants or not machine.cards:
        return
    if machine.torch_cuda is None:
        yield (
            f"{wants[0]}: this machine has {len(machine.cards)} GPUs, but torch {machine.torch} is built for CPUs;"
            " install its CUDA build (envs/requirements/gpu.txt)"
        )
    elif machine.usable < len(machine.cards):
        yield (
            f"{wants[0]}: torch {machine.torch} (CUDA {machine.torch_cuda}) can use {machine.usable} of"
            f" {len(machine.cards)} GPUs; update the driver to one for CUDA {machine.torch_cuda}"
        )
    if offloads and machine.nvcc is None:
        yield (
            "training.launch: DeepSpeed compiles its optimiser for main memory, and there is no nvcc; install CUDA"
            f" {machine.torch_cuda}, or offload nothing"
        )
    elif offloads and machine.torch_cuda and machine.nvcc and _major(machine.nvcc) != _major(machine.torch_cuda):
        yield (
            f"training.launch: DeepSpeed refuses to compile with nvcc {machine.nvcc} for torch's CUDA"
            f" {machine.torch_cuda}; install the same CUDA, or offload nothing"
        )


def _major(version: str) -> str:
    return version.partition(".")[0]


def size_errors(config: Config, jobs: Mapping[str, Job], machine: Machine, is_here: bool) -> Iterator[str]:
    """Yield an error if checkpoints do not fit the disk, or what is offloaded does not fit main memory.

    Main memory counts only where the configuration's cards are (`is_here`).
    """
    kept = 0.0
    largest: tuple[float, str, int] = (0.0, "", 0)
    for name, job in jobs.items():
        kept += job.weight_bytes * job.shape.parameters
        settings = settings_of(config, name)
        if settings.get("save_strategy") != "no":
            usual = 3 if settings.get("load_best_model_at_end") else 2
            copies = (settings.get("save_total_limit") or usual) + 1  # the new one is written before the oldest goes
            largest = max(largest, (copies * job.checkpoint, name, copies))
        per_machine = min(job.processes, config["training"]["gpus"] or 1)
        if is_here and job.host * per_machine > machine.memory:
            yield (
                f"training.launch: variant {name} offloads {job.host * per_machine / GB:.1f} GB to main memory, which"
                f" has {machine.memory / GB:.1f} GB; offload nothing, or take fewer cards"
            )
    needed, name, copies = largest
    if needed + kept > machine.disk:
        yield (
            f"training.run.save_total_limit: variant {name} keeps {copies} checkpoints of"
            f" {needed / copies / GB:.1f} GB for a while, and the trained models take {kept / GB:.1f} GB, in all"
            f" {(needed + kept) / GB:.1f} GB; {machine.disk / GB:.1f} GB are free here: make room, or set it to 1"
        )


def fit_error(key: str, parts: Mapping[str, float], most: float, card: float) -> str:
    """That what `key` names needs `most` bytes of a card of `card` bytes: the sum, and what to do about its largest."""
    largest = max(parts, key=lambda name: parts[name])
    terms = " + ".join(f"{name} {value / GB:.1f}" for name, value in parts.items() if value >= 0.05 * GB)
    return (
        f"{key}: does not fit: {most / GB:.1f} GB on a card of {card / GB:.1f} GB ({terms}, and 5% for fragmentation):"
        f" {ADVICE[largest]}"
    )


def memory_errors(
    trained: Mapping[str, Job], asked: Mapping[str, Asked], card: float, devices: Mapping[str, bool]
) -> Iterator[str]:
    """Yield what does not fit a card of `card` bytes, of what runs on cards (`devices`, by key)."""
    for name, job in trained.items():
        key = f"training.variants.{name}"
        if devices[key] and not job.fits(card):
            parts = job.parts(card)
            if job.peak(card) > sum(parts.values()):
                parts |= {"activations": 0, "working memory": 0, "vLLM": job.vllm * card, "sampling": job.sampling}
            yield fit_error(key, parts, job.peak(card), card)
    for name, model in asked.items():
        key = f"models.{name}"
        if devices[key] and not model.fits(card):
            yield fit_error(key, model.parts(), sum(model.parts().values()), card)
