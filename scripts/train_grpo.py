"""GRPO on D_rl (Eq. 9-11): a program, so that `accelerate launch` can start one process per GPU."""

import argparse

from alignxplore.imports import uncollected
from alignxplore.training import programs


def train(arguments: argparse.Namespace) -> None:
    with uncollected():
        from alignxplore.prompts import Templates
        from alignxplore.training import grpo

    grpo.train(
        settings=arguments.settings,
        model=arguments.model,
        data=arguments.data,
        templates=Templates(**arguments.prompts),
        judge=arguments.judge,
        journal=arguments.journal,
        output=arguments.output,
        metrics=arguments.metrics,
        rollouts=arguments.rollouts,
        held_out=arguments.held_out,
    )


if __name__ == "__main__":
    programs.run(programs.parser("GRPO (Eq. 9-11).", judge=True).parse_args(), train)
