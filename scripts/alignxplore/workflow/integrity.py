"""Verification: whether a finished tree still is what its job records say."""

from pathlib import Path

from alignxplore.digests import digest
from alignxplore.errors import UserError
from alignxplore.workflow.provenance import Record, read, sidecars


def faults(tree: str | Path) -> list[str]:
    """One line per difference between the files of a tree and its job records; empty if there is none.

    A difference is an output or input that changed or is missing, or an output made from another version of a file than
    the one that is there. Temporary outputs may be missing. Raises UserError if the tree has no records.
    """
    paths = sidecars(tree)
    if not paths:
        raise UserError(f"{tree}: no job records found")
    found: list[str] = []
    records: list[Record] = []
    for path in paths:
        try:
            records.append(read(path))
        except UserError as error:
            found.append(str(error))
    makers = {output: record for record in records for output in record["outputs"]}
    now: dict[str, str | None] = {}

    def content(file: str) -> str | None:
        if file not in now:
            path = Path(tree) / file
            now[file] = digest(path) if path.exists() else None
        return now[file]

    for record in records:
        for output, made in record["outputs"].items():
            if content(output) is None and not record["temporary"]:
                found.append(f"{output}: missing; rule {record['rule']} made it")
            elif content(output) not in (None, made["sha256"]):
                found.append(f"{output}: changed since rule {record['rule']} made it")
    for record in records:
        reader = next(iter(record["outputs"]))
        for file, digested in record["inputs"].items():
            maker = makers.get(file)
            if maker is not None:
                if maker["outputs"][file]["sha256"] != digested:
                    found.append(f"{reader}: made from another {file} than the one that rule {maker['rule']} last made")
            elif content(file) is None:
                found.append(f"{file}: missing; {reader} was made from it")
            elif content(file) != digested:
                found.append(f"{file}: changed since {reader} was made from it")
        for model in record["models"]:
            path = model["path"]
            if "sha256" in model and path not in record["inputs"] and content(path) != model["sha256"]:
                found.append(f"{path}: missing or changed since {reader} was made with it")
    return found
