"""Runs Snakemake in forks of this process, which has made Snakemake's imports: see trees.snakemake.

It imports nothing of ours, so each fork reads the library of the tree that it runs in. A request is one line of JSON on
standard input; the answer is one line with the exit status.
"""

import json
import os
import sys

import jsonschema  # noqa: F401
import pandas  # noqa: F401
import polars  # noqa: F401
from snakemake.cli import get_argument_parser, main


def become(request: dict) -> None:
    """Turn this fork into the Snakemake of a request."""
    for number, name in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["tree"])
    sys.path[0] = request["tree"]  # where `python -m` would look first
    sys.argv = ["snakemake", *request["arguments"]]
    status = 1
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


get_argument_parser()  # imports Snakemake's plugins
for line in sys.stdin:
    child = os.fork()
    if not child:
        become(json.loads(line))
    _, outcome = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(outcome), flush=True)
