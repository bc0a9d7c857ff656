"""A single-node Slurm for tests, from Debian's packages, without systemd, cgroups or a database."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

PACKAGES = "slurmctld slurmd slurm-client munge"
PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
# srun reads its configuration here, inside jobs too.
ETC = Path("/etc/slurm")
CONFIG = """\
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={work}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={work}/state
SlurmdSpoolDir={work}/spool
SlurmctldPidFile={work}/slurmctld.pid
SlurmdPidFile={work}/slurmd.pid
SlurmctldLogFile={work}/slurmctld.log
SlurmdLogFile={work}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
# Kill steps that exceed their memory, as cgroups do on a real cluster.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
# Keep finished jobs, so that the tests can query them.
MinJobAge=100000
KillWait=30
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:2
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE
PartitionName=gpu Nodes={host} MaxTime=INFINITE
"""
# Two device files that every machine has play the GPUs: Slurm counts and allocates them, and nothing opens them.
GPUS = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"


def why_not() -> str | None:
    """Why Slurm cannot run on this machine; None if it can."""
    missing = [name for name in PROGRAMS if not _which(name)]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)} missing): apt-get install {PACKAGES}"
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return "Snakemake's executor for Slurm is not installed: pip install -r envs/requirements/slurm.txt"
    if os.geteuid() != 0:
        return "the tests start Slurm's daemons and write to /etc/slurm: run them as root, where that is safe"
    if any((ETC / name).exists() for name in ("slurm.conf", "gres.conf")):
        return "/etc/slurm already has a configuration, which the tests must not touch"
    return None


@contextmanager
def one_node(work: Path):
    """Run munged, slurmctld and slurmd with their files in `work`; yield when the node is idle, and clean up after."""
    for name in ("state", "spool"):
        (work / name).mkdir(parents=True)
    text = CONFIG.format(
        host=socket.gethostname(),
        ctld_port=_free_port(),
        slurmd_port=_free_port(),
        work=work,
        cpus=os.cpu_count(),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
    )
    daemons: list[subprocess.Popen] = []
    files = {ETC / "slurm.conf": text, ETC / "gres.conf": GPUS}
    try:
        for path, content in files.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        run("mungekey", "--create", f"--keyfile={work}/munge.key")
        daemons.append(
            _start(
                work,
                "munged",
                "--foreground",
                "--force",
                f"--socket={work}/munge.socket",
                f"--key-file={work}/munge.key",
                f"--pid-file={work}/munged.pid",
                f"--log-file={work}/munged.log",
                f"--seed-file={work}/munged.seed",
            )
        )
        _wait_for((work / "munge.socket").exists, "munged", work)
        daemons.append(_start(work, "slurmctld", "-D"))
        daemons.append(_start(work, "slurmd", "-D"))
        _wait_for(lambda: "idle" in run("sinfo", "--noheader", "--format=%t", check=False), "slurmd", work)
        yield
    finally:
        if len(daemons) == 3:
            run("scancel", "--user=root", check=False)
            _wait_for(lambda: not run("squeue", "--noheader", check=False), None, work, seconds=45)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
        for path in files:
            path.unlink(missing_ok=True)


def run(*command: str, check: bool = True) -> str:
    """The output of one of Slurm's programs, which may take up to ten seconds."""
    full = ["timeout", "-k", "2", "10", _which(command[0]) or command[0], *command[1:]]
    return subprocess.run(full, capture_output=True, text=True, check=check).stdout.strip()


def jobs(tree: Path) -> list[dict[str, str]]:
    """Slurm's jobs from this tree, oldest first, as scontrol's fields; each task of an array counts as a job."""
    lines = run("scontrol", "show", "jobs", "--oneliner").splitlines()
    found = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
    return sorted((job for job in found if job.get("WorkDir") == str(tree)), key=lambda job: int(job["JobId"]))


def jobs_of(tree: Path, rule: str) -> list[dict[str, str]]:
    """The jobs of a rule; `rule` may go on with values of wildcards."""
    return [job for job in jobs(tree) if re.fullmatch(rf"rule_{rule}(_wildcards_.*)?", job.get("Comment", ""))]


def jobs_of_group(tree: Path, group: str) -> list[dict[str, str]]:
    return [job for job in jobs(tree) if f"/group_{group}" in job.get("StdOut", "")]


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _start(work: Path, name: str, *arguments: str) -> subprocess.Popen:
    with (work / f"{name}.out").open("w") as out:
        return subprocess.Popen([_which(name), *arguments], stdout=out, stderr=out, start_new_session=True)


def _wait_for(condition, what: str | None, work: Path, seconds: int = 30) -> None:
    """Wait until `condition` holds. After `seconds`, raise an error that names `what`, or return if `what` is None."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.2)
    if what:
        logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in work.glob(f"{what}.*"))
        raise RuntimeError(f"{what} did not come up in {seconds} s\n{logs}")
