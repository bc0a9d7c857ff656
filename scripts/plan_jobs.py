"""Print as JSON the jobs of the workflow, in the order of their dependencies, with what each would run for.

A program of its own because it needs Snakemake, which the library does not.
"""

import argparse
import json
import sys
from pathlib import Path

from snakemake.api import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, SnakemakeApi
from snakemake.profiles import ProfileConfigFileParser
from snakemake.settings.types import Quietness, RerunTrigger

ROOT = Path(__file__).parents[1]


def plan(configfiles, targets=()):
    """`journal`, the configuration's, and `jobs`: of each its rule, wildcards, params, files, resources and `reason`.

    The reason is empty where nothing is to be done. Settings of profiles/default are those of a run.
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
            config_settings=ConfigSettings(configfiles=[Path(file) for file in configfiles]),
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
        return {"journal": workflow.globals["config"]["journal"], "jobs": jobs}


def _described(job, reason):
    return {
        "rule": job.rule.name,
        "wildcards": dict(job.wildcards_dict or {}),
        "params": {name: value for name, value in job.params.items()},
        "input": [str(file) for file in job.input],
        "output": [str(file) for file in job.output],
        "temporary": sorted(map(str, job.temp_output)),
        "threads": job.threads,
        "gpus": job.resources.get("gpu", 0),
        "reason": "" if reason is None else str(reason),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", nargs="*", default=[])
    parser.add_argument("targets", nargs="*")
    arguments = parser.parse_args()
    json.dump(plan(arguments.configfile, arguments.targets), sys.stdout, default=str)


if __name__ == "__main__":
    main()
