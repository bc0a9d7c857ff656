"""Locks that the kernel releases when the process that holds them ends, even by kill -9."""

import fcntl
import logging
import os
import shutil
import socket
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

HELD = "ALIGNXPLORE_HELD"
"""Environment variable that names the file a job holds, for the programs that the job starts."""


def hold_workflow(directory: Path) -> IO[str] | None:
    """Mark Snakemake as running in `directory` (.snakemake) until the returned file is closed.

    Snakemake's own lock survives a kill -9. It is removed here if no other process holds the mark and the last run was
    on this host. Returns None, and does nothing, if the file system has no locks or the user may not write.
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
            _remove_dead_lock(directory / "locks", file)
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError:
        file.close()
        return None
    return file


def _remove_dead_lock(locks: Path, file: IO[str]) -> None:
    host = socket.gethostname()
    file.seek(0)
    left = list(locks.glob("*.lock"))
    if left and file.read() != host:
        return  # its owner may be alive on another host, if the file system does not share locks between hosts
    if left:
        log.warning("Snakemake was killed and left its lock on this directory; removing it")
        shutil.rmtree(locks)
        locks.mkdir()
    file.seek(0)
    file.truncate()
    file.write(host)
    file.flush()


def hold(file: IO[str]) -> bool:
    """Lock an open file until it is closed, after waiting for any other process that holds it.

    Returns False if the process that started this one holds it.
    """
    path = os.path.abspath(file.name)
    if os.environ.get(HELD) == path:
        return False
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("%s: another process is still running this job; waiting for it to end", file.name)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        pass  # the file system has no locks
    os.environ[HELD] = path
    return True
