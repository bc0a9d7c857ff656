"""How rule scripts and training programs start: logging, one-line errors, and the job's provenance record."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignxplore.errors import UserError, explained
from alignxplore.workflow.locks import hold
from alignxplore.workflow.provenance import recorded


def script_main(main: Callable[[Any], Any], snakemake: Any, *, temporary: bool = False) -> None:
    """Run a rule script's `main(snakemake)` with the rule's log file, and record the job beside its first output.

    `temporary` means that Snakemake deletes the outputs as soon as no job needs them.
    """
    log_file = snakemake.log[0] if snakemake.log else None
    run(lambda: recorded(main, snakemake, temporary), log_file)


def run(main: Callable[[], Any], log_file: str | None = None) -> None:
    """Call `main`, and exit with status 1 if it fails.

    Errors that a user can fix (UserError, a full disk, lack of memory) are logged as one line, others with a traceback.
    """
    try:
        configure_logging(log_file)
        main()
    except UserError as error:
        logging.error("%s", error)
        sys.exit(1)
    except Exception as error:
        if line := explained(error):
            logging.error("%s", line)
        else:
            logging.exception("unexpected error")
        sys.exit(1)


def configure_logging(log_file: str | None = None) -> None:
    """Log to stderr, and also to `log_file` if one is given.

    If a killed Snakemake left a process that still runs the same job, and so holds the file, wait for it to end.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    logging.raiseExceptions = False  # a log that cannot be written (full disk) must not end the job
    if log_file:
        file = open(log_file, "a", encoding="utf-8")  # noqa: SIM115 - open, and so locked, until the process ends
        if hold(file):
            file.truncate(0)
        handlers.append(logging.StreamHandler(file))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers, force=True
    )
    for noisy in ("httpx2", "httpcore2", "urllib3", "matplotlib", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def prefer_own_programs() -> None:
    """Make `python` and `accelerate` resolve to this interpreter's environment, whether or not it is activated.

    A job's conda environment still wins: Snakemake activates it later.
    """
    _put_first("PATH", str(Path(sys.executable).parent))


def hide_progress_bars() -> None:
    """Turn off transformers' bars: it prints one each time a model is loaded or saved.

    transformers asks the hub client, which reads the variable when it is imported. A user's own value wins.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def prefer_own_library(scripts: Path) -> None:
    """Make jobs import the library in `scripts`, even if the environment has another one installed."""
    _put_first("PYTHONPATH", str(scripts))


def _put_first(variable: str, own: str) -> None:
    if own not in os.environ.get(variable, "").split(os.pathsep)[:1]:
        os.environ[variable] = os.pathsep.join(filter(None, [own, os.environ.get(variable)]))
