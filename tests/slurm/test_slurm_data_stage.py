"""The data stage of the default through profiles/slurm: arrays, groups, a GPU, and a job that runs out of memory."""

from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slurm
TARGETS = (
    "data/cold/dimensions.parquet",
    "data/cases/alignx_test_reverse.parquet",
    "data/cases/psoups_style.parquet",
    "results/data/funnel.csv",
)
GREEDY = """\
import time

held = b"x" * (460 << 20)
time.sleep(5)
del held  # so that the script's own peak is not above 900 MB

"""


@pytest.fixture(scope="module")
def run(slurm, new_tree, start, by_slurm):
    """The trees of a local run and a Slurm run, where gather_refined needs 700 MB and first asks for 600 MB."""
    local, tree = new_tree("local"), new_tree("slurm")
    assert start(local, "--cores", "2", *TARGETS, minutes=15).wait() == 0, (local / "snakemake.log").read_text()
    rules = tree / "rules/data.smk"
    before, rule = rules.read_text().split("rule gather_refined:")
    rules.write_text(before + "rule gather_refined:" + rule.replace("needs(4000, ", "needs(600, ", 1))
    script = tree / "scripts/gather_refined.py"
    script.write_text(GREEDY + script.read_text())
    on_gpu = ("--set-resources", "demo_world:gpu=1", "demo_world:cpus_per_gpu=1")
    done = by_slurm(tree, *on_gpu, "--", *TARGETS, minutes=30).wait()
    return SimpleNamespace(done=done, local=local, tree=tree, slurm=slurm)


def test_a_slurm_run_gives_the_same_files_as_a_local_run(run):
    assert run.done == 0, (run.tree / "snakemake.log").read_text()
    found = [path for name in ("data", "results") for path in (run.local / name).rglob("*.*")]
    # Provenance records contain times.
    written = sorted(path.relative_to(run.local) for path in found if not path.name.endswith(".provenance.json"))
    assert len(written) > 12
    assert [path for path in written if (run.local / path).read_bytes() != (run.tree / path).read_bytes()] == []


def test_shards_are_one_array(run):
    tasks = run.slurm.jobs_of(run.tree, "refine")
    assert len(tasks) == 2 and len({task["ArrayJobId"] for task in tasks}) == 1
    assert {task["JobState"] for task in tasks} == {"COMPLETED"}


def test_grouped_jobs_are_one_slurm_job(run):
    (group,) = run.slurm.jobs_of_group(run.tree, "cases")
    assert group["JobState"] == "COMPLETED"
    assert not [job for rule in ("split", "benchmark_psoups") for job in run.slurm.jobs_of(run.tree, rule)]


def test_a_job_that_ran_out_of_memory_gets_more(run):
    first, second = run.slurm.jobs_of(run.tree, "gather_refined")
    assert first["JobState"] != "COMPLETED" and second["JobState"] == "COMPLETED"
    assert (first["MinMemoryNode"], second["MinMemoryNode"]) == ("600M", "900M")


def test_a_job_with_gpus_goes_to_the_gpu_partition(run):
    (on_gpu,) = run.slurm.jobs_of(run.tree, "demo_world")
    assert (on_gpu["Partition"], on_gpu["TresPerJob"]) == ("gpu", "gres:gpu:1")
    assert {job["Partition"] for job in run.slurm.jobs(run.tree) if job != on_gpu} == {"cpu"}
