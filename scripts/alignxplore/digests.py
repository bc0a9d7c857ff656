"""SHA-256 digests of files and directories; those of large ones are cached, so that many jobs can ask."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

CACHED_SIZE = 64 << 20
"""Bytes from which on a digest is kept in the user's cache directory."""


def digest(path: str | Path) -> str:
    """The digest of a file's bytes, or of a directory as `directory_digest` computes it."""
    return directory_digest(path) if Path(path).is_dir() else _cached(Path(path), [Path(path)], _file)


def directory_digest(path: str | Path) -> str:
    """The digest of a model directory: the names and bytes of its files, except hidden files and the model card."""
    path = Path(path)
    files = sorted(path.rglob("*"))
    chosen = [f for f in files if f.is_file() and f.name != "README.md" and f.name[0] != "."]
    return _cached(path, chosen, _tree)


def file_digest(path: Path) -> str:
    """The digest of a file's bytes as they are now, whatever is cached."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _file(path: Path, files: list[Path]) -> str:
    return file_digest(path)


def _tree(path: Path, files: list[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.relative_to(path)}\n{file_digest(file)}\n".encode())
    return found.hexdigest()


def _cached(path: Path, files: list[Path], compute: Callable[[Path, list[Path]], str]) -> str:
    """What `compute` returns, or returned when these files had the same sizes and times."""
    before = _state(files)
    if sum(size for _, size, *_ in before) < CACHED_SIZE:
        return compute(path, files)
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alignxplore/digests" / name
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
        if known["state"] == before:
            return str(known["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = compute(path, files)
    if _state(files) == before:
        _write(cache, json.dumps({"state": before, "digest": found}))
    return found


def _state(files: list[Path]) -> list[list]:
    """Names, sizes and times: every ordinary write changes one of them."""
    found = [(file, file.stat()) for file in files]
    return [[str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns] for file, status in found]


def _write(cache: Path, text: str) -> None:
    """Keep a digest if the cache directory is writable; otherwise it is computed again next time."""
    partial = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, cache)
    except OSError:
        partial.unlink(missing_ok=True)
