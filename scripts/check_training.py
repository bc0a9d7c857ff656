"""Check training settings, JSON on standard input, in the same way as a training job does, and print what is wrong.

This is a separate program because importing TRL takes seconds. It may run on a machine without the GPUs for training.
"""

import json
import sys
from pathlib import Path

from alignxplore.errors import UserError
from alignxplore.training import grpo, sft
from alignxplore.training.settings import check_settings
from trl import GRPOConfig, SFTConfig

STAGES = {"sft": (sft, SFTConfig), "grpo": (grpo, GRPOConfig)}
OF_THE_MACHINE = frozenset({"deepspeed", "fsdp", "fsdp_config", "tf32"})


def fault(variant, processes):
    """What is wrong with a variant's settings, if anything.

    Names and types are always checked; values only if the number of `processes` that will train is known.
    """
    stage, settings = variant["stage"], variant["settings"]
    module, kind = STAGES[stage]
    try:
        check_settings(settings, kind)
        held_out = {"held_out": variant["held_out"]} if stage == "grpo" else {}
        if processes is not None:
            elsewhere = type(kind.__name__, (kind,), {"world_size": processes})
            here = {key: value for key, value in settings.items() if key not in OF_THE_MACHINE}
            module.configure({**here, "use_cpu": True}, Path(stage), elsewhere, **held_out)
    except UserError as error:
        return " ".join(str(error).split())
    return None


def errors(variants, processes):
    """What is wrong with each variant; a fault that all variants of a stage have is in the stage's own settings."""
    faults = {name: fault(variant, processes) for name, variant in variants.items()}
    found = []
    for name, wrong in faults.items():
        if wrong:
            stage = variants[name]["stage"]
            same_stage = [other for other in variants if variants[other]["stage"] == stage]
            if all(faults[other] == wrong for other in same_stage):
                found.append(f"training.{stage}: {wrong} (variants: {', '.join(same_stage)})")
            else:
                found.append(f"training.variants.{name}: {wrong}")
    return list(dict.fromkeys(found))


def main():
    work = json.load(sys.stdin)
    print(json.dumps(errors(work["variants"], work["processes"])))


if __name__ == "__main__":
    main()
