"""The command line, as users call it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from alignxplore.engines.journal import CALL, Journal

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def run(tmp_path):
    def run(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "alignxplore", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
        return subprocess.run(command, cwd=tmp_path, env=environment, input=text, capture_output=True, text=True)

    return run


PAIR = {"prompt": "Any advice?", "chosen": "A quick joke.", "rejected": "A passport."}
COMMENT = {"prompt": "travel", "comment": "Answer in a few words"}


def ran(result) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_preferences_of_one_user(run, tiny_model, tmp_path):
    (tmp_path / "signals.json").write_text(json.dumps([PAIR, COMMENT]))
    command = ["infer", "--model", str(tiny_model), "--max-new-tokens", "12", "--json"]
    found = json.loads(ran(run(*command, "signals.json")))
    assert set(found) == {"reasoning", "preference", "format_ok"}
    same = json.dumps({"pairs": [PAIR], "ugc": [COMMENT]})
    assert json.loads(ran(run(*command, "-", text=same))) == found
    shown = ran(run(*command[:-1], "signals.json"))
    assert shown == f"{found['reasoning']}\n\n{found['preference']}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "-: not valid JSON"),
        ("[]", "there are no signals"),
        (json.dumps([PAIR, {**PAIR, "chosen": " "}]), "-: pairs 2: 'chosen' must be a text that is not empty"),
        (json.dumps([PAIR, "x"]), "-: pairs 2: 'prompt' must be a text"),
        (json.dumps({"pairs": [PAIR], "comments": []}), "unknown field 'comments'"),
    ],
)
def test_bad_signals_are_named(run, text, message):
    failed = run("infer", "--model", "nowhere", "-", text=text)
    assert failed.returncode == 1 and message in failed.stderr and "Traceback" not in failed.stderr


def test_two_responses_under_a_preference(run, tiny_model):
    command = ["judge", "--model", str(tiny_model), "--json", "likes humor", "travel"]
    p = json.loads(ran(run(*command, "a quick joke", "a passport")))["p_first"]
    swapped = json.loads(ran(run(*command, "a passport", "a quick joke")))["p_first"]
    assert 0 < p < 1 and p == pytest.approx(1 - swapped)
    command.remove("--json")
    assert ran(run(*command, "a quick joke", "a passport")).split()[0] == ("first" if p > 0.5 else "second")
    failed = run("judge", "--model", "./nowhere", "d", "p", "a", "b")
    assert failed.returncode == 1 and "--model: there is no directory ./nowhere" in failed.stderr


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
        "m", "generate", "1", "1", "1,234", "3", "7", "5", "1.50", "0.25", "2.50", "0.00",
    ]  # fmt: skip
    assert run("journal", "prune", "--keep", "m").stdout == "2 records kept, 1 dropped\n"
    assert run("journal", "prune", "--days", "0").stdout == "0 records kept, 2 dropped\n"
