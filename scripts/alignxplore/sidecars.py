"""Where the records of jobs lie: beside each job's first output."""

from pathlib import Path

SUFFIX = ".provenance.json"


def sidecar(output: str | Path) -> Path:
    """Where the record of the job with this first output is."""
    return Path(f"{output}{SUFFIX}")
