"""What `make tables` prints last."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("status", [0, 3])
def test_make_tables_ends_with_the_report_and_the_time(tmp_path, status):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/snakemake"
    program.write_text(f"#!/bin/sh\necho snakemake $@\nsleep 1.1\nexit {status}\n")
    program.chmod(0o755)
    (tmp_path / "run.done").touch()
    command = ["make", "--no-print-directory", "tables", f"VENV={tmp_path}", "CORES=7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert "snakemake --cores 7" in done.stdout
    if status:
        assert done.returncode != 0 and "The report" not in done.stdout
        return
    *_, report, took = done.stdout.splitlines()
    assert done.returncode == 0 and report == f"The report: {ROOT}/results/report/index.html"
    assert re.fullmatch(r"The run took 0 min [123] s\.", took)
