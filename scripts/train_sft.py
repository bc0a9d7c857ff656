"""Cold-start SFT on D_cold (Eq. 8): a program, so that `accelerate launch` can start one process per GPU."""

import argparse

from alignxplore.imports import uncollected
from alignxplore.training import programs


def train(arguments: argparse.Namespace) -> None:
    with uncollected():
        from alignxplore.prompts import Templates
        from alignxplore.training import sft

    sft.train(
        settings=arguments.settings,
        model=arguments.model,
        data=arguments.data,
        templates=Templates(**arguments.prompts),
        output=arguments.output,
        metrics=arguments.metrics,
    )


if __name__ == "__main__":
    programs.run(programs.parser("Cold-start SFT (Eq. 8).", judge=False).parse_args(), train)
