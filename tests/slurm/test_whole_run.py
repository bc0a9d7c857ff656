"""The whole default run through Slurm, with one training job cancelled halfway.

The environment variable LOCAL_RUN may name the tree of a finished local run of the same code. Without it, the test
makes one, which takes half an hour.
"""

import os
import re
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
VARIANT = "alignxplore"
MINUTES = 240


def test_cancelled_training_resumes_and_tables_equal_those_of_a_local_run(slurm, new_tree, start, by_slurm):
    tree = new_tree("whole")
    process = by_slurm(tree, minutes=MINUTES)
    log = tree / f"logs/training/{VARIANT}.log"
    while process.poll() is None and not (log.exists() and re.search(r"step [3-9] of", log.read_text())):
        time.sleep(1)
    (job,) = slurm.jobs_of(tree, f"grpo_wildcards_{VARIANT}")
    assert job["JobState"] == "RUNNING", (tree / "snakemake.log").read_text()
    slurm.run("scancel", job["JobId"])
    assert process.wait() == 0, (tree / "snakemake.log").read_text()

    first, second = slurm.jobs_of(tree, f"grpo_wildcards_{VARIANT}")
    assert (first["JobState"], second["JobState"]) == ("CANCELLED", "COMPLETED")
    assert {other["JobState"] for other in slurm.jobs(tree) if other != first} == {"COMPLETED"}

    local = Path(os.environ["LOCAL_RUN"]) if "LOCAL_RUN" in os.environ else new_tree("local")
    if "LOCAL_RUN" not in os.environ:
        assert start(local, "--cores", "all", minutes=MINUTES).wait() == 0, (local / "snakemake.log").read_text()
    tables = sorted(path.relative_to(local) for path in (local / "results").rglob("*.csv"))
    assert len(tables) > 5
    assert [path for path in tables if (local / path).read_bytes() != (tree / path).read_bytes()] == []
