"""Two steps of a training program, whose arguments these are, with nothing saved: `accelerate launch` can start it."""

import sys
from pathlib import Path

import train_grpo
import train_sft
from alignxplore.training import programs


def train(arguments):
    from alignxplore.preflight.processes import measure_steps

    measure_steps(Path(arguments.report))
    (train_grpo if hasattr(arguments, "judge") else train_sft).train(arguments)


if __name__ == "__main__":
    parser = programs.parser("Two steps.", judge="--judge" in sys.argv)
    parser.add_argument("--report", required=True, metavar="DIR", help="where each process writes its figures")
    programs.run(parser.parse_args(), train)
