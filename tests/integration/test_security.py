"""Security: nothing unpickles or executes data, configuration values reach no shell, and keys do not leak."""

import ast
import base64
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alignxplore import records
from configs import merged, write_config
from faulty_server import Server
from served_workflow import KEY, METHODS, served_config, verdict
from trees import ROOT, copy_workflow, snakemake

UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
EXECUTING = {"eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
LOADING = {"torch.load", "torch.jit.load", "pandas.read_pickle", "pd.read_pickle", "yaml.load", "yaml.unsafe_load"}
KEYWORDS = {"trust_remote_code", "allow_pickle", "shell"}


def dangers(source: str) -> list[str]:
    """Calls and imports in a Python source that unpickle, execute data as code, or use a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in UNPICKLING]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{name.name}" for name in node.names]
            found += [name for name in names if name.split(".")[0] in UNPICKLING or name in LOADING | EXECUTING]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] * (called in LOADING | EXECUTING)
            for keyword in node.keywords:
                false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                found += [str(keyword.arg)] * (keyword.arg in KEYWORDS and not false)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, joblib as j",
        "from pickle import loads",
        "from torch import load",
        "import torch\ntorch.load(path)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "def f(trust):\n    AutoTokenizer.from_pretrained(path, trust_remote_code=trust)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "eval(text)",
    ],
)
def test_the_scan_finds(source):
    assert dangers(source)


@pytest.mark.parametrize("source", ["model.eval()", "subprocess.run(command)", "f(trust_remote_code=False)"])
def test_the_scan_accepts(source):
    assert not dangers(source)


def test_no_code_unpickles_or_executes_data():
    files = [*ROOT.glob("scripts/**/*.py"), *ROOT.glob("tests/speed/*.py")]
    assert len(files) > 80
    assert {str(path): found for path in files if (found := dangers(path.read_text()))} == {}
    words = re.compile(rf"\b({'|'.join([*UNPICKLING, 'trust_remote_code', 'eval', 'exec'])})\b")
    rules = [ROOT / "Snakefile", *ROOT.glob("rules/*.smk"), *ROOT.glob("config/**/*.yaml")]
    assert {str(path): found for path in rules if (found := words.findall(path.read_text()))} == {}


# A newline, and every character that is special to a shell, to Snakemake's formatting or to JSON.
NASTY = 'it\'s a "name"; touch EXECUTED && $(touch EXECUTED) `touch EXECUTED` | {wildcards} {{0}} \\ * > EXECUTED\n&'
DUMP = "import json, os, sys; json.dump(sys.argv[1:], open(os.environ['DUMPED'], 'w'))"


def test_values_reach_a_training_program_as_they_are(tmp_path):
    """Snakemake starts a program that dumps its arguments in place of the trainer."""
    tree, model = copy_workflow(tmp_path / "tree"), tmp_path / NASTY.replace("/", "_")
    model.mkdir()
    with Server() as server:
        config = served_config(server)
    config["models"]["backbone"]["path"] = str(model)
    config["training"]["sft"]["run_name"] = NASTY
    config["training"]["launch"] = shlex.join([sys.executable, "-c", DUMP, "--option", "a b; touch EXECUTED"])
    (tree / "data/cold").mkdir(parents=True)
    records.write(records.DEMONSTRATION.to_frame(), tree / "data/cold/d_cold.parquet", records.DEMONSTRATION)
    path, dumped = write_config(tree / "nasty.yaml", config), tmp_path / "arguments.json"
    command = ["models/trained/no_rl", "--cores", "1", "--allowed-rules", "sft", "--latency-wait", "0"]
    result = snakemake(tree, *command, "--configfile", str(path), DUMPED=str(dumped))
    assert result.returncode != 0  # nothing was trained
    assert dumped.exists(), result.stderr
    option, nasty, program, *arguments = json.loads(dumped.read_text())
    assert (option, nasty, Path(program).name) == ("--option", "a b; touch EXECUTED", "train_sft.py")
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert given["--model"] == str(model)
    assert json.loads(given["--settings"])["run_name"] == NASTY
    assert not list(tmp_path.rglob("EXECUTED"))


@pytest.mark.parametrize("table", ["judges", "methods", "benchmarks", "tables", "figures", "training.variants"])
@pytest.mark.parametrize(
    "name", ["a b", "a;b", "$(touch EXECUTED)", "{judge}", "../up", "a/b", "a\nb", "a\n", "'a'", "", "-a"]
)
def test_names_that_become_paths_are_plain(tmp_path, table, name):
    from alignxplore.errors import UserError
    from alignxplore.workflow.config_checks import check_config

    config = merged()
    entries = config
    for key in table.split("."):
        entries = entries[key]
    entries[name] = next(iter(entries.values()))
    with pytest.raises(UserError, match=re.escape(f"{table}: {name!r} does not match")):
        check_config(config, ROOT / "config/schema.yaml")


ODD = 'it\'s a "tree"; $(touch EXECUTED) & `touch EXECUTED`'
TARGETS = ("data/cold/dimensions.parquet", "data/cases/psoups_style.parquet")


@pytest.mark.parametrize("where", ["clone", "directory"])
def test_a_tree_runs_at_any_path(tmp_path, where):
    """The path of the clone or of the working directory has spaces, quotes and shell syntax."""
    tree = tmp_path / ODD
    options: list[str] = []
    if where == "clone":
        copy_workflow(tree)
    else:
        tree.mkdir()
        for name in ("config", "resources", "scripts"):
            (tree / name).symlink_to(ROOT / name)
        options = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(tree)]
    with Server() as server:
        path = write_config(tmp_path / "c.yaml", served_config(server))
    result = snakemake(tree, *TARGETS, "--cores", "2", *options, "--configfile", str(path), **{KEY: "canary"})
    assert result.returncode == 0, result.stderr
    assert all((tree / target).stat().st_size for target in TARGETS)
    assert not list(tmp_path.rglob("EXECUTED"))


def hidden(key: str) -> Iterator[bytes]:
    """The key itself, and its base64 form at each of the three alignments."""
    yield key.encode()
    for shift in range(3):
        coded = base64.b64encode(b"x" * shift + key.encode())
        yield coded[4 if shift else 0 : -4]


class Watch(threading.Thread):
    """Reads the command lines of all processes on the machine until it is stopped."""

    def __init__(self, keys: list[str]):
        super().__init__(daemon=True)
        self.keys = [key.encode() for key in keys]
        self.seen: set[bytes] = set()
        self.leaks: set[bytes] = set()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = file.read_bytes()
                except OSError:
                    continue
                self.seen.add(line)
                if any(key in line for key in self.keys):
                    self.leaks.add(line)


def test_keys_are_in_nothing_that_a_run_writes(tmp_path):
    """Jobs with a key and full logging; one is refused with an error that quotes the key."""
    tree = copy_workflow(tmp_path / "tree")
    key, other = f"sk-{secrets.token_hex(16)}", f"hf_{secrets.token_hex(16)}"
    others = dict.fromkeys(("HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"), other)
    loud = {"OPENAI_LOG": "debug", "TRANSFORMERS_VERBOSITY": "debug"}
    environment = {KEY: key, **others, **loud, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with Server(reply=verdict, key=key) as server:
        config = served_config(server)
        config["models"]["refused"] = {**config["models"]["served"], "path": "refused"}
        config["models"]["refused"]["run"] = {**config["models"]["served"]["run"], "retries": 0}
        config["methods"]["refused"] = {"label": "Refused", "kind": "model", "model": "refused", "reasoning": False}
        config["methods"]["refused"]["benchmarks"] = ["psoups_style"]
        path = write_config(tree / "config/served.yaml", config)
        targets = [f"results/judgements/judge/{method}.parquet" for method in METHODS]
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", str(path)]
        options = {"cwd": tree, "env": {**os.environ, **environment}, "capture_output": True, "text": True}
        loudly = ["--keep-going", "--verbose", "--printshellcmds", "--show-failed-logs"]
        all_targets = [*targets, "results/preferences/refused.parquet"]
        watch = Watch([key, other])
        watch.start()
        result = subprocess.run([*command, *loudly, "--", *all_targets], **options)
        watch.over.set()
        watch.join()
    report = subprocess.run([*command, "--report", "report.html", "--", *targets], **options)
    assert all((tree / target).exists() for target in targets), result.stderr
    assert result.returncode != 0 and "refused" in (tree / "logs/preferences/refused.log").read_text()
    assert len(server.requests) > 20
    assert any(b"snakemake" in line and str(path).encode() in line for line in watch.seen)
    assert not watch.leaks
    written = {str(file): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert any("/.snakemake/metadata/" in name for name in written) and any("/journal/" in name for name in written)
    written["output"] = (result.stdout + result.stderr + report.stdout + report.stderr).encode()
    for needle in [*hidden(key), *hidden(other)]:
        assert [name for name, content in written.items() if needle in content] == []
