"""The command line, as users call it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alignxplore.engines.journal import CALL, Journal

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def run(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "alignxplore", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_the_journal_is_accounted_and_pruned(run, tmp_path):
    nothing = run("journal", "stats")
    assert nothing.returncode == 1 and "journal: there is no journal here" in nothing.stderr
    assert "Traceback" not in nothing.stderr
    journal = Journal(tmp_path / "journal")
    call = {"model": "m", "kind": "generate", "hits": 3, "new": 1234, "seconds": 2.5, "hit_tokens": 5, "new_tokens": 7}
    journal.add([("1" * 32, {"model": "m", "finish_reason": "stop"}), ("2" * 32, {"model": "n", "logprobs": [0.5]})])
    journal.add([(CALL, {"call": {**call, "saved_dollars": 0.25, "paid_dollars": 1.5}})])
    del journal
    table = run("journal", "stats").stdout
    row = next(line for line in table.splitlines() if "generate" in line)
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "m", "generate", "1", "1", "1,234", "3", "7", "5", "1.50", "0.25", "2.50",
    ]  # fmt: skip
    assert run("journal", "prune", "--keep", "m").stdout == "2 records kept, 1 dropped\n"
    assert run("journal", "prune", "--days", "0").stdout == "0 records kept, 2 dropped\n"
