"""One Slurm for all tests in this directory, and a copy of the workflow for each run."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cluster
import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "rules", "scripts", "config", "envs", "profiles", "resources")
# Options for this cluster: it has no accounting database, and its jobs take seconds.
HERE = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """The module cluster, while a Slurm is running."""
    reason = cluster.why_not()
    if reason:
        pytest.skip(reason)
    # Stop the daemons even if the tests are terminated early.
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated"))
    with cluster.one_node(tmp_path_factory.mktemp("slurm")):
        yield cluster


@pytest.fixture(scope="session")
def new_tree(tmp_path_factory) -> Callable[[str], Path]:
    """Makes a copy of the workflow without the outputs of any run."""

    def make(name: str) -> Path:
        path = tmp_path_factory.mktemp(name)
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            copy(ROOT / part, path / part)
        return path

    return make


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts Snakemake in a tree, with a time limit in minutes; its output goes to TREE/snakemake.log."""
    started = []

    def make(tree: Path, *arguments: str, minutes: int) -> subprocess.Popen:
        command = ["timeout", "-k", "60", str(60 * minutes), sys.executable, "-m", "snakemake", *arguments]
        with (tree / "snakemake.log").open("w") as log:
            started.append(subprocess.Popen(command, cwd=tree, stdout=log, stderr=log))
        return started[-1]

    yield make
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(90)


@pytest.fixture(scope="session")
def by_slurm(slurm, start) -> Callable[..., subprocess.Popen]:
    """Starts Snakemake with profiles/slurm, as users do."""

    def make(tree: Path, *arguments: str, minutes: int) -> subprocess.Popen:
        return start(tree, "--profile", "profiles/slurm", *HERE, *arguments, minutes=minutes)

    return make
