"""Copies of the workflow's files, and Snakemake in them."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_lock = threading.Lock()


def copy_workflow(tree: Path) -> Path:
    """Copy the workflow into `tree` as a clone has it, without anything that a run writes."""
    tree.mkdir(parents=True, exist_ok=True)
    for name in ("Snakefile", "rules", "scripts", "config", "envs", "resources", "profiles"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, tree / name)
    return tree


def snakemake(tree: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake with these arguments in `tree`, with these variables added to the environment.

    It is a fork of a process that has made Snakemake's imports, which take longer than most dry runs.
    """
    with tempfile.TemporaryDirectory() as directory:
        request = {
            "tree": str(tree),
            "arguments": arguments,
            "environment": {**os.environ, **environment},
            "stdout": f"{directory}/stdout",
            "stderr": f"{directory}/stderr",
        }
        with _lock:
            server = _fork_server()
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            status = int(server.stdout.readline())
        out, err = (Path(request[name]).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(["snakemake", *arguments], status, out, err)


@cache
def _fork_server() -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)  # it ends with its input
    return server
