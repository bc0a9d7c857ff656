"""Ask a model one batch of each question; JSON on standard input, and its figures in the file that it names."""

import json
import sys
from pathlib import Path

from alignxplore.preflight.processes import ask
from alignxplore.workflow import job


def main():
    work = json.load(sys.stdin)
    found = ask(work["model"], work["questions"], work["tokens"])
    Path(work["report"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    job.run(main)
