"""The journal: every answer of a model, stored under a hash of the question, so that nothing is paid for twice.

It is a directory of JSON-lines files. Each process appends to a file of its own, so jobs on many machines can share
the directory. A line has parts of fixed width, then the record:

    {"key":"0f3a...","sum":"9c1d...","record":{"model":"m","text":"...","prompt_tokens":812,...}}
             32 hex          8 hex           JSON

`sum` is the CRC-32 of key and record. A line that was torn by a kill or changed by damage fails it and does not count.
Anything that reads JSON lines can read the files:

    SELECT record FROM read_json('journal/*.jsonl', columns = {key: 'VARCHAR', sum: 'VARCHAR', record: 'JSON'})
"""

import fcntl
import json
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl

from alignxplore import records
from alignxplore.errors import UserError, explained

KEY_LENGTH = 32
CALL = "0" * KEY_LENGTH
"""The key of lines that account for one call; every other line holds an answer or a plan (see Engine)."""

JOB_VARIABLE = "ALIGNXPLORE_JOB"
"""Environment variable with a job's name; the files that the job's processes write begin with it."""

_SQL = Path(__file__).parents[2] / "sql/journal.sql"

_HEAD = '{"key":"'
_READ_BYTES = 64 << 20

Record = Mapping[str, Any]


class Journal:
    """Records by key: those in `directory` when it was opened and those added since; without one, only the latter."""

    def __init__(self, directory: str | Path | None = None):
        self.directory = None if directory is None else Path(directory)
        self._own: dict[str, Record] = {}
        self._file: BinaryIO | None = None
        paths = sorted(self.directory.glob("*.jsonl")) if self.directory else []
        self._index = _Index(paths)

    def get(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records of those of `keys` that are in the journal."""
        wanted = dict.fromkeys(keys)
        found = {key: self._own[key] for key in wanted if key in self._own}
        return found | self._index.get([key for key in wanted if key not in found])

    def add(self, records: Sequence[tuple[str, Record]]) -> None:
        """Append records, in one write if the system allows it. Raises UserError if they cannot be written."""
        self._own.update((key, record) for key, record in records if key != CALL)
        if self.directory is None or not records:
            return
        data = memoryview("".join(_line(key, record) for key, record in records).encode())
        try:
            # Between open and flock, `prune` may have removed the new file: then its link count is 0.
            while self._file is None or os.fstat(self._file.fileno()).st_nlink == 0:
                self.directory.mkdir(parents=True, exist_ok=True)
                self._file = open(self.directory / _file_name(), "ab", buffering=0)  # noqa: SIM115
                fcntl.flock(self._file, fcntl.LOCK_EX)  # held while open, so `prune` leaves the file alone
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            reason = explained(error) or error.strerror
            raise UserError(f"journal {self.directory}: cannot be written: {reason}") from error


def calls_of_job(directory: str | Path, job: str) -> list[Record]:
    """The accounts of all calls made by the processes of a job."""
    calls = []
    for path in sorted(Path(directory).glob(f"{job}-*.jsonl")):
        with open(path, "rb") as file:
            lines = (_parsed(line) for line in file if line.startswith(f"{_HEAD}{CALL}".encode()))
            calls += [parsed[1]["call"] for parsed in lines if parsed]
    return calls


def account(directory: str | Path) -> pl.DataFrame:
    """What each model was asked: entries, calls, new answers and hits, with their tokens, dollars and seconds.

    `loading` is the mean time to start the model, which `seconds` leaves out. Raises UserError if there is no journal.
    """
    import duckdb  # no job that asks a model needs it

    _files(directory)
    query = _SQL.read_text(encoding="utf-8")
    with duckdb.connect() as connection:
        return connection.sql(query, params={"files": f"{directory}/*.jsonl", "call": CALL}).pl().fill_null(0)


def prune(
    directory: str | Path, keep: Sequence[str] | None = None, newer_than: float = 0.0, refused: bool = False
) -> tuple[int, int]:
    """Merge the files that no process is writing to into one, without repeated and broken lines.

    `keep` drops all models but these; `newer_than` drops files last written before that time (seconds since the
    epoch); `refused` drops prompts that a model refused, so that they are asked again. Returns the number of records
    kept and dropped. Raises UserError if there is no journal.
    """
    merged: list[BinaryIO] = []
    kept = dropped = 0
    seen: set[str] = set()
    paths = _files(directory)
    target = Path(directory) / f"{uuid.uuid4().hex}.jsonl"
    with records.replacing(target) as partial, open(partial, "wb") as output:
        for path in paths:
            file = open(path, "r+b")  # noqa: SIM115 - NFS needs write access to lock
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            merged.append(file)
            recent = path.stat().st_mtime >= newer_than
            for line in file:
                key, record = _parsed(line) or (None, {})
                wanted = recent and (keep is None or record.get("model", record.get("call", {}).get("model")) in keep)
                wanted = wanted and not (refused and "refused" in record)
                if key is None or key in seen or not wanted:
                    dropped += 1
                    continue
                if key != CALL:
                    seen.add(key)
                kept += 1
                output.write(line)
    if not kept:
        target.unlink()
    for done in merged:
        os.unlink(done.name)
        done.close()
    return kept, dropped


def _files(directory: str | Path) -> list[Path]:
    paths = sorted(Path(directory).glob("*.jsonl"))
    if not paths:
        raise UserError(f"{directory}: there is no journal here")
    return paths


def _file_name() -> str:
    job = os.environ.get(JOB_VARIABLE)
    return f"{job}-{uuid.uuid4().hex}.jsonl" if job else f"{uuid.uuid4().hex}.jsonl"


class _Index:
    """Where each record lies: three arrays sorted by the key's hash, 20 bytes per record.

        hashes   0x02..  0x02..  0x5f..  0x91..    64 bits of the key (two keys may collide)
        files        3       0       3       1     number of the file in `paths`
        offsets   1280       0     644   90210     where the line starts in that file

    `get` finds a key's places by binary search and reads only these lines; the line's own key settles collisions.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths
        hashes, offsets, files = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], [np.empty(0, np.int32)]
        for number, path in enumerate(self.paths):
            for line_hashes, line_offsets in _scan(path):
                hashes.append(line_hashes)
                offsets.append(line_offsets)
                files.append(np.full(len(line_hashes), number, np.int32))
        order = np.argsort(np.concatenate(hashes), kind="stable")
        self.hashes, self.offsets, self.files = (np.concatenate(part)[order] for part in (hashes, offsets, files))

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
        for number, places_in_file in groupby(places, key=itemgetter(0)):
            try:
                file = open(self.paths[number], "rb")  # noqa: SIM115
            except FileNotFoundError:  # pruned since this index was made
                continue
            with file:
                for _, offset, key in places_in_file:
                    if key in found:
                        continue
                    file.seek(offset)
                    parsed = _parsed(file.readline())
                    if parsed and parsed[0] == key:
                        found[key] = parsed[1]
        return found


def _scan(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, block by block, the hashes of the keys of a file's complete lines and where the lines start.

    Since keys have a fixed place in the line, numpy finds them without parsing: a million records take about a second.
    """
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
    """A 64-bit hash of each key: (n,), from the keys' characters as bytes (n, KEY_LENGTH)."""
    words = np.ascontiguousarray(keys).view(np.uint64)
    mixed = np.zeros(len(words), np.uint64)
    for column in words.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return mixed


def _line(key: str, record: Record) -> str:
    body = json.dumps(record, separators=(",", ":"))
    return f'{_HEAD}{key}","sum":"{_checksum(key, body)}","record":{body}}}\n'


def _parsed(line: bytes) -> tuple[str, Record] | None:
    """Key and record of a line; None if the line is torn or damaged."""
    try:
        text = line.decode()
        key = text[len(_HEAD) : len(_HEAD) + KEY_LENGTH]
        head = f'{_HEAD}{key}","sum":"'
        checksum = text[len(head) : len(head) + 8]
        head += f'{checksum}","record":'
        if not text.startswith(head) or not text.endswith("}\n"):
            return None
        body = text[len(head) : -2]
        return (key, json.loads(body)) if _checksum(key, body) == checksum else None
    except ValueError:
        return None


def _checksum(key: str, body: str) -> str:
    return f"{zlib.crc32((key + body).encode()):08x}"
