"""Snakemake's own linter, but for one lint."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# We keep a helper that one rule needs above that rule, where a reader looks for it. The linter wants all functions in
# a file without rules.
ACCEPTED = {"Mixed rules and functions in same snakefile."}


def test_snakemake_finds_nothing_else_to_lint():
    command = [sys.executable, "-m", "snakemake", "--lint", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lints = json.loads(done.stdout[done.stdout.index("{") :])
    found = {
        (lint["title"], part["for"].get("snakefile") or part["for"].get("rule"))
        for kind in lints.values()
        for part in kind
        for lint in part["lints"]
    }
    assert {title for title, _ in found} <= ACCEPTED, found
