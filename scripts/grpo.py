"""Train a model by GRPO on D_rl (Eq. 9-11)."""

from alignxplore.judging.judge import judge_entry
from alignxplore.training import programs
from alignxplore.workflow.job import script_main


def main(snakemake):
    params, config = snakemake.params, snakemake.config
    arguments = programs.arguments_of_rule(snakemake)
    arguments |= {"judge": judge_entry(params.judge, config), "journal": config["journal"]}
    arguments |= {"rollouts": snakemake.output.rollouts}
    if snakemake.input.held_out:
        arguments |= {"held_out": snakemake.input.held_out}
    gpus = config["training"]["gpus"]
    programs.launch(params.launch, snakemake.input.program, arguments, snakemake.threads, gpus)


script_main(main, snakemake)  # noqa: F821
