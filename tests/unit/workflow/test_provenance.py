"""Job records: what they hold, that a failed job writes none, and the differences that `verify` finds in a tree."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from alignxplore import digests, engines, records
from alignxplore.digests import digest
from alignxplore.engines import Sampling
from alignxplore.engines.journal import JOB_VARIABLE
from alignxplore.errors import UserError
from alignxplore.prompts import Prompt
from alignxplore.workflow import integrity, provenance

ROOT = Path(__file__).parents[3]


class Names(dict):
    """A list whose items also have names, like Snakemake's `input` and `output`."""

    def __getattr__(self, name):
        return self[name]

    def __iter__(self):
        return iter(self.values())

    def __getitem__(self, key):
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class Job:
    def __init__(self, rule, inputs, outputs, **params):
        self.rule, self.input, self.output, self.params = rule, Names(inputs), Names(outputs), Names(params)
        self.wildcards, self.threads, self.resources = Names(method="m"), 1, Names(gpu=2)
        self.config = {"journal": "journal"}


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """A chain of two jobs: raw.csv -> data/a.parquet, models/m (temporary) -> results/b.csv."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(JOB_VARIABLE, "")
    Path("raw.csv").write_text("x\n1\n2\n")
    for name in ("data", "models", "results"):
        Path(name).mkdir()
    provenance.recorded(first, Job("first", {"raw": "raw.csv"}, {"a": "data/a.parquet"}, seed=3), temporary=True)
    provenance.recorded(middle, Job("train", {"a": "data/a.parquet"}, {"m": "models/m"}), temporary=False)
    job = Job("last", {"a": "data/a.parquet", "m": "models/m"}, {"b": "results/b.csv", "c": "results/c.csv"})
    provenance.recorded(last, job, temporary=False)
    return tmp_path


def first(job):
    pl.read_csv(job.input.raw).write_parquet(job.output.a)


def middle(job):
    Path(job.output.m).mkdir(exist_ok=True)
    Path(job.output.m, "weights").write_text("1")
    Path(job.output.m, "README.md").write_text("a card")


def last(job):
    Path(job.output.b).write_text("b")
    Path(job.output.c).write_text("c")


def test_importing_the_job_start_is_light():
    """The Snakefile imports it in every Snakemake process, including one per job."""
    slow = {"polars", "numpy", "duckdb", "pyarrow"}
    code = f"import sys, alignxplore.workflow.job; print(sorted({slow} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_record_says_what_a_job_read_and_wrote(tree):
    record = provenance.read(provenance.sidecar("data/a.parquet"))
    assert record["inputs"] == {"raw.csv": digest("raw.csv")}
    assert record["read"] == {} and provenance.read(provenance.sidecar("results/b.csv"))["read"] == {
        "data/a.parquet": 2
    }
    assert record["outputs"] == {"data/a.parquet": {"sha256": digest("data/a.parquet"), "rows": 2}}
    assert (record["rule"], record["seed"], record["params"], record["gpus"]) == ("first", 3, {"seed": 3}, 2)
    assert record["seconds"] >= 0 and record["versions"]["polars"] == pl.__version__


def test_gather_finds_exactly_the_jobs_that_a_result_came_from(tree):
    Path("data/z").mkdir()
    stray = Job("stray", {"raw": "raw.csv"}, {"a": "data/z/other.parquet"})
    provenance.recorded(first, stray, temporary=False)
    found = provenance.gather(["results/c.csv"])
    assert found.schema == records.PROVENANCE
    assert found["output"].to_list() == ["data/a.parquet", "models/m", "results/b.csv", "results/c.csv"]
    assert json.loads(found["inputs"][3])["data/a.parquet"] == found["sha256"][0]
    assert found["rows"].to_list() == [2, None, None, None]
    with pytest.raises(UserError, match=r"results/d\.csv: no job record found"):
        provenance.gather(["results/d.csv"])


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_a_failed_job_writes_no_record(tree, error):
    def fail(job):
        Path("results/b.csv").write_text("another")
        raise error("no")

    job = Job("last", {"a": "data/a.parquet"}, {"b": "results/b.csv", "c": "results/c.csv"})
    with pytest.raises(error):
        provenance.recorded(fail, job, temporary=False)
    assert integrity.faults(tree) == ["results/b.csv: changed since rule last made it"]
    provenance.sidecar("results/b.csv").unlink()
    with pytest.raises(error):
        provenance.recorded(fail, job, temporary=False)
    assert not provenance.sidecar("results/b.csv").exists()


def test_a_killed_job_writes_no_record(tree):
    code = (
        "import os, signal; from test_provenance import Job; from alignxplore.workflow import provenance\n"
        "job = Job('last', {'a': 'data/a.parquet'}, {'b': 'results/b.csv'})\n"
        "provenance.recorded(lambda job: os.kill(os.getpid(), signal.SIGKILL), job, temporary=False)"
    )
    before = provenance.sidecar("results/b.csv").read_bytes()
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT / "scripts")])
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}).returncode == -9
    assert provenance.sidecar("results/b.csv").read_bytes() == before


def test_an_unchanged_tree_has_no_faults(tree):
    assert integrity.faults(tree) == []
    Path("data/a.parquet").unlink()  # temporary
    Path("models/m/README.md").write_text("another card")
    assert integrity.faults(tree) == []


@pytest.mark.parametrize(
    ("harm", "faults"),
    [
        (lambda: Path("results/b.csv").write_text("B"), ["results/b.csv: changed since rule last made it"]),
        (lambda: Path("results/c.csv").unlink(), ["results/c.csv: missing; rule last made it"]),
        (lambda: Path("raw.csv").write_text("x\n"), ["raw.csv: changed since data/a.parquet was made from it"]),
        (lambda: Path("raw.csv").unlink(), ["raw.csv: missing; data/a.parquet was made from it"]),
        (lambda: Path("models/m/weights").write_text("2"), ["models/m: changed since rule train made it"]),
        (
            lambda: Path("results/b.csv.provenance.json").write_text("{"),
            ["results/b.csv.provenance.json: not a valid job record"],
        ),
    ],
)
def test_every_difference_is_named(tree, harm, faults):
    harm()
    found = integrity.faults(tree)
    assert len(found) == len(faults)
    assert all(fault in line for line, fault in zip(found, faults, strict=True))


def test_results_made_from_an_earlier_input_are_named(tree):
    """One job ran again, but the jobs that read its output did not."""
    Path("raw.csv").write_text("x\n9\n")
    provenance.recorded(first, Job("first", {"raw": "raw.csv"}, {"a": "data/a.parquet"}), temporary=True)
    assert integrity.faults(tree) == [
        f"{reader}: made from another data/a.parquet than the one that rule first last made"
        for reader in ("models/m", "results/b.csv")
    ]


def test_verify_on_the_command_line(tree):
    command = [sys.executable, "-m", "alignxplore", "verify", str(tree)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
    assert (done.returncode, done.stdout) == (0, "3 jobs, 4 outputs: all match their records\n")
    Path("results/c.csv").unlink()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
    assert (done.returncode, done.stdout) == (1, "results/c.csv: missing; rule last made it\n")
    empty = subprocess.run([*command[:-1], str(tree / "models")], capture_output=True, text=True, env=environment)
    assert empty.returncode == 1 and "no job records found" in empty.stderr and "Traceback" not in empty.stderr


def test_the_account_covers_only_this_job(tree, tiny_model, monkeypatch):
    entry = {"engine": "transformers", "path": str(tiny_model), "run": {"price": {"prompt": 1e6, "completion": 0}}}
    sampling = Sampling(0.9, 0.95, 10, max_new_tokens=4, seed=1)

    def ask(*posts):
        def main(job):
            engines.load(entry, "journal").generate([Prompt(post) for post in posts], sampling)
            last(job)

        job = Job("ask", {"raw": "raw.csv"}, {"b": "results/b.csv", "c": "results/c.csv"}, model=entry)
        provenance.recorded(main, job, temporary=False)
        return provenance.read(provenance.sidecar("results/b.csv"))

    (account,) = ask("travel", "humor")["account"]
    assert (account["model"], account["asked"], account["from_journal"]) == (str(tiny_model), 2, 0)
    assert 0 < account["completion_tokens"] <= 8 and account["cost"] == account["prompt_tokens"] > 2
    record = ask("travel", "humor", "a joke")
    (second,) = record["account"]
    assert (second["asked"], second["from_journal"]) == (3, 2)
    assert 0 < second["prompt_tokens"] < account["prompt_tokens"]
    assert account["reused_tokens"] == account["reused_cost"] == account["reused_seconds"] == 0
    assert second["reused_tokens"] == account["prompt_tokens"] + account["completion_tokens"]
    assert second["reused_cost"] == account["cost"]
    assert 0 < second["reused_seconds"] <= account["seconds"] + 0.002
    assert record["models"] == [{"path": str(tiny_model), "sha256": digest(tiny_model)}]


def test_a_large_file_is_read_once_per_content(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "CACHED_SIZE", 4)
    read = []
    plain = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda path: read.append(path.name) or plain(path))
    model = tmp_path / "model"
    model.mkdir()
    (model / "a").write_text("one")
    (model / "b").write_text("two")
    first_digest = digest(model)
    assert digest(model) == first_digest and read == ["a", "b"]
    (model / "b").write_text("owt")
    assert digest(model) != first_digest and read == ["a", "b"] * 2
    (model / "b").unlink()  # below the limit: not cached
    assert digest(model) == digest(model) and read == ["a", "b", "a", "b", "a", "a"]


def test_no_value_of_the_environment_is_recorded(tree, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sesame-open")
    entry = {"engine": "openai", "path": "m", "run": {"key_env": "SOME_KEY"}}
    job = Job("last", {"raw": "raw.csv"}, {"b": "results/b.csv", "c": "results/c.csv"}, model=entry)
    provenance.recorded(last, job, temporary=False)
    assert "sesame-open" not in provenance.sidecar("results/b.csv").read_text()
