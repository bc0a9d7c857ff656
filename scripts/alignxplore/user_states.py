"""What is known of one user between updates, in a file: the description, and which signals it is made from.

    {"version": 1, "description": "Likes ...", "signals": 12, "model": "models/trained/alignxplore",
     "identity": "5f0c...", "seen": ["9d1e...", ...]}

`identity` is a hash of what the model's answers depend on, and `seen` has one of each signal, so that a signal that is
sent twice is read once. The file is replaced in one step, so whoever reads it sees a whole state. A lock beside it,
.NAME.lock, makes updates wait for each other; it stays there.
"""

import fcntl
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignxplore.data.alignx import stable_hash
from alignxplore.data.streams import signal_count, span
from alignxplore.errors import UserError
from alignxplore.records import replacing

log = logging.getLogger(__name__)

VERSION = 1
_FIELDS = {"description": str, "signals": int, "model": str, "identity": str, "seen": list}

Signals = Mapping[str, Any]


@dataclass(frozen=True)
class State:
    """A user's description, the hashes of the signals that it is made from, and the model that wrote it last."""

    description: str = ""
    seen: tuple[str, ...] = ()
    model: str = ""
    identity: str = ""


def read_state(path: Path) -> State:
    """The state in a file; an empty one if there is none. Raises UserError for a file that is not a state."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return State()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a user's state: not valid JSON: {error}") from None
    if not isinstance(value, dict) or "version" not in value:
        raise UserError(f"{path}: not a user's state: it has no version")
    if value["version"] != VERSION:
        raise UserError(f"{path}: a state of version {value['version']!r}, but this program reads version {VERSION}")
    for name, kind in _FIELDS.items():
        if type(value.get(name)) is not kind:
            raise UserError(f"{path}: not a user's state: {name!r} is missing or of another type")
    seen = value["seen"]
    if len(set(map(str, seen))) != value["signals"] or not all(isinstance(item, str) for item in seen):
        raise UserError(
            f"{path}: not a user's state: 'seen' must have a hash of each of the {value['signals']} signals"
        )
    return State(value["description"], tuple(seen), value["model"], value["identity"])


def write_state(path: Path, state: State) -> None:
    """Replace the file's state in one step."""
    value = {"version": VERSION, "description": state.description, "signals": len(state.seen), "model": state.model,
             "identity": state.identity, "seen": state.seen}  # fmt: skip
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the state's lock, after waiting for any other process that updates it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name}.lock").open("a")
    except OSError as error:
        raise UserError(f"{path}: cannot be locked: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("%s: another process is updating it; waiting", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def update(
    path: Path,
    signals: Signals,
    describe: Callable[[Signals, str], str],
    chunk: int,
    model: str,
    identity: Mapping[str, Any],
) -> tuple[State, State]:
    """Bring the state in a file up to date, and return it as it was and as it is.

    `describe` makes a description from a chunk of signals and the past description; if it raises, the file keeps what
    the chunks before came to. Signals that were read before are left out.
    """
    with locked(path):
        before = state = read_state(path)
        known = stable_hash(json.dumps(identity, sort_keys=True))
        if state.identity not in ("", known):
            log.warning("%s: written by %s; now updated by another model, %s", path, state.model, model)
        new, hashes = _unseen(signals, state.seen)
        if left := signal_count(signals) - len(hashes):
            log.warning("%s: %d of %d signals were read before; leaving them out", path, left, signal_count(signals))
        for start in range(0, len(hashes), chunk):
            description = describe(span(new, start, start + chunk), state.description)
            state = State(description, (*state.seen, *hashes[start : start + chunk]), model, known)
            write_state(path, state)
    return before, state


def _unseen(signals: Signals, seen: Sequence[str]) -> tuple[Signals, list[str]]:
    """The signals that are not among `seen`, each once, and their hashes, pairs before comments."""
    known = set(seen)
    new: dict[str, list[Any]] = {"pairs": [], "ugc": []}
    hashes = []
    for form in new:
        for item in signals[form]:
            name = stable_hash(json.dumps(item, sort_keys=True))
            if name not in known:
                known.add(name)
                new[form].append(item)
                hashes.append(name)
    return new, hashes
