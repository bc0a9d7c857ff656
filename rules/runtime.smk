# What happens when a run starts. Only this file reaches into Snakemake's internals.

import sys
from pathlib import Path
from threading import Event, Timer

SCRIPTS = Path(workflow.basedir) / "scripts"
sys.path.insert(0, str(SCRIPTS))

from alignxplore.imports import uncollected

with uncollected():
    from snakemake.dag import DAG
    from snakemake.exceptions import WorkflowError
    from snakemake.io import is_flagged
    from snakemake.scheduling.job_scheduler import JobScheduler

    from alignxplore.errors import UserError, check_writable
    from alignxplore.workflow.config import (
        completed,
        read_layers,
        typed,
        unpinned_models,
    )
    from alignxplore.workflow.config_checks import check_config
    from alignxplore.workflow.config_paths import located
    from alignxplore.workflow.job import (
        hide_progress_bars,
        prefer_own_library,
        prefer_own_programs,
    )
    from alignxplore.workflow.locks import hold_workflow
    from alignxplore.workflow.onstart import check_data, check_keys, check_training
    from alignxplore.training.programs import start_settings
    from alignxplore.workflow.provenance import sidecar

prefer_own_programs()
prefer_own_library(SCRIPTS)
hide_progress_bars()

if workflow.is_main_process:
    # Snakemake 9.27: its lock on the directory survives a kill -9. So we hold a lock that the kernel
    # releases, and remove Snakemake's if its owner is gone. Test: tests/faults/test_data_stage.py,
    # test_snakemake_killed_alone.
    RUNNING = hold_workflow(Path(".snakemake"))


async def check_incomplete(dag, original=DAG.check_incomplete):
    """Rerun jobs whose outputs are gone although their sidecar record is there.

    Snakemake 9.27 removes a job's outputs before it runs, forgets the job if it fails, and then
    considers whatever was made from the old outputs up to date (its issue 1978). Test:
    tests/workflow/test_dag.py, test_what_a_failed_job_took_away_is_made_again.
    """
    await original(dag)
    for job in dag.jobs:
        if job.output and sidecar(job.output[0]).exists():
            lost = [file for file in job.output if not Path(file).exists()]
            dag.forcefiles.update(file for file in lost if not is_flagged(file, "temp"))


def look_again(scheduler, delay, due=Event()):
    """Look for jobs to start in `delay` seconds, unless Snakemake is about to look anyway.

    Snakemake 9.27 looks whenever a job ends, and again one second after each look. After n jobs it
    would look n times a second, which took 70 s of CPU time in the default run. Test:
    tests/workflow/test_dag.py, test_snakemake_looks_for_jobs_once_a_second.
    """

    def look():
        due.clear()
        scheduler._open_jobs.release()

    if not due.is_set():
        due.set()
        timer = Timer(delay, look)
        timer.daemon = True  # the end of a run does not wait for it
        timer.start()


if workflow.is_main_process:
    DAG.check_incomplete = check_incomplete
    JobScheduler._schedule_reevalutation = look_again

# The lowest layer, then the files of --configfile, or else the embedded default. Snakemake 9.27 would
# merge the files with each other first and put its configfile directive's under the result: what one
# file removes (null) and a later one writes anew would get back its old entries, and tables would have
# their rows in another order. Test: tests/workflow/test_dag.py, test_layers_go_over_each_other_one_by_one.
CONFIG = Path(workflow.basedir) / "config"
FILES = workflow.config_settings.configfiles or [CONFIG / "demo.yaml"]
# Snakemake 9.27 leaves numbers inside `--config online='{cases: 5}'` as text. Test:
# tests/workflow/test_dag.py, test_nested_numbers_on_the_command_line.
VALUES = typed(workflow.config_settings.config)

# Scripts get the dictionary `config`, so change it in place.
try:
    settings = located(
        read_layers([CONFIG / "base.yaml", *FILES], VALUES), Path(workflow.basedir)
    )
    if workflow.is_main_process:  # which has checked what its jobs get
        check_config(settings, Path(workflow.basedir) / "config/schema.yaml")
except UserError as error:
    raise WorkflowError(str(error)) from None
config.clear()
config.update(completed(settings))

if workflow.is_main_process and (names := unpinned_models(config)):
    logger.warning(
        f"config: models without a revision: {', '.join(names)}. If one changes on the hub, the"
        " journal still answers with what the old one said; pin the commit with the model's key"
        " `revision`."
    )


def models_asked(job):
    """The names of the models that a job asks."""
    judge = job.params.get("judge") or {}
    entries = [job.params.get("model"), judge.get("model")]
    return {entry["name"] for entry in entries if entry and "name" in entry}


onstart:
    try:
        check_writable("data", "results", "models", "logs", config["journal"])
        # With --touch, no job runs.
        planned = [] if workflow.touch else list(workflow.dag.needrun_jobs())
        check_data(planned)
        asked = sorted(set().union(*map(models_asked, planned)))
        models = {name: config["models"][name] for name in asked}
        for warning in check_keys(models, config["journal"]):
            logger.warning(warning)
        trained = {
            job.wildcards.variant: {
                "stage": job.rule.name,
                "settings": job.params["settings"]
                | start_settings(job.params["model"])
                | config["training"].get("run", {}),
                "held_out": bool(job.input.get("held_out")),
            }
            for job in planned
            if job.rule.name in ("sft", "grpo")
        }
        if trained:
            check_training(trained, config["training"]["launch"])
    except UserError as error:
        raise WorkflowError(str(error)) from None
