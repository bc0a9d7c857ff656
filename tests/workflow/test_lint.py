"""Snakemake's own linter finds nothing but one accepted lint."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# A helper of a single rule stands above that rule, where a reader looks for it. The linter wants all functions in a
# file without rules.
ACCEPTED = {"Mixed rules and functions in same snakefile."}


def test_snakemake_finds_nothing_else_to_lint():
    command = [sys.executable, "-m", "snakemake", "--lint"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    titles = re.findall(r"^    \* (.*):$", done.stderr, re.MULTILINE)
    assert titles and set(titles) <= ACCEPTED, done.stderr
