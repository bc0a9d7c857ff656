"""SHA-256 of files and directories; of large ones once for each content, however many jobs ask."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

REMEMBERED = 64 << 20
"""Bytes from which a digest is kept in the user's cache directory."""


def digest(path: str | Path) -> str:
    """That of a file's bytes, or of a directory as `directory_digest` has it."""
    return directory_digest(path) if Path(path).is_dir() else _remembered(Path(path), [Path(path)], _file)


def directory_digest(path: str | Path, *, remembered: bool = True) -> str:
    """What tells a model's directory from another: a digest of its files' names and bytes, model card aside.

    Not `remembered`, it is computed from the bytes as they are, which damage may have changed without a trace.
    """
    path = Path(path)
    files = sorted(path.rglob("*"))
    chosen = [f for f in files if f.is_file() and f.name != "README.md" and f.name[0] != "."]
    return _remembered(path, chosen, _tree) if remembered else _tree(path, chosen)


def _file(path: Path, files: list[Path]) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _tree(path: Path, files: list[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.relative_to(path)}\n{_file(file, [])}\n".encode())
    return found.hexdigest()


def _remembered(path: Path, files: list[Path], compute: Callable[[Path, list[Path]], str]) -> str:
    """What `compute` finds, or found when these files were as they are now."""
    before = _state(files)
    if sum(size for _, size, *_ in before) < REMEMBERED:
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
    """Names, sizes and times: no content changes without one of them."""
    found = [(file, file.stat()) for file in files]
    return [[str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns] for file, status in found]


def _write(cache: Path, text: str) -> None:
    """Keep a digest where that is possible; where it is not, it is computed again."""
    partial = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, cache)
    except OSError:
        partial.unlink(missing_ok=True)
