"""Train one scale model of the demo world."""

from pathlib import Path

from alignxplore.demo.tasks import open_tasks, role_samples
from alignxplore.imports import uncollected
from alignxplore.workflow.job import script_main


def main(snakemake):
    with uncollected():
        import torch
        from alignxplore.demo.pretrain import train_scale_model
        from transformers import PreTrainedTokenizerFast

    params, inputs = snakemake.params, snakemake.input
    torch.set_num_threads(snakemake.threads)
    tasks = open_tasks(dict(inputs), params.dimensions, f"{params.seed} {params.entry['role']} {params.name}")
    base = inputs.get("base")
    train_scale_model(
        params.entry,
        PreTrainedTokenizerFast.from_pretrained(inputs.tokenizer),
        Path(base) if base else None,
        tasks.world,
        tasks.axes,
        role_samples(params.entry["role"], tasks),
        seed=params.seed + sum(params.name.encode()),
        output=Path(snakemake.output.model),
        precision=params.precision,
    )


script_main(main, snakemake)  # noqa: F821
