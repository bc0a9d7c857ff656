"""A user's state in a file: what is read and refused, and that updates wait for each other."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alignxplore.errors import UserError
from alignxplore.user_states import State, locked, read_state, update, write_state

STATE = State("Likes “tea”\nand walks.", ("a1", "b2"), "m", "1f")


def test_a_state_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "users/u.json"
    assert read_state(path) == State()
    write_state(path, STATE)
    assert read_state(path) == STATE
    assert [file.name for file in path.parent.iterdir()] == ["u.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: "", "not a user's state: not valid JSON"),
        (lambda value: json.dumps(value)[:-9], "not a user's state: not valid JSON"),
        (lambda value: "[" * 100_000, "not a user's state: not valid JSON"),
        (lambda value: "[1]", "not a user's state: it has no version"),
        (lambda value: {"description": "d"}, "not a user's state: it has no version"),
        (lambda value: value | {"version": 2}, "a state of version 2, but this program reads version 1"),
        (lambda value: value | {"description": None}, "'description' is missing or of another type"),
        (lambda value: value | {"signals": True}, "'signals' is missing or of another type"),
        (lambda value: value | {"signals": 3}, "'seen' must have a hash of each of the 3 signals"),
        (lambda value: value | {"seen": ["a1", 2]}, "'seen' must have a hash of each of the 2 signals"),
        (lambda value: value | {"seen": ["a1", "a1"]}, "'seen' must have a hash of each of the 2 signals"),
        (lambda value: value | {"identity": 5}, "'identity' is missing or of another type"),
    ],
)
def test_a_file_that_is_no_state_is_refused_and_kept(tmp_path, change, message):
    path = tmp_path / "u.json"
    write_state(path, STATE)
    changed = change(json.loads(path.read_text()))
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    before = path.read_bytes()
    with pytest.raises(UserError, match="u.json: ") as refused:
        update(path, {"pairs": [], "ugc": []}, lambda chunk, past: "d", 4, "m", {})
    assert message in str(refused.value)
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path):
    (tmp_path / "u.json").mkdir()
    with pytest.raises(UserError, match="u.json: cannot be read"):
        read_state(tmp_path / "u.json")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/u.json: cannot be locked"), locked(tmp_path / "file/u.json"):
        pass


ADDING = """
import sys, time
from pathlib import Path
from alignxplore.user_states import update

def describe(chunk, past):
    time.sleep(0.02)
    return past + sys.argv[2]

for number in range(10):
    pair = {"prompt": f"{sys.argv[2]} {number}", "chosen": "c", "rejected": "r"}
    update(Path(sys.argv[1]), {"pairs": [pair], "ugc": []}, describe, 4, "m", {"path": "m"})
"""


def test_two_processes_lose_no_update_of_each_other(tmp_path):
    path = tmp_path / "u.json"
    processes = [
        subprocess.Popen([sys.executable, "-c", ADDING, str(path), name], stderr=subprocess.PIPE, text=True)
        for name in "xy"
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    state = read_state(path)
    assert sorted(state.description) == ["x"] * 10 + ["y"] * 10 and len(state.seen) == 20


def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "u.json"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom alignxplore.user_states import locked\n"
        "with locked(Path(sys.argv[1])):\n    print(flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline()
    holder.kill()
    holder.wait()
    started = time.monotonic()
    with locked(path):
        assert time.monotonic() - started < 5
    assert [file.name for file in Path(tmp_path).iterdir()] == [".u.json.lock"]
