"""What reruns when a key or a file changes, on a finished tree: what reruns.yaml says, neither more nor less."""

import copy
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from modulefinder import ModuleFinder
from pathlib import Path

import pytest
import yaml
from configs import merged, write_config
from schema_leaves import leaves

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TABLE = yaml.safe_load((HERE / "reruns.yaml").read_text(encoding="utf-8"))
KEYS = {key: (group, value) for group in TABLE["keys"] for key, value in group["changes"].items()}
FILES = {file: group for group in TABLE["files"] for file in group["files"]}
WORKERS = 2
SITE = ("report/assets/", "report/pages/")
STARTER = "alignxplore.workflow.job"


def found_files() -> set[str]:
    """Queries, and resources other than the report's own pages and assets."""
    queries = [path.relative_to(ROOT / "scripts") for path in (ROOT / "scripts").rglob("*.sql")]
    resources = [path.relative_to(ROOT / "resources") for path in (ROOT / "resources").rglob("*") if path.is_file()]
    return {str(path) for path in [*queries, *resources] if not str(path).startswith(SITE)}


def place(file: str) -> str:
    return next(str(Path(top, file)) for top in ("scripts", "resources") if (ROOT / top / file).is_file())


def changed(config: dict, changes: dict) -> dict:
    """The configuration with other values at these keys; None takes a key away."""
    config = copy.deepcopy(config)
    for path, value in changes.items():
        *parents, last = path.split(".")
        at = config
        for parent in parents:
            at = at[int(parent)] if isinstance(at, list) else at.setdefault(parent, {})
        if value is None:
            del at[last]
        else:
            at[int(last) if isinstance(at, list) else last] = value
    return config


def test_every_key_and_every_file_has_a_line():
    schema = yaml.safe_load((ROOT / "config/schema.yaml").read_text(encoding="utf-8"))
    assert set(leaves(schema)) == set(KEYS)
    assert found_files() == set(FILES)
    assert sum(len(group["changes"]) for group in TABLE["keys"]) == len(KEYS), "a key is there twice"
    assert sum(len(group["files"]) for group in TABLE["files"]) == len(FILES), "a file is there twice"


@pytest.fixture(scope="module")
def config() -> dict:
    return changed(merged(), TABLE["additions"])


@pytest.fixture(scope="module")
def trees(tmp_path_factory, config) -> list[Path]:
    """Copies of a finished tree: outputs that say their names, and what Snakemake records of jobs that made them."""
    tree = tmp_path_factory.mktemp("reruns") / "0"
    tree.mkdir()
    for name in ("Snakefile", "rules", "scripts", "config", "envs", "resources", "profiles"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, tree / name)
    shutil.copy2(ROOT / "resources/paper_tables.csv", tree / "resources/other_tables.csv")
    for name in ("small.gguf", "other.gguf"):
        (tree / name).write_text(name)
    write_config(tree / "base.yaml", config)
    plan = [sys.executable, "scripts/plan_jobs.py", "--configfile", "base.yaml"]
    for job in json.loads(run(tree, *plan))["jobs"]:
        for output in set(job["output"]) - set(job["temporary"]):
            path = tree / output
            if path.suffix:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(output)
            else:
                path.mkdir(parents=True)
    run(tree, sys.executable, "-m", "snakemake", "--touch", "--forceall", "--cores", "1", "--configfile", "base.yaml")
    copies = [tree, *(tree.with_name(str(number)) for number in range(1, WORKERS))]
    for path in copies[1:]:
        shutil.copytree(tree, path)
    return copies


def run(tree: Path, *command: str, **options) -> str:
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(trees: list[Path], requests: list[dict]) -> list[dict]:
    """The planner's answers, from as many processes as there are trees."""

    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests/support")}

    def answers(number: int) -> list[dict]:
        lines = "".join(json.dumps(request) + "\n" for request in requests[number :: len(trees)])
        return [
            json.loads(line)
            for line in run(
                trees[number], sys.executable, HERE / "planner.py", input=lines, env=environment
            ).splitlines()
        ]

    with ThreadPoolExecutor(len(trees)) as pool:
        parts = list(pool.map(answers, range(len(trees))))
    return [parts[number % len(trees)][number // len(trees)] for number in range(len(requests))]


def difference(reply: dict, group: dict) -> str:
    """What is planned and should not be, and the other way round; empty where all is well."""
    if "error" in reply:
        return reply["error"]

    def named(patterns):
        return {job for job in reply["users"] for pattern in patterns if f"{job} ".startswith(f"{pattern} ")}

    if idle := [pattern for pattern in group["reruns"] if not named([pattern])]:
        return f"no job is named {idle}"
    expected, queue = set(), sorted(named(group["reruns"]) - named(group.get("except", ())))
    while queue:
        if (job := queue.pop()) not in expected:
            expected.add(job)
            queue += reply["users"][job]
    more, less = set(reply["reasons"]) - expected, expected - set(reply["reasons"])
    because = [f"{job} ({reply['reasons'][job][:160]})" for job in sorted(more)]
    return "; ".join(
        filter(None, [more and f"more: {', '.join(because)}", less and f"less: {', '.join(sorted(less))}"])
    )


def listed(wrong: dict[str, str]) -> str:
    return "\n".join(f"{subject}: {found}" for subject, found in wrong.items())


def plans(trees, config, keys, files) -> dict[str, str]:
    """What is wrong with the plans after a change of each key and file."""
    requests = []
    for key in keys:
        _, value = KEYS[key]
        several = isinstance(value, dict) and all("." in path for path in value)
        requests.append({"config": changed(config, value if several else {key: value})})
    requests += [{"file": place(file)} for file in files]
    groups = [KEYS[key][0] for key in keys] + [FILES[file] for file in files]
    replies = zip([*keys, *files], ask(trees, requests), groups, strict=True)
    return {subject: found for subject, reply, group in replies if (found := difference(reply, group))}


def test_a_change_of_each_group_reruns_what_the_table_says(trees, config):
    keys = [next(iter(group["changes"])) for group in TABLE["keys"]]
    wrong = plans(trees, config, keys, ["sql/refine.sql", "prompts/respond.jinja"])
    assert not wrong, listed(wrong)


def test_a_replaced_gguf_file_is_read_again(trees):
    (reply,) = ask(trees[:1], [{"file": "small.gguf"}])
    assert not (wrong := difference(reply, {"reruns": ["gguf_model"]})), wrong


@pytest.mark.slow
def test_each_key_reruns_what_the_table_says(trees, config):
    wrong = plans(trees, config, list(KEYS), [])
    assert not wrong, listed(wrong)


def test_files_are_inputs_of_what_the_table_says(trees, config):
    """A changed input is a reason to run: what is planned after a change of each file, from the plan of none."""
    (reply,) = ask(trees[:1], [{"config": config}])
    assert reply["reasons"] == {}, "the finished tree is not finished"
    wrong = {}
    for file, group in FILES.items():
        users = [job for job, inputs in reply["inputs"].items() if place(file) in inputs]
        planned, queue = {}, users
        while queue:
            if (job := queue.pop()) not in planned:
                planned[job] = "input"
                queue += reply["users"][job]
                # What was temporary is made again for it.
                queue += [maker for maker in reply["temporary"] if job in reply["users"][maker]]
        if found := difference({**reply, "reasons": planned}, group):
            wrong[file] = found
    assert not wrong, listed(wrong)


def imported(scripts: tuple[str, ...], backends: tuple[str, ...]) -> set[str]:
    """Files of the library that scripts and backends import, by Python's own analysis of their code."""
    finder = ModuleFinder(path=[str(ROOT / "scripts")], excludes=[STARTER])
    for script in scripts:
        finder.run_script(str(ROOT / "scripts" / script))
    for backend in backends:
        finder.import_hook(backend)
    files = [module.__file__ for name, module in finder.modules.items() if name.split(".")[0] == "alignxplore"]
    return {str(Path(file).relative_to(ROOT)) for file in files}


def test_a_module_is_an_input_of_the_rules_whose_scripts_import_it(trees, config):
    (reply,) = ask(trees[:1], [{"config": config}])
    names = {file: file.removesuffix(".py").replace("/", ".") for file in TABLE["backends"]}
    found: dict[tuple, set[str]] = {}
    checked = 0
    for job, inputs in reply["inputs"].items():
        rule = job.split()[0]
        scripts = {"sft": ("sft.py", "train_sft.py"), "grpo": ("grpo.py", "train_grpo.py")}.get(rule, (f"{rule}.py",))
        if not (ROOT / "scripts" / scripts[0]).exists():
            continue  # `all`, which runs nothing
        uses = [file for file, jobs in TABLE["backends"].items() if any(f"{job} ".startswith(f"{j} ") for j in jobs)]
        key = (scripts, tuple(names[file] for file in uses[:1]))
        if key not in found:
            found[key] = imported(*key)
        library = {file for file in inputs if file.startswith("scripts/alignxplore/")}
        assert library == found[key], f"{job}: {sorted(library ^ found[key])}"
        assert {f"scripts/{script}" for script in scripts} <= set(inputs), job
        checked += 1
    assert checked > 90


def test_files_that_are_touched_or_written_again_the_same_rerun_nothing(trees, config):
    (tree, *_) = trees
    inputs = [place(file) for file in FILES] + [str(p.relative_to(ROOT)) for p in (ROOT / "scripts").rglob("*.py")]
    outputs = [str(path.relative_to(tree)) for top in ("data", "models", "results") for path in (tree / top).rglob("*")]
    made = [file for file in outputs if (tree / file).is_file()]
    assert len(made) > 90
    (reply,) = ask([tree], [{"config": config, "touched": [*inputs, *made]}])
    assert reply["reasons"] == {}


def test_a_tree_that_is_moved_reruns_nothing(trees, config):
    moved = shutil.move(trees.pop(), trees[0].with_name("elsewhere"))
    (reply,) = ask([moved], [{"config": config}])
    assert reply["reasons"] == {}
    assert os.listdir(moved)
