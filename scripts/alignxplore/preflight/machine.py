"""What this machine has: cards, the driver's and PyTorch's CUDA, compilers, main memory, disk."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

MIB = 2**20
SEES = (
    "import json, torch; print(json.dumps([torch.__version__, torch.version.cuda,"
    " torch.cuda.device_count() if torch.cuda.is_available() else 0]))"
)


@dataclass(frozen=True)
class Machine:
    """`cards` are bytes of each GPU that the driver shows, and `usable` how many of them PyTorch can use."""

    cards: tuple[float, ...]
    usable: int
    torch: str
    torch_cuda: str | None
    nvcc: str | None
    memory: float
    disk: float
    has_flash_attention: bool

    @classmethod
    def here(cls) -> "Machine":
        """This machine, in the working directory. PyTorch is asked in a process of its own, since CUDA takes memory."""
        shown = _output(["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"])
        version, cuda, usable = json.loads(_output([sys.executable, "-c", SEES]).splitlines()[-1])
        nvcc = re.search(r"release ([\d.]+)", _output(["nvcc", "--version"]))
        return cls(
            cards=tuple(MIB * float(line) for line in shown.splitlines() if re.fullmatch(r"[\d.]+", line.strip())),
            usable=usable,
            torch=version,
            torch_cuda=cuda,
            nvcc=nvcc[1] if nvcc else None,
            memory=float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
            disk=float(shutil.disk_usage(Path.cwd()).free),
            has_flash_attention=find_spec("flash_attn") is not None,
        )


def _output(command: Sequence[str]) -> str:
    """What a program prints; "" if there is none, or it fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""
