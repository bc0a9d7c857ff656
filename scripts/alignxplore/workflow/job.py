"""How rule scripts and training programs start: logging to the rule's log, errors without tracebacks."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignxplore.errors import UserError, explained
from alignxplore.workflow.locks import hold


def configure_logging(log_file: str | None = None) -> None:
    """Log to stderr, and to `log_file` as well where there is one.

    The file is this process's alone: one that a killed Snakemake has left running the same job is waited for.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    logging.raiseExceptions = False  # a full disk ends no job that could go on
    if log_file:
        file = open(log_file, "a", encoding="utf-8")  # noqa: SIM115 - open, and so held, until the process ends
        if hold(file):
            file.truncate(0)
        handlers.append(logging.StreamHandler(file))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers, force=True
    )
    for noisy in ("httpx", "httpcore", "urllib3", "matplotlib", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def run(main: Callable[[], Any], log_file: str | None = None) -> None:
    """Call `main`; a UserError, or a full disk and its like, ends the process with status 1 and one line."""
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


def script_main(main: Callable[[Any], Any], snakemake: Any, *, temporary: bool = False) -> None:
    """Run a rule script's `main(snakemake)`, logging to the rule's log file, and record it beside its first output.

    `temporary` says that Snakemake removes the outputs when they have been read.
    """
    # Not above: the workflow imports this module, and is to be read fast.
    from alignxplore.workflow.provenance import recorded

    log_file = snakemake.log[0] if snakemake.log else None
    run(lambda: recorded(main, snakemake, temporary), log_file)


def prefer_own_programs() -> None:
    """Let `python` and `accelerate` mean those of this interpreter's environment, activated or not.

    A job's own environment still comes first, because it is activated later.
    """
    _put_first("PATH", str(Path(sys.executable).parent))


def prefer_own_library(scripts: Path) -> None:
    """Let jobs import the library in `scripts`, whichever is installed in the environment."""
    _put_first("PYTHONPATH", str(scripts))


def _put_first(variable: str, own: str) -> None:
    if own not in os.environ.get(variable, "").split(os.pathsep)[:1]:
        os.environ[variable] = os.pathsep.join(filter(None, [own, os.environ.get(variable)]))
