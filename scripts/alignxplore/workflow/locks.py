"""Locks that the kernel releases when their holder dies, however it dies."""

import fcntl
import logging
import os
import shutil
import socket
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

HELD = "ALIGNXPLORE_HELD"
"""Environment variable that tells the programs which a job starts what it holds."""


def hold_workflow(directory: Path) -> IO[str] | None:
    """Say, for as long as the returned file is open, that Snakemake runs in the directory `.snakemake` given.

    Snakemake's own locks outlive a kill -9. Where there are some and their owner, of this host, lives no more, they are
    removed. Nothing is done where the file system has no locks or the user no right to them.
    """
    try:
        directory.mkdir(exist_ok=True)
        file = (directory / "running").open("a+")
    except OSError:
        return None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            _tidy(directory / "locks", file)
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError:
        file.close()
        return None
    return file


def _tidy(locks: Path, file: IO[str]) -> None:
    host = socket.gethostname()
    file.seek(0)
    left = list(locks.glob("*.lock"))
    if left and file.read() != host:
        return  # perhaps alive elsewhere, on a file system whose locks are each host's own
    if left:
        log.warning("a Snakemake that was killed has left its lock on this directory: it is removed")
        shutil.rmtree(locks)
        locks.mkdir()
    file.seek(0)
    file.truncate()
    file.write(host)
    file.flush()


def hold(file: IO[str]) -> bool:
    """Lock an open file until it is closed; waits while another process holds it, and says so.

    False where the process that started this one holds it.
    """
    path = os.path.abspath(file.name)
    if os.environ.get(HELD) == path:
        return False
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("%s: another process still runs this job; waiting for its end", file.name)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks
    os.environ[HELD] = path
    return True
