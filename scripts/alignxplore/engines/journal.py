"""The journal: every answer of a model, kept by what was asked, so that none is paid for twice.

A directory of JSON-lines files. A process appends to a file of its own, so jobs on many machines can share the
directory; a line counts only if it is whole, and says so by its checksum. Anything that reads JSON lines can look in:

    SELECT record FROM read_json('journal/*.jsonl', columns = {key: 'VARCHAR', sum: 'VARCHAR', record: 'JSON'})
"""

import fcntl
import json
import os
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import numpy as np
import polars as pl

from alignxplore import records
from alignxplore.errors import UserError, explained

KEY_LENGTH = 32
CALL = "0" * KEY_LENGTH
"""The key of lines that hold no answer, but the account of one call."""

JOB_VARIABLE = "ALIGNXPLORE_JOB"
"""Environment variable with a job's name: files that its processes write begin with it."""

SQL = Path(__file__).parents[2] / "sql"

_HEAD = '{"key":"'
_READ_BYTES = 64 << 20

Record = Mapping[str, Any]


class Journal:
    """Answers by key: those in `directory` when it was opened, and those added since; in memory alone without one."""

    def __init__(self, directory: str | Path | None = None):
        self.directory = None if directory is None else Path(directory)
        self._own: dict[str, Record] = {}
        self._file: BinaryIO | None = None
        paths = sorted(self.directory.glob("*.jsonl")) if self.directory else []
        self._index = _Index(paths)

    def get(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records of those keys that are in the journal."""
        wanted = dict.fromkeys(keys)
        found = {key: self._own[key] for key in wanted if key in self._own}
        return found | self._index.get([key for key in wanted if key not in found])

    def add(self, records: Sequence[tuple[str, Record]]) -> None:
        """Append records, all in one write. Raises UserError where they cannot be kept."""
        self._own.update((key, record) for key, record in records if key != CALL)
        if self.directory is None or not records:
            return
        data = memoryview("".join(_line(key, record) for key, record in records).encode())
        try:
            while self._file is None or os.fstat(self._file.fileno()).st_nlink == 0:  # `prune` may come in between
                self.directory.mkdir(parents=True, exist_ok=True)
                self._file = open(self.directory / _file_name(), "ab", buffering=0)  # noqa: SIM115
                fcntl.flock(self._file, fcntl.LOCK_EX)  # tells `prune` that the file is still written to
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            reason = explained(error) or error.strerror
            raise UserError(f"journal {self.directory}: cannot be written: {reason}") from error


def calls_of_job(directory: str | Path, job: str) -> list[Record]:
    """The accounts of all calls that the processes of a job made."""
    calls = []
    for path in sorted(Path(directory).glob(f"{job}-*.jsonl")):
        with open(path, "rb") as file:
            lines = (_parsed(line) for line in file if line.startswith(f"{_HEAD}{CALL}".encode()))
            calls += [parsed[1]["call"] for parsed in lines if parsed]
    return calls


def _file_name() -> str:
    job = os.environ.get(JOB_VARIABLE)
    return f"{job}-{uuid.uuid4().hex}.jsonl" if job else f"{uuid.uuid4().hex}.jsonl"


def _check_there(directory: str | Path) -> None:
    if not any(Path(directory).glob("*.jsonl")):
        raise UserError(f"{directory}: there is no journal here")


def account(directory: str | Path) -> pl.DataFrame:
    """What each model was asked: entries, calls, new answers and hits, their tokens, dollars and seconds.

    `loading` is what starting the model took in the mean, which is not in `seconds`.
    """
    _check_there(directory)
    query = (SQL / "journal.sql").read_text(encoding="utf-8")
    with duckdb.connect() as connection:
        return connection.sql(query, params={"files": f"{directory}/*.jsonl", "call": CALL}).pl().fill_null(0)


def prune(directory: str | Path, keep: Sequence[str] | None = None, newer_than: float = 0.0) -> tuple[int, int]:
    """Join the files that no process writes to into one, without repeated and broken lines.

    With `keep`, answers of models other than these go; so do those of files last written before `newer_than` (seconds
    since the epoch). Returns the number of records kept and dropped; raises UserError where there is no journal.
    """
    directory = Path(directory)
    _check_there(directory)
    old: list[BinaryIO] = []
    kept = dropped = 0
    seen: set[str] = set()
    target = directory / f"{uuid.uuid4().hex}.jsonl"
    with records.replacing(target) as partial, open(partial, "wb") as output:
        for path in sorted(directory.glob("*.jsonl")):
            file = open(path, "r+b")  # noqa: SIM115 - NFS locks only what may be written
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            old.append(file)
            recent = path.stat().st_mtime >= newer_than
            for line in file:
                key, record = _parsed(line) or (None, {})
                wanted = recent and (keep is None or record.get("model", record.get("call", {}).get("model")) in keep)
                if key is None or key in seen or not wanted:
                    dropped += 1
                    continue
                if key != CALL:
                    seen.add(key)
                kept += 1
                output.write(line)
    if not kept:
        target.unlink()
    for done in old:
        os.unlink(done.name)
        done.close()
    return kept, dropped


class _Index:
    """Where the records of some files are: 16 bytes a record in memory, and a line read for each that is asked for."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        hashes, offsets, files = [], [], []
        for number, path in enumerate(self.paths):
            for line_hashes, line_offsets in _scan(path):
                hashes.append(line_hashes)
                offsets.append(line_offsets)
                files.append(np.full(len(line_hashes), number, np.int32))
        joined = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
        order = np.argsort(joined, kind="stable")
        self.hashes = joined[order]
        self.offsets = np.concatenate(offsets)[order] if offsets else np.empty(0, np.int64)
        self.files = np.concatenate(files)[order] if files else np.empty(0, np.int32)

    def get(self, keys: Sequence[str]) -> dict[str, Record]:
        if not keys or not len(self.hashes):
            return {}
        wanted = _hashes(np.frombuffer("".join(keys).encode(), np.uint8).reshape(-1, KEY_LENGTH))
        first = np.searchsorted(self.hashes, wanted, "left")
        last = np.searchsorted(self.hashes, wanted, "right")
        places = sorted(
            (self.files[place], self.offsets[place], key)
            for key, start, stop in zip(keys, first.tolist(), last.tolist(), strict=True)
            for place in range(start, stop)
        )
        found: dict[str, Record] = {}
        file, opened = None, -1
        for number, offset, key in places:
            if key in found:
                continue
            if number != opened:
                if file:
                    file.close()
                # A file that has been pruned since is as if it had never been there.
                path = self.paths[number]
                file, opened = (open(path, "rb") if path.exists() else None), number  # noqa: SIM115
            if file is None:
                continue
            file.seek(offset)
            parsed = _parsed(file.readline())
            if parsed and parsed[0] == key:
                found[key] = parsed[1]
        if file:
            file.close()
        return found


def _scan(path: Path) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Hashes of the keys of a file's whole lines, and where the lines begin."""
    begin, end = len(_HEAD), len(_HEAD) + KEY_LENGTH
    with open(path, "rb") as file:
        base, rest = 0, b""
        while block := file.read(_READ_BYTES):
            data = np.frombuffer(rest + block, np.uint8)
            stops = np.flatnonzero(data == ord("\n"))
            starts = np.concatenate([[0], stops[:-1] + 1]) if len(stops) else stops
            long = stops - starts > end
            places = starts[long]
            yield _hashes(data[places[:, None] + np.arange(begin, end)]), places + base
            used = int(stops[-1]) + 1 if len(stops) else 0
            rest, base = data[used:].tobytes(), base + used


def _hashes(keys: np.ndarray) -> np.ndarray:
    """64 bits of each key (n, KEY_LENGTH), its characters as bytes; equal keys have equal bits."""
    words = np.ascontiguousarray(keys).view(np.uint64)
    mixed = np.zeros(len(words), np.uint64)
    for column in words.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return mixed


def _line(key: str, record: Record) -> str:
    body = json.dumps(record, separators=(",", ":"))
    return f'{_HEAD}{key}","sum":"{_sum(key, body)}","record":{body}}}\n'


def _parsed(line: bytes) -> tuple[str, Record] | None:
    """Key and record of a line, or nothing where it is not whole."""
    try:
        text = line.decode()
        key = text[len(_HEAD) : len(_HEAD) + KEY_LENGTH]
        head = f'{_HEAD}{key}","sum":"'
        checksum = text[len(head) : len(head) + 8]
        head += f'{checksum}","record":'
        if not text.startswith(head) or not text.endswith("}\n"):
            return None
        body = text[len(head) : -2]
        return (key, json.loads(body)) if _sum(key, body) == checksum else None
    except ValueError:
        return None


def _sum(key: str, body: str) -> str:
    return f"{zlib.crc32((key + body).encode()):08x}"
