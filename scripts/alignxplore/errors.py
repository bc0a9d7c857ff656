"""The exception whose message users read, and operating-system errors in the same words."""

import errno
import os

_FREE_SPACE = "make room and run again; finished work is kept"
_ADVICE = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) and run again; finished work is kept",
    errno.EROFS: "mount it read-write and run again",
    errno.EACCES: "grant this user access and run again",
    errno.EPERM: "grant this user access and run again",
    errno.ENOMEM: "give the job more memory (the rule's mem_mb) or the model smaller batches",
}
_WORDS = {errno.ENOSPC: "No space left on device", errno.EDQUOT: "Disk quota exceeded", errno.EFBIG: "File too large"}


class UserError(Exception):
    """An error that the user can fix: the message names the file, record or key, and says what to do."""


def explained(error: BaseException) -> str | None:
    """One line for an operating-system error (disk, permissions, memory) that a user can fix; None for any other."""
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return f"out of memory: {_ADVICE[errno.ENOMEM]}"
    code = error.errno if isinstance(error, OSError) else None
    if code not in _ADVICE:
        # Libraries written in other languages report the system's error only in words.
        code = next((code for code, words in _WORDS.items() if words in text), None)
    if code is None:
        return None
    name = getattr(error, "filename", None)
    return f"{f'{name}: ' if name else ''}{os.strerror(code)}: {_ADVICE[code]}"


def unloadable(model: object, error: Exception) -> str:
    """One line about a model that a library failed to load."""
    reason = str(error).strip().partition("\n")[0]
    return f"model {model} cannot be loaded ({reason}); if a rule made it, remove it and run again"


def check_writable(*directories: str) -> None:
    """Raise UserError for the first of these directories that exists and is not writable."""
    for directory in directories:
        if os.path.isdir(directory) and not os.access(directory, os.W_OK):
            raise UserError(f"{directory}/ cannot be written to: grant this user access and run again")
