"""Plans a tree after each of many changes: run `python planner.py` in the tree.

A request is a line of JSON on standard input: `config` (the configuration) or `file` (changed while the plan is made),
and `touched` (files that are only touched). A fork of this process answers each, so imports are made only once.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, "scripts")

import alignxplore.methods.given  # noqa: F401
import jsonschema  # noqa: F401
import pandas  # noqa: F401
import plan_jobs
import yaml
from alignxplore.workflow.dependencies import library_modules
from configs import write_config


def answer(request):
    """The reasons of planned jobs, and for all jobs their inputs and the jobs that use their outputs, by name."""
    if "config" in request:
        write_config(Path("changed.yaml"), request["config"])
    jobs = plan_jobs.plan(["changed.yaml" if "config" in request else "base.yaml"])["jobs"]
    makers = {output: name(job) for job in jobs for output in job["output"]}
    users = {name(job): [] for job in jobs}
    for job in jobs:
        for file in job["input"]:
            if file in makers:
                users[makers[file]].append(name(job))
    return {
        "reasons": {name(job): job["reason"] for job in jobs if job["reason"]},
        "users": users,
        "inputs": {name(job): job["input"] for job in jobs},
        "temporary": [name(job) for job in jobs if job["temporary"]],
    }


def name(job):
    return " ".join([job["rule"], *job["wildcards"].values()])


def forked(request):
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        os.close(receive)
        try:
            reply = answer(request)
        except BaseException as error:
            reply = {"error": repr(error)}
        with open(send, "w") as pipe:
            json.dump(reply, pipe)
        os._exit(0)
    os.close(send)
    with open(receive) as pipe:
        reply = pipe.read()
    os.waitpid(child, 0)
    return reply


yaml.safe_load = partial(yaml.load, Loader=yaml.CSafeLoader)  # a fifth of a request otherwise goes into reading YAML
for script in sorted(Path("scripts").resolve().glob("*.py")):
    library_modules(script)
for line in sys.stdin:
    request = json.loads(line)
    file = Path(request.get("file", "changed.yaml"))
    before = file.read_bytes() if "file" in request else b""
    if "file" in request:
        file.write_bytes(before + b"\n")
    for touched in request.get("touched", ()):
        os.utime(touched)
    print(forked(request), flush=True)
    if "file" in request:
        file.write_bytes(before)
