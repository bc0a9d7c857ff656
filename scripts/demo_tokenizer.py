"""Train the tokenizer that all scale models share, on texts of every task."""

from itertools import islice
from pathlib import Path

from alignxplore.demo.pretrain import train_tokenizer
from alignxplore.demo.tasks import open_tasks, role_samples
from alignxplore.prompts import strip_markers
from alignxplore.workflow.job import script_main


def main(snakemake):
    params = snakemake.params
    tasks = open_tasks(dict(snakemake.input), params.dimensions, f"{params.seed} tokenizer")
    texts = [tasks.world.glossary_line(tasks.axes) for _ in range(4000)]
    for role in ("judge", "teacher", "instruct"):
        for sample in islice(role_samples(role, tasks)(tasks.world.rng, 1.0), 600):
            texts.append(f"{strip_markers(sample.prompt.user)}\n{sample.prompt.prefill}{sample.completion}")
    train_tokenizer(texts, params.vocabulary, Path(snakemake.output.tokenizer))


script_main(main, snakemake)  # noqa: F821
