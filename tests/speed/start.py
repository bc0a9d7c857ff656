"""CPU seconds until jobs and commands ask their first prompt, and in all: `python tests/speed/start.py TREE`.

TREE is the directory of a finished default run, of which nothing is changed. A row is the median over processes with
one thread, user and system time together:

- judgements: the job that judges the golden descriptions, with Snakemake's preamble and an empty journal;
- infer, judge: commands, with the texts below and the demo's judge;
- snakemake -n: plans of the finished run and of the paper's configuration;
- imports without which there is no model: the least that the first three could take.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--quiet", "all"]
GOLDEN = "results/judgements/judge/golden.parquet"
SIGNALS = [{"prompt": "Any advice?", "chosen": "Start from a hike.", "rejected": "Better stay outgoing."}]
TIMED = """
import runpy, sys, time
from alignxplore import engines

start = engines.start


def timed_start(entry):
    backend = start(entry)
    with open({report!r}, "w") as file:
        file.write(str(time.process_time()))
    return backend


engines.start = timed_start
sys.argv = {arguments!r}
runpy.{run}(sys.argv[0], run_name="__main__")
"""
"""Starts a script or module, and writes down when its model is ready for the first prompt."""


def cpu_seconds(command: list, directory: Path) -> float:
    """User and system time of a command that succeeds, with its child processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[-1]} failed:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def asking(run: str, arguments: list[str], directory: Path) -> tuple[float, float]:
    """CPU seconds to the first prompt and in all."""
    report = directory / "first"
    shutil.rmtree(directory / "journal", ignore_errors=True)
    program = TIMED.format(report=str(report), arguments=arguments, run=run)
    total = cpu_seconds([sys.executable, "-c", program], directory)
    return float(report.read_text()), total


def job_script(tree: Path, directory: Path) -> str:
    """The judgements job's script with Snakemake's preamble, in a directory with links to its inputs in the tree."""
    for name in ("data", "models", "results/preferences"):
        link = directory / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(tree.absolute() / name)
    options = ["--cores", 1, "--allowed-rules", "judgements", "--skip-script-cleanup", "--forcerun", "judgements"]
    cpu_seconds([*SNAKEMAKE, "--directory", directory, GOLDEN, *map(str, options)], directory)
    (script,) = directory.glob(".snakemake/scripts/*.judgements.py")
    return str(script)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path, help="directory of a finished default run")
    parser.add_argument("--runs", type=int, default=5, help="default: %(default)s")
    arguments = parser.parse_args()
    tree = arguments.tree.absolute()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        (directory / "signals.json").write_text(json.dumps(SIGNALS))
        script = job_script(tree, directory)
        model = ["--model", str(tree / "models/demo/judge")]
        texts = ["This person: outdoorsy.", *SIGNALS[0].values()]
        infer = ["alignxplore", "infer", *model, "--concise", "--temperature", "0", "--max-new-tokens", "1"]
        asked = {
            "judgements": ("run_path", [script]),
            "infer": ("run_module", [*infer, "signals.json"]),
            "judge": ("run_module", ["alignxplore", "judge", *model, *texts]),
        }
        others = {
            "snakemake -n": [*SNAKEMAKE, "--directory", tree, "-n"],
            "snakemake -n, paper.yaml": [
                *SNAKEMAKE, "--directory", tree, "-n", "--configfile", ROOT / "config/paper.yaml",
            ],
            "import torch": [sys.executable, "-c", "import torch"],
            "import torch, a transformers model": [sys.executable, "-c", "from transformers import Qwen2ForCausalLM"],
        }  # fmt: skip
        firsts: dict[str, list[float]] = {name: [] for name in asked}
        totals: dict[str, list[float]] = {name: [] for name in [*asked, *others]}
        for _ in range(arguments.runs):  # in turns, so that a busy moment falls on all
            for name, (run, command) in asked.items():
                first, total = asking(run, command, directory)
                firsts[name].append(first)
                totals[name].append(total)
            for name, command in others.items():
                totals[name].append(cpu_seconds(command, directory))
    print(f"| CPU seconds, median of {arguments.runs} | to the first prompt | in all |\n| --- | --- | --- |")
    for name, seconds in totals.items():
        first = f"{statistics.median(firsts[name]):.2f}" if name in firsts else ""
        print(f"| {name} | {first} | {statistics.median(seconds):.2f} |")


if __name__ == "__main__":
    main()
