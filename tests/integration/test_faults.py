"""System errors as one line, damaged Parquet files, and locks that end with the process that holds them."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from alignxplore import records
from alignxplore.errors import UserError, check_writable, explained
from alignxplore.workflow.locks import hold_workflow

SCRIPTS = Path(__file__).parents[2] / "scripts"


def program(code: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("grab", ["numpy.ones(2**36)", "torch.ones(2**36)", "bytearray(2**36)"])
def test_out_of_memory_is_one_line(grab):
    code = f"""
import resource, sys, numpy, torch
from alignxplore.workflow import job
resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
job.run(lambda: {grab})
"""
    result = program(code)
    assert result.returncode == 1
    assert "out of memory: give the job more memory (the rule's mem_mb)" in result.stderr
    assert "Traceback" not in result.stderr


def test_no_room_for_outputs_or_the_log(tmp_path):
    code = """
import resource, sys, logging
import polars as pl
from alignxplore import records
from alignxplore.workflow import job
def main():
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
    for _ in range(3):
        logging.info("something of some length")
    records.write(pl.DataFrame({"source": ["x"], "lines": [1]}), "lines.parquet", records.LINES)
job.run(main, "job.log")
"""
    result = program(code, cwd=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "lines.parquet: cannot be written: File too large: raise the limit" in result.stderr
    assert os.listdir(tmp_path) == ["job.log"]


def test_other_errors_are_not_explained():
    assert explained(ValueError("no")) is None
    assert explained(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert explained(OSError(errno.ENOSPC, "", "results/x")).startswith("results/x: No space left on device: make room")
    assert explained(RuntimeError("I/O error: No space left on device (os error 28)")).startswith("No space left")


def test_a_directory_without_write_permission_is_named(tmp_path, monkeypatch):
    check_writable(str(tmp_path), str(tmp_path / "none"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot be written to"):
        check_writable(str(tmp_path))


def test_no_flipped_bit_of_a_parquet_file_reads_as_another_value(tmp_path):
    path = tmp_path / "x.parquet"
    df = pl.DataFrame(
        {"example_id": [f"id {n}" for n in range(300)], "dimensions": [[f"d{n * 7}"] for n in range(300)]}
    )
    records.write(df, path, records.DIMENSIONS)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            assert records.read(path, records.DIMENSIONS).equals(df)
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > len(whole) / 5 * 0.8


RUN = """
import sys, time
from pathlib import Path
from alignxplore.workflow.locks import hold_workflow
held = hold_workflow(Path(sys.argv[1]))
(Path(sys.argv[1]) / "locks").mkdir(exist_ok=True)
(Path(sys.argv[1]) / "locks/0.output.lock").touch()
print("held", flush=True)
time.sleep(600)
"""


def test_only_the_lock_of_a_dead_run_on_this_host_is_removed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    run = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], env=environment, stdout=subprocess.PIPE)
    try:
        run.stdout.readline()
        lock = tmp_path / "locks/0.output.lock"
        assert hold_workflow(tmp_path) and lock.exists()
        run.send_signal(signal.SIGKILL)
        run.wait()
        host = (tmp_path / "running").read_text()
        (tmp_path / "running").write_text("another")
        assert hold_workflow(tmp_path) and lock.exists()
        (tmp_path / "running").write_text(host)
        assert hold_workflow(tmp_path) and not lock.exists()
    finally:
        run.kill()
        run.wait()
