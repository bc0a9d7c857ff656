"""Print the workflow's jobs as JSON, in the order of their dependencies, each with the reason why it would run.

This is a separate program because the library does not import Snakemake.

It builds the DAG through private methods of Snakemake 9.27 (`_workflow`, `_prepare_dag`, `_build_dag`), as the public
commands of snakemake.api do. Nothing public gives a job's params together with its reason: `summary` prints outputs
and their status, `printd3dag` prints rule names, and the events that logger plugins receive leave out params and all
jobs that are up to date. If a new version breaks this, test_plan_merges_configuration_files in
tests/integration/test_commands.py fails, as does test_the_plan_knows_what_a_killed_job_has_left_half_done in
tests/workflow/test_dag.py.
"""

import argparse
import json
import sys
from pathlib import Path

from snakemake.api import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, SnakemakeApi
from snakemake.cli import parse_config
from snakemake.profiles import ProfileConfigFileParser
from snakemake.settings.types import Quietness, RerunTrigger

ROOT = Path(__file__).parents[1]


def plan(configfiles, targets=(), values=()):
    """The `config` as jobs get it, and `jobs`: rule, wildcards, params, files, resources and `reason` of each.

    The reason is empty for a job that is up to date. The rerun settings are those of profiles/default, as in a run.
    """
    profile = ProfileConfigFileParser().parse((ROOT / "profiles/default/config.yaml").open(encoding="utf-8"))
    settings = DAGSettings(
        targets=frozenset(targets),
        rerun_triggers=RerunTrigger.parse_choices_set(profile["rerun-triggers"]),
        max_checksum_file_size=int(profile["max-checksum-file-size"]),
        force_incomplete=bool(profile["rerun-incomplete"]),
    )
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL}, dryrun=True, enable_file_logging=False)) as api:
        workflow_api = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(
                config=parse_config(values), configfiles=[Path(file) for file in configfiles]
            ),
            snakefile=ROOT / "Snakefile",
        )
        workflow_api.dag(settings)
        workflow = workflow_api._workflow
        workflow._prepare_dag(forceall=False, ignore_incomplete=False, lock_warn_only=True)
        workflow._build_dag()
        dag, planned = workflow.dag, set(workflow.dag.needrun_jobs())
        jobs = [
            _described(job, dag.reason(job) if job in planned else None) for level in dag.toposorted() for job in level
        ]
        return {"config": workflow.globals["config"], "jobs": jobs}


def _described(job, reason):
    return {
        "rule": job.rule.name,
        "wildcards": dict(job.wildcards_dict or {}),
        "params": {name: value for name, value in job.params.items()},
        "input": [str(file) for file in job.input],
        "prompts": {name: str(file) for name, file in job.input.items() if name.endswith("_prompt")},
        "output": [str(file) for file in job.output],
        "temporary": sorted(map(str, job.temp_output)),
        "threads": job.threads,
        "gpus": job.resources.get("gpu", 0),
        "reason": "" if reason is None else str(reason),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--configfile", nargs="*", default=[], help="as Snakemake takes it: files over config/base.yaml"
    )
    parser.add_argument("--config", nargs="*", default=[], help="KEY=VALUE over the files, as Snakemake takes it")
    parser.add_argument("targets", nargs="*", help="files or rules; all results by default")
    arguments = parser.parse_args()
    json.dump(plan(arguments.configfile, arguments.targets, arguments.config), sys.stdout, default=str)


if __name__ == "__main__":
    main()
