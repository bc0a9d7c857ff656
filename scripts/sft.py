"""Fine-tune a model on D_cold (Eq. 8)."""

from alignxplore.training import programs
from alignxplore.workflow.job import script_main


def main(snakemake):
    arguments = programs.arguments_of_rule(snakemake)
    gpus = snakemake.config["training"]["gpus"]
    programs.launch(snakemake.params.launch, snakemake.input.program, arguments, snakemake.threads, gpus)


script_main(main, snakemake)  # noqa: F821
