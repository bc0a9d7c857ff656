"""Faults in the data stage: what the user sees, and that running the same command again gives the same bytes."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from faulty_server import Server
from workshop import DATA, copied, demonstration, flip, outcome, script, snakemake, started, wait_for

SLOW = pytest.mark.slow


def assert_completes(work: Path, expected: Path, *targets: str) -> str:
    """Run the same command again and compare the files; returns what it prints."""
    result = snakemake(work, *(targets or DATA))
    assert result.returncode == 0, result.stderr
    assert outcome(work) == outcome(expected)
    assert not [path for path in work.rglob(".*.partial") if ".snakemake" not in path.parts]
    return result.stderr


def assert_no_traceback(text: str, work: Path) -> None:
    logs = "".join(path.read_text() for path in (work / "logs").rglob("*.log"))
    assert "Traceback" not in text + logs


def test_snakemake_killed_alone(empty, data_stage, tmp_path):
    """Its lock stays and its jobs go on: the next run removes the lock and waits for a job that still runs."""
    work = copied(empty, tmp_path / "work")
    with started(work, *DATA) as process:
        wait_for((work / "logs/gather_refined.log").exists)
        os.kill(script(process, "gather_refined"), signal.SIGSTOP)
        process.kill()
        process.wait()
        assert list((work / ".snakemake/locks").glob("*.lock"))
        with started(work, *DATA) as again:
            log = work / "snakemake.log"
            wait_for(lambda: "another process is still running this job" in log.read_text() or again.poll() is not None)
            os.killpg(process.pid, signal.SIGCONT)
            assert again.wait(timeout=300) == 0, log.read_text()
        # The orphan itself may fail, because its temporary inputs were made again in the meantime.
        assert "left its lock on this directory; removing it" in log.read_text()
    assert outcome(work) == outcome(data_stage)


def test_two_users_start_the_same_tree(empty, data_stage, tmp_path):
    """The second gets a clear message and does not remove the first one's lock."""
    work = copied(empty, tmp_path / "work")
    with started(work, *DATA) as process:
        os.kill(job := script(process, "demo_world"), signal.SIGSTOP)
        for _ in range(2):
            second = snakemake(work, *DATA)
            assert second.returncode != 0
            assert "Directory cannot be locked" in second.stderr and "no other Snakemake process" in second.stderr
            assert "Traceback" not in second.stderr and "removing it" not in second.stderr
        os.kill(job, signal.SIGCONT)
        assert process.wait(timeout=300) == 0
    assert outcome(work) == outcome(data_stage)


@pytest.mark.parametrize("signum", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=SLOW)])
def test_a_job_killed(empty, data_stage, tmp_path, signum):
    """As by the kernel (out of memory) or a scheduler: Snakemake names the rule and its log."""
    work = copied(empty, tmp_path / "work")
    with started(work, *DATA) as process:
        os.kill(script(process, "gather_refined"), signum)
        assert process.wait(timeout=300) != 0
    said = (work / "snakemake.log").read_text()
    assert "Error in rule gather_refined" in said and "logs/gather_refined.log" in said
    assert f"{signum.name}: {signum.value}" in said
    assert not (work / "data/refined.parquet").exists()
    assert_completes(work, data_stage)


@SLOW
def test_everything_killed(empty, data_stage, tmp_path):
    work = copied(empty, tmp_path / "work")
    with started(work, *DATA) as process:
        script(process, "split")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "left its lock" in assert_completes(work, data_stage)


def namespaced(*mounts: str) -> list[str]:
    """A prefix that runs a command with its own mounts; skips the test if the system does not allow that."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not create mounts")
    return ["unshare", "-rm", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]


def test_a_directory_that_cannot_be_written(data_stage, tmp_path):
    """The run stops with one line before any job; a dry run still works."""
    target = "data/cold/dimensions.parquet"
    work = copied(data_stage, tmp_path / "work", target)
    data = work / "data"
    inside = namespaced(f"mount --bind {data} {data}", f"mount -o remount,ro,bind {data}")
    result = snakemake(work, target, inside=inside)
    assert result.returncode != 0
    assert "data/ cannot be written to: grant this user access and run again" in result.stderr
    assert "Traceback" not in result.stderr
    assert snakemake(work, "-n", target, inside=inside).returncode == 0
    assert_completes(work, data_stage)


@SLOW
def test_a_full_disk(data_stage, tmp_path):
    work = copied(data_stage, tmp_path / "work", "data/splits", "data/cases", "data/cold")
    (work / "data/splits").mkdir()
    result = snakemake(
        work,
        "data/splits/rl.parquet",
        inside=namespaced(f"mount -t tmpfs -o size=4k tmpfs {work}/data/splits"),
    )
    assert result.returncode != 0
    said = (work / "logs/split/rl.log").read_text()
    assert "data/splits/rl.parquet: cannot be written: " in said and "No space left on device" in said
    assert "make room and run again" in said and "Traceback" not in said
    assert_completes(work, data_stage)


@pytest.mark.parametrize("damage", ["flipped", pytest.param("torn", marks=SLOW), pytest.param("empty", marks=SLOW)])
def test_a_damaged_file(data_stage, tmp_path, damage):
    """The job that reads it names it and says what to do; nothing is computed from it."""
    work = copied(data_stage, tmp_path / "work", "data/cold/dimensions.parquet")
    file = work / "data/splits/cold.parquet"
    if damage == "flipped":
        flip(file)
    else:
        os.truncate(file, file.stat().st_size // 2 if damage == "torn" else 0)
    result = snakemake(work, DATA[0])
    assert result.returncode != 0
    said = (work / "logs/dimensions.log").read_text()
    assert "data/splits/cold.parquet: cannot be read as Parquet" in said
    assert "remove it and run again" in said and "Traceback" not in said
    file.unlink()
    assert_completes(work, data_stage)


@SLOW
def test_a_file_from_the_future(data_stage, tmp_path):
    """The clock was set back, so an earlier file is dated in the future. Snakemake says so; `touch` fixes it."""
    work = copied(data_stage, tmp_path / "work", "data/splits/cold.parquet", "data/cold")
    ahead = time.time() + 7200
    os.utime(work / "data/refined.parquet", (ahead, ahead))
    result = snakemake(work, DATA[0])
    assert result.returncode != 0
    assert "older modification time" in result.stderr and "data/refined.parquet" in result.stderr
    assert "Traceback" not in result.stderr
    touch = "find data results models -newermt now -exec touch {} +"
    (work / "results").mkdir(exist_ok=True)
    (work / "models").mkdir()
    assert touch in (Path(__file__).parents[2] / "docs/faults.md").read_text()
    subprocess.run(touch, shell=True, cwd=work, check=True)
    (work / "models").rmdir()
    assert_completes(work, data_stage)


@SLOW
def test_outputs_from_the_future_are_not_made_again(data_stage, tmp_path):
    work = copied(data_stage, tmp_path / "work")
    ahead = time.time() + 7200
    for name in DATA:
        os.utime(work / name, (ahead, ahead))
    assert "Nothing to be done" in snakemake(work, "-n", *DATA).stdout
    shutil.rmtree(work / "data/cold")
    assert_completes(work, data_stage)


@SLOW
def test_a_teacher_that_dies_in_between(data_stage, tmp_path, teacher):
    """Its answers are kept, and the message names it; when it is back, only the rest is asked."""
    target = "data/cold/generations.parquet"
    quiet = copied(data_stage, tmp_path / "quiet")
    assert snakemake(quiet, target).returncode == 0
    work = copied(data_stage, tmp_path / "work")
    config = (work / "small.yaml").read_text()
    with Server(reply=demonstration, key="none") as server:
        port = server.server_port
        (work / "small.yaml").write_text(config.replace(teacher.url, server.url))

        def dying(body):
            if len(server.requests) > 25:
                raise ConnectionAbortedError
            return demonstration(body)

        server.reply = dying
        result = snakemake(work, target)
        assert result.returncode != 0
        answered = sum(path.read_bytes().count(b"finish_reason") for path in (work / "journal").iterdir())
        assert answered == 25
    said = (work / "logs/teacher.log").read_text()
    assert f"model teacher at http://127.0.0.1:{port}/v1: Connection error" in said
    assert said.count(" ERROR ") == 1 and "Traceback" not in said
    gone = snakemake(work, target)
    assert gone.returncode != 0 and "Connection error" in (work / "logs/teacher.log").read_text()
    with Server(reply=demonstration, key="none", port=port) as server:
        assert_completes(work, quiet, target)
        assert len(server.requests) == 60 - answered


@SLOW
def test_two_trees_share_a_journal(data_stage, tmp_path):
    target = "data/cold/generations.parquet"
    works = [copied(data_stage, tmp_path / name) for name in ("first", "second")]
    for work in works:
        config = (work / "small.yaml").read_text()
        assert "\njournal: journal\n" in config
        (work / "small.yaml").write_text(config.replace("\njournal: journal\n", f"\njournal: {tmp_path}/journal\n"))
    with started(works[0], target) as first, started(works[1], target) as second:
        assert (first.wait(timeout=300), second.wait(timeout=300)) == (0, 0)
    assert outcome(works[0]) == outcome(works[1])
    assert len(list((tmp_path / "journal").glob("*.jsonl"))) == 2
    again = copied(works[0], tmp_path / "third", target)
    assert snakemake(again, target).returncode == 0
    assert "60 from the journal, 0 new" in (again / "logs/teacher.log").read_text()
    assert outcome(again) == outcome(works[0])


@SLOW
def test_a_disk_that_fills_while_answers_are_kept(data_stage, tmp_path):
    """Whole records are kept, the torn one is ignored, and the rest is asked again."""
    target = "data/cold/generations.parquet"
    quiet = copied(data_stage, tmp_path / "quiet")
    config = quiet / "small.yaml"
    config.write_text(config.read_text().replace("generations: 2", "generations: 8"))
    assert snakemake(quiet, target).returncode == 0
    work = copied(quiet, tmp_path / "work", target, "journal")
    result = snakemake(work, target, inside=["prlimit", "--fsize=50000"])
    assert result.returncode != 0
    said = (work / "logs/teacher.log").read_text()
    assert "journal journal: cannot be written: File too large" in said and "Traceback" not in said
    kept = sum(path.read_bytes().count(b"}}\n") for path in (work / "journal").iterdir())
    assert 50 < kept < 240
    assert_completes(work, quiet, target)
    assert (
        f"{kept - 1} from the journal, {241 - kept} new" in (work / "logs/teacher.log").read_text()
    )  # one is the plan
