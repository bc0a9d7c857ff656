"""The rejects, errors and notebook code that docs/data.md shows are real."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
from alignx_samples import direction, raw_direction, raw_record
from alignxplore.data.api import read_alignx
from alignxplore.errors import UserError

PAGE = (Path(__file__).parents[3] / "docs/data.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
REJECTS = {row[0]: tuple(cell.strip("`") for cell in row[1:]) for row in ROWS if len(row) == 3}
ERRORS = {row[0]: row[1].strip("`") for row in ROWS if len(row) == 2}
DIRECTION, PAIRS = "Preference Direction", "Pair-wise Comparative Feedback"
GOOD = raw_record("1")


def other(**changes):
    return json.dumps(raw_record("2", **changes))


BAD_LINES = {
    "a line cut short": other()[:40],
    "a million open brackets": "[" * 1_000_000,
    "a direction of 89 values": other(**{DIRECTION: [0.5] * 89}),
    "a direction with another value": other(**{DIRECTION: raw_direction(direction())[:7] + [0.7] + [0.5] * 82}),
    "a null response": other(chosen=None),
    "a blank response": other(**{PAIRS: [{**GOOD[PAIRS][0], "chosen": " \n"}]}),
    "equal responses": other(rejected="good 2"),
    "the same texts as an earlier record": json.dumps(GOOD),
    "half of a surrogate pair": other(prompt="\ud800"),
    "a post of 10 MB": other(prompt="x" * (10 << 20)),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_rejected_in_the_words_of_the_page(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("raw.jsonl").write_text(json.dumps(GOOD) + "\n" + BAD_LINES[name] + "\n")
    examples, rejects = read_alignx("raw.jsonl")
    assert examples.height == 1
    assert rejects.rows() == [("raw.jsonl", 2, *REJECTS[name])]


def test_unreadable_files_stop_with_the_line_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pl.DataFrame([GOOD], strict=False).write_parquet("raw.parquet")
    Path("raw.parquet").write_bytes(Path("raw.parquet").read_bytes()[:-100])
    Path("raw.json").write_text("[" * 1_000_000)
    Path("cut.json").write_text(json.dumps([GOOD, GOOD])[:-20])
    files = {
        "Parquet cut short": "raw.parquet",
        "an array cut short": "cut.json",
        "an array of a million open brackets": "raw.json",
        "no such file": "none.jsonl",
        "a glob without matches": "*.txt",
    }
    for name, path in files.items():
        with pytest.raises(UserError) as error:
            read_alignx(path)
        assert str(error.value) == ERRORS[name]


def test_the_notebook_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("raw").mkdir()
    Path("raw/a.jsonl").write_text(json.dumps(GOOD) + "\n")
    pl.DataFrame([raw_record("2")], strict=False).write_parquet("raw/a.parquet")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    found: dict = {}
    exec(code.rsplit("\ncases =", 1)[0], found)
    assert found["rejects"].height == 0
    assert found["examples"].height == 1
