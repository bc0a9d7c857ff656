"""A small run from raw records to a table, and helpers to disturb it.

The data stage, training, inference, judging and tables are the default's, only smaller. The models are a random one
with two layers and a served teacher with rule-based answers, so that no scale model has to be trained first.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from configs import merged, write_config
from faulty_server import answer

ROOT = Path(__file__).parents[2]
TABLE = "results/table2.csv"
DATA = ("data/cold/dimensions.parquet", "data/cases/alignx_test.parquet", "data/splits/rl.parquet")
VOLATILE = (".tsv", ".log", ".provenance.json")
"""Suffixes of files that contain times."""
WORDS = ("humor", "travel", "a joke", "a passport", "a quick answer", "a post")
SPOKEN = "Infer preferences. Post: likes, dislikes. Response A Response B " + ", ".join(WORDS)
"""The vocabulary of the model and its teacher."""
PREFERENCE_PROMPT = "Infer preferences. Post: {{ pairs[0].prompt | user }}\n"
"""Short, so that a model of two layers learns the format of an answer in seconds."""


def demonstration(body: dict) -> dict:
    """The teacher's reply: a well-formed description that depends on the prompt and the seed."""
    reply = answer(body)
    digest = hashlib.sha256(reply["choices"][0]["message"]["content"].encode()).digest()
    likes, dislikes = (WORDS[byte % len(WORDS)] for byte in digest[:2])
    text = f"<think>\nlikes {likes}\n</think>\n<answer>\nlikes {likes}, dislikes {dislikes}.\n</answer>"
    reply["choices"][0]["message"]["content"] = text
    return reply


def small_config(url: str) -> dict[str, Any]:
    """The default configuration, cut down to one table of two methods; `url` is the teacher's address."""
    config = merged()
    config["prompts"]["preference"] = "preference.jinja"
    config["demo"] |= {
        "population": {"pairs": 150, "ugc": 40, "sparse": 8, "inconsistent": 8, "broken": 2},
        "psoups_cases": 6,
        "models": {},
    }
    sizes = {"cold": (30, 40), "rl": (24, 30), "test": (16, 20), "test_ugc": (8, 12)}
    config["data"]["splits"] = {name: {"size": size, "share": share} for name, (size, share) in sizes.items()}
    config["data"]["balance"] = 0.4
    config["benchmarks"] = {"alignx_test": config["benchmarks"]["alignx_test"]}
    config["models"] = {
        "tiny": {"engine": "transformers", "path": "./tiny", "run": {"batch_tokens": 4096}},
        "teacher": {
            "engine": "openai",
            "path": "teacher",
            "base_url": url,
            "revision": "by rule",
            "run": {"retries": 1},
        },
        "no_rl": {"engine": "transformers", "path": "models/trained/no_rl"},
        "alignxplore": {"engine": "transformers", "path": "models/trained/alignxplore", "run": {"batch_tokens": 100}},
    }
    sampling = {"temperature": 0.9, "top_p": 0.95, "top_k": 10, "max_new_tokens": 40}
    config["cold_start"] = {"teacher": "teacher", "judge": "judge", "generations": 2, "sampling": sampling}
    config["evaluation"] = sampling
    config["judges"] = {"judge": {"kind": "jud", "model": "tiny"}}
    training = config["training"]
    training["variants"] = {
        "no_rl": {"stage": "sft", "from": "tiny"},
        "alignxplore": {"stage": "grpo", "from": "no_rl", "judge": "judge"},
    }
    training["sft"] |= {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 6,
        "learning_rate": 0.005,
    }
    training["run"] = {"save_steps": 2}
    training["grpo"] |= {
        "max_steps": 6, "per_device_train_batch_size": 12, "num_generations": 4, "max_completion_length": 40,
        "learning_rate": 0.001, "warmup_steps": 1,
    }  # fmt: skip
    config["methods"] = {name: config["methods"][name] | {"tables": ["table2"]} for name in ("golden", "alignxplore")}
    del config["online"], config["vpl"], config["case_study"]
    table = config["tables"]["table2"]
    config["tables"] = {"table2": table | {"columns": {"alignx_test": table["columns"]["alignx_test"]}}}
    config["figures"] = {}
    config["resamples"] = 200
    return config


def prepare(work: Path, model: Path, url: str) -> Path:
    """Make `work` the directory of a run that has not started."""
    work.mkdir()
    (work / "tiny").symlink_to(model)
    for name in ("config", "resources", "scripts"):
        (work / name).symlink_to(ROOT / name)
    (work / "preference.jinja").write_text(PREFERENCE_PROMPT)
    write_config(work / "small.yaml", small_config(url))
    return work


def snakemake(work: Path, *arguments: str, inside: Sequence[str] = ()) -> subprocess.CompletedProcess:
    """Run Snakemake in the directory `work`; `inside` is a command to run it with."""
    command = [*inside, *_command(work, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


@contextmanager
def started(work: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """Start Snakemake in the directory `work`, in a new process group that is killed at the end of the context."""
    with (work / "snakemake.log").open("w") as log:
        process = subprocess.Popen(
            _command(work, arguments), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _command(work: Path, arguments: Sequence[str]) -> list[str]:
    where = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(work), "--configfile", str(work / "small.yaml")]
    return [sys.executable, "-m", "snakemake", *arguments, "--cores", "2", *where]


def copied(work: Path, target: Path, *without: str) -> Path:
    """Copy the directory of a run, with modification times, leaving out what matches the patterns `without`."""
    shutil.copytree(work, target, symlinks=True)
    for pattern in without:
        for path in target.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return target


def outcome(work: Path, *under: str) -> dict[str, str]:
    """Digests of the files of a run by name: of data, results and models, or of the paths `under`."""
    files = (file for name in under or ("data", "results", "models") for file in sorted((work / name).rglob("*")))
    return {
        str(file.relative_to(work)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file() and not file.name.endswith(VOLATILE)
    }


def processes(group: int, *words: str) -> list[int]:
    """Ids of the processes in a group whose command line contains all of the words, newest last."""
    found = []
    for entry in filter(lambda path: path.name.isdigit(), Path("/proc").iterdir()):
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if os.getpgid(int(entry.name)) == group and all(word in command for word in words):
                found.append(int(entry.name))
    return sorted(found)


def wait_for(condition: Callable[[], Any], seconds: float = 300.0) -> Any:
    """Wait until `condition` returns a true value, and return it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.005)
    return value


def script(process: subprocess.Popen, name: str) -> int:
    """Wait until a Snakemake process runs a rule's script in Python, and return the id of that process."""
    return wait_for(lambda: processes(process.pid, "python", f".{name}.py"))[-1]


def flip(path: Path, place: float = 0.2) -> None:
    """Flip one bit of a file at the relative position `place`, from 0 to 1."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)
