"""Check training settings, given as JSON on standard input, as they will be checked when a training starts.

A program of its own because TRL takes seconds to import. It may run on a machine without the GPUs that will train.
"""

import json
import sys
from pathlib import Path

from alignxplore.errors import UserError
from alignxplore.training import common, grpo, sft
from trl import GRPOConfig, SFTConfig

STAGES = {"sft": (sft, SFTConfig), "grpo": (grpo, GRPOConfig)}
OF_THE_MACHINE = frozenset({"deepspeed", "fsdp", "fsdp_config", "tf32"})


def check(name, stage, settings, processes):
    """Names and types, and what TRL says of their values where it is known how many `processes` train."""
    module, kind = STAGES[stage]
    try:
        common.check_settings(settings, kind)
        if processes is not None:
            elsewhere = type(kind.__name__, (kind,), {"world_size": processes})
            here = {key: value for key, value in settings.items() if key not in OF_THE_MACHINE}
            module.configure({**here, "use_cpu": True}, Path(stage), elsewhere)
    except UserError as error:
        sys.exit(f"training.variants.{name}: {' '.join(str(error).split())}")


def main():
    work = json.load(sys.stdin)
    for name, variant in work["variants"].items():
        check(name, variant["stage"], variant["settings"], work["processes"])


if __name__ == "__main__":
    main()
