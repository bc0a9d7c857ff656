"""Fine-tune a model on D_cold (Eq. 8)."""

from alignxplore.training import programs
from alignxplore.workflow.job import script_main


def main(snakemake):
    programs.launch(
        snakemake.params.launch,
        snakemake.input.program,
        programs.arguments_of_rule(snakemake),
        snakemake.threads,
    )


script_main(main, snakemake)  # noqa: F821
