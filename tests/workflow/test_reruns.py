"""A change of a key or a file reruns exactly the jobs that reruns.yaml lists, on a finished tree."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
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
LAST = {"all", "provenance", "report"}  # depend on every result
STARTER = "alignxplore.workflow.job"


def found_files() -> set[str]:
    """SQL queries, and resources other than the report's pages and assets."""
    queries = [path.relative_to(ROOT / "scripts") for path in (ROOT / "scripts").rglob("*.sql")]
    resources = [path.relative_to(ROOT / "resources") for path in (ROOT / "resources").rglob("*") if path.is_file()]
    return {str(path) for path in [*queries, *resources] if not str(path).startswith(SITE)}


def place(file: str) -> str:
    return next(str(Path(top, file)) for top in ("scripts", "resources") if (ROOT / top / file).is_file())


def changed(config: dict, changes: dict) -> dict:
    """The configuration with other values at these keys; None removes a key."""
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
    assert sum(len(group["changes"]) for group in TABLE["keys"]) == len(KEYS), "duplicate key"
    assert sum(len(group["files"]) for group in TABLE["files"]) == len(FILES), "duplicate file"


@pytest.fixture(scope="module")
def config() -> dict:
    return changed(merged(), TABLE["additions"])


@pytest.fixture(scope="module")
def trees(tmp_path_factory, config) -> list[Path]:
    """Copies of a finished tree: outputs that contain their names, and Snakemake's records of their jobs."""
    tree = tmp_path_factory.mktemp("reruns") / "0"
    tree.mkdir()
    for name in ("Snakefile", "rules", "scripts", "config", "envs", "resources", "profiles"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, tree / name)
    shutil.copy2(ROOT / "resources/paper_tables.csv", tree / "resources/other_tables.csv")
    (tree / "tuned").mkdir()
    for name in ("small.gguf", "other.gguf", "given.json", "other.json", "tuned/adapter_config.json"):
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


def named(jobs: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """The jobs whose names begin with one of these patterns, such as `judgements judge2`."""
    return {job for job in jobs for pattern in patterns if f"{job} ".startswith(f"{pattern} ")}


def rerun(group: dict, users: dict[str, list[str]]) -> set[str]:
    """The jobs that a group lists, and all that use their outputs."""
    found, queue = set(), sorted(named(users, group["reruns"]) - named(users, group.get("except", ())))
    while queue:
        if (job := queue.pop()) not in found:
            found.add(job)
            queue += users[job]
    return found


def difference(reply: dict, group: dict) -> str:
    """Jobs that are planned unexpectedly, and expected jobs that are not planned; empty if the plan is right."""
    if "error" in reply:
        return reply["error"]
    if idle := [pattern for pattern in group["reruns"] if not named(reply["users"], [pattern])]:
        return f"no job is named {idle}"
    expected = rerun(group, reply["users"])
    more, less = set(reply["reasons"]) - expected, expected - set(reply["reasons"])
    because = [f"{job} ({reply['reasons'][job][:160]})" for job in sorted(more)]
    return "; ".join(
        filter(None, [more and f"more: {', '.join(because)}", less and f"less: {', '.join(sorted(less))}"])
    )


@pytest.fixture(scope="module")
def unchanged(trees, config) -> dict:
    """The planner's answer for the finished tree without a change."""
    (reply,) = ask(trees[:1], [{"config": config}])
    return reply


def listed(wrong: dict[str, str]) -> str:
    return "\n".join(f"{subject}: {found}" for subject, found in wrong.items())


def changes(key: str) -> dict:
    """The changes of the configuration that the table has for a key."""
    _, value = KEYS[key]
    several = isinstance(value, dict) and all("." in path for path in value)
    return value if several else {key: value}


def batches(keys: list[str], users: dict[str, list[str]]) -> list[list[str]]:
    """Batches of keys that one plan can check: apart from LAST, no job reruns for two keys of a batch.

    A key is alone if its group has exceptions, reruns nothing, or names jobs that only its change makes.
    """
    found: list[tuple[set[str], list[str]]] = []
    for key in keys:
        group, _ = KEYS[key]
        alone = "except" in group or not all(named(users, [pattern]) for pattern in group["reruns"])
        jobs = set() if alone else rerun(group, users) - LAST
        for others, batch in found:
            if jobs and others and not others & jobs:
                others |= jobs
                batch.append(key)
                break
        else:
            found.append((jobs, [key]))
    return [batch for _, batch in found]


def plans(trees, config, keys: list[list[str]], files: list[str]) -> dict[str, str]:
    """The wrong plans, after the changes of each batch of keys and after a change of each file."""
    requests = []
    for batch in keys:
        requests.append({"config": changed(config, {path: v for key in batch for path, v in changes(key).items()})})
    requests += [{"file": place(file)} for file in files]
    groups = []
    for batch in keys:
        (first, _), *others = (KEYS[key] for key in batch)
        groups.append({**first, "reruns": [*first["reruns"], *(job for group, _ in others for job in group["reruns"])]})
    groups += [FILES[file] for file in files]
    replies = zip([*map(", ".join, keys), *files], ask(trees, requests), groups, strict=True)
    return {subject: found for subject, reply, group in replies if (found := difference(reply, group))}


def test_a_change_of_each_group_reruns_what_the_table_says(trees, config, unchanged):
    keys = batches([next(iter(group["changes"])) for group in TABLE["keys"]], unchanged["users"])
    wrong = plans(trees, config, keys, ["sql/refine.sql", "prompts/respond.jinja"])
    assert not wrong, listed(wrong)


def test_a_replaced_gguf_file_is_read_again(trees):
    (reply,) = ask(trees[:1], [{"file": "small.gguf"}])
    assert not (wrong := difference(reply, {"reruns": ["gguf_model"]})), wrong


@pytest.mark.slow
def test_each_key_reruns_what_the_table_says(trees, config):
    wrong = plans(trees, config, [[key] for key in KEYS], [])
    assert not wrong, listed(wrong)


def test_files_are_inputs_of_what_the_table_says(unchanged):
    """Derives each file's plan from the inputs in the unchanged plan, since a changed input is a reason to run."""
    assert unchanged["reasons"] == {}, "the finished tree has jobs to run"
    wrong = {}
    for file, group in FILES.items():
        users = [job for job, inputs in unchanged["inputs"].items() if place(file) in inputs]
        planned, queue = {}, users
        while queue:
            if (job := queue.pop()) not in planned:
                planned[job] = "input"
                queue += unchanged["users"][job]
                # Its temporary inputs are made again.
                queue += [maker for maker in unchanged["temporary"] if job in unchanged["users"][maker]]
        if found := difference({**unchanged, "reasons": planned}, group):
            wrong[file] = found
    assert not wrong, listed(wrong)


def imported(scripts: tuple[str, ...], backends: tuple[str, ...]) -> set[str]:
    """Library files that scripts and backends import, as modulefinder finds them."""
    finder = ModuleFinder(path=[str(ROOT / "scripts")], excludes=[STARTER])
    for script in scripts:
        finder.run_script(str(ROOT / "scripts" / script))
    for backend in backends:
        finder.import_hook(backend)
    files = [module.__file__ for name, module in finder.modules.items() if name.split(".")[0] == "alignxplore"]
    return {str(Path(file).relative_to(ROOT)) for file in files}


def test_a_module_is_an_input_of_the_rules_whose_scripts_import_it(unchanged):
    names = {file: file.removesuffix(".py").replace("/", ".") for file in TABLE["backends"]}
    found: dict[tuple, set[str]] = {}
    checked = 0
    for job, inputs in unchanged["inputs"].items():
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
