"""The one exception that users are meant to read, and the system's own errors in words."""

import errno
import os

_ADVICE = {
    errno.ENOSPC: "make room and run again; what is done is kept",
    errno.EDQUOT: "make room and run again; what is done is kept",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) and run again; what is done is kept",
    errno.EROFS: "it must be possible to write there",
    errno.EACCES: "give this user the right to it and run again",
    errno.EPERM: "give this user the right to it and run again",
    errno.ENOMEM: "give the job more memory (the rule's mem_mb), or the model smaller batches",
}
_FULL = {errno.ENOSPC: "No space left on device", errno.EDQUOT: "Disk quota exceeded", errno.EFBIG: "File too large"}


class UserError(Exception):
    """Something the user can put right: the message names the file, record or key and what to do."""


def explained(error: BaseException) -> str | None:
    """One line on an error of the system (disk, rights, memory) that a user can mend; nothing for any other."""
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return f"out of memory: {_ADVICE[errno.ENOMEM]}"
    code = error.errno if isinstance(error, OSError) else None
    if code not in _ADVICE:
        # Libraries written in other languages tell of the system's error in words alone.
        code = next((code for code, words in _FULL.items() if words in text), None)
    if code is None:
        return None
    name = getattr(error, "filename", None)
    return f"{f'{name}: ' if name else ''}{os.strerror(code)}: {_ADVICE[code]}"


def unloadable(model: object, error: Exception) -> str:
    """One line on a model that a library could not load."""
    reason = str(error).strip().partition("\n")[0]
    return f"model {model} cannot be loaded ({reason}); if a rule made it, remove it and run again"


def check_writable(*directories: str) -> None:
    """Raise a UserError for the first directory that is there and cannot be written to."""
    for directory in directories:
        if os.path.isdir(directory) and not os.access(directory, os.W_OK):
            raise UserError(f"{directory}/ cannot be written to: give this user the right to it and run again")
