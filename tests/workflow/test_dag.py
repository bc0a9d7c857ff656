"""The DAG itself: what it plans, what a bad configuration says, what a change reruns."""

import json
import re
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from importlib.metadata import version
from pathlib import Path

import pytest
from alignxplore.workflow.config import table_methods
from configs import merged, write_config
from trees import copy_workflow, snakemake

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the workflow without the output of any run."""
    return copy_workflow(tmp_path_factory.mktemp("tree"))


def configured(tree: Path, name: str, change) -> Path:
    config = merged()
    change(config)
    return write_config(tree / f"{name}.yaml", config)


def planned(output: str) -> dict[str, int]:
    lines = output.split("Job stats:")[1].split("total")[0].splitlines()[3:]
    return {name: int(count) for name, count in (line.split() for line in lines if line.strip())}


def test_default_plan(tree):
    result = snakemake(tree, "-n")
    assert result.returncode == 0, result.stderr
    config = merged()
    jobs = planned(result.stdout + result.stderr)
    described = sum(count for name, count in jobs.items() if name.startswith("preferences_"))
    assert (described, jobs["vpl"], jobs["provenance"]) == (len(config["methods"]) - 1, 1, 1)
    wanted = {
        (judge, method)
        for table, entry in config["tables"].items()
        for judge in [*entry.get("judges", ()), *(column["judge"] for column in entry.get("columns", {}).values())]
        for method in table_methods(config, table)
    }
    own = {(judge, method) for judge, method in wanted if config["methods"][method]["kind"] == "vpl"}
    assert own == {("judge", "vpl")}
    assert (jobs["judgements"], jobs["vpl_judgements"]) == (len(wanted - own), len(own))
    tables = sum(count for name, count in jobs.items() if name.startswith("table_"))
    assert (tables, jobs["case_study"], jobs["report"]) == (len(config["tables"]), 1, 1)
    assert jobs["demo_model"] == len(config["demo"]["models"])


def test_the_papers_experiment_plans_whole(tree):
    result = snakemake(tree, "-n", "--configfile", "config/paper.yaml")
    assert result.returncode == 0, result.stderr
    jobs = planned(result.stdout + result.stderr)
    assert not any(name.startswith("demo") for name in jobs)
    assert {jobs[name] for name in ("sft", "gather_refined", "verify", "teacher")} == {1}
    assert jobs["refine"] == merged("paper")["data"]["alignx"]["shards"]
    assert (jobs["grpo"], jobs["vpl"], jobs["vpl_judgements"]) == (3, 1, 2)


def test_a_real_language_model_is_a_configuration_like_any_other(tree):
    files = ["config/evaluate.yaml", "config/smollm2.yaml"]
    result = snakemake(tree, "-n", "--configfile", *files)
    assert result.returncode == 0, result.stderr
    jobs = planned(result.stdout + result.stderr)
    assert (jobs["gguf_model"], jobs["download"], jobs["benchmark_psoups"], jobs["judgements"]) == (1, 3, 3, 14)
    assert not any(name.startswith("demo") for name in jobs)
    result = snakemake(tree, "-n", "--configfile", *files, "config/smollm2/demo_files.yaml")
    jobs = planned(result.stdout + result.stderr)
    assert jobs["demo_world"] == 1 and "download" not in jobs and "demo_model" not in jobs


def test_layers_go_over_each_other_one_by_one(tree):
    removed, anew = tree / "removed.yaml", tree / "anew.yaml"
    removed.write_text("online: null\ntables: {table3: null, strengths: null}\n")
    anew.write_text("online: {generator: instruct, judge: judge2, cases: 3, groups: {all: [alignx_test]}}\n")
    files = ["--configfile", "config/demo.yaml", "removed.yaml", "anew.yaml"]
    result = snakemake(tree, "-n", "results/responses/golden.parquet", *files)
    assert result.returncode == 1
    assert "online: 'sampling' is a required property" in result.stdout + result.stderr, result.stderr


def test_methods_that_read_in_chunks_and_the_table_of_streams(tree):
    def change(config: dict) -> None:
        teacher = {**config["methods"]["teacher"], "benchmarks": ["long_stream"], "tables": ["streams"]}
        config["judges"]["judge2"]["benchmarks"].append("long_stream")
        config["methods"] |= {
            "by_four": {**teacher, "label": "By four", "streaming": {"chunk": 4}},
            "last": {**teacher, "label": "Last", "streaming": {"chunk": 4, "carry": False}},
        }
        shown = {"judges": ["judge", "judge2"], "benchmarks": ["long_stream"], "title": "Streams"}
        config["tables"]["streams"] = {"kind": "streaming", **shown}
        config["figures"]["chunks"] = {"kind": "accuracy", "by": "chunk", "methods": ["by_four", "last"], **shown}

    path = configured(tree, "streams", change)
    command = [sys.executable, "scripts/plan_jobs.py", "--configfile", path.name, "--", "results/streams.csv"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    jobs = {output: job for job in json.loads(done.stdout)["jobs"] for output in job["output"]}
    for method, streaming in (("by_four", {"chunk": 4}), ("last", {"chunk": 4, "carry": False})):
        job = jobs[f"results/preferences/{method}.parquet"]
        assert job["params"]["entry"]["streaming"] == streaming
        assert [file for file in job["input"] if file.endswith(".jinja")] == ["resources/prompts/update.jinja"]
    table = jobs["results/streams.csv"]
    assert table["params"]["updating"] == ["by_four"] and table["params"]["drifts"] == {}
    names = [column["name"] for column in table["params"]["columns"]]
    assert names == ["judge, long_stream", "judge2, long_stream"]
    result = snakemake(tree, "-n", "results/chunks.svg", "--configfile", path.name)
    assert result.returncode == 0 and planned(result.stdout + result.stderr)["figure_accuracy"] == 1, result.stderr


def test_vpl_judges_by_itself_in_every_column(tree):
    result = snakemake(tree, "-n", "results/judgements/judge2/vpl.parquet")
    jobs = planned(result.stdout + result.stderr)
    assert (jobs["vpl"], jobs["vpl_judgements"]) == (1, 1)
    assert "judgements" not in jobs and not any(name.startswith("preferences") for name in jobs)
    described = snakemake(tree, "-n", "results/preferences/vpl.parquet")
    assert "MissingRuleException" in described.stdout + described.stderr


def test_one_target_asks_for_what_it_needs_alone(tree):
    result = snakemake(tree, "-n", "data/cases/psoups_style_reverse.parquet")
    assert planned(result.stdout + result.stderr) == {"demo_world": 1, "benchmark_psoups": 1, "benchmark_reverse": 1}


def test_the_report_asks_for_what_it_shows_and_no_more(tree):
    def small(config):
        config["figures"] = {}
        config["tables"] = {"table1": config["tables"]["table1"]}
        for entry in config["methods"].values():
            entry["tables"] = []
        config["case_study"].update(methods=["signals", "golden"], cases=1)

    path = configured(tree, "small", small)
    result = snakemake(tree, "-n", "results/report", "--configfile", str(path))
    jobs = planned(result.stdout + result.stderr)
    assert (jobs["case_study"], jobs["judgements"], jobs["table_benchmarks"]) == (1, 2, 1)
    assert not {"sft", "grpo", "vpl", "teacher", "responses", "wins"} & set(jobs)
    assert jobs["demo_model"] == 1  # the judge


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["data"].update(splitz={}), "data.splitz: unknown key; did you mean 'splits'?"),
        (lambda c: c["evaluation"].update(temperature="hot"), "evaluation.temperature: 'hot' is not of type 'number'"),
        (lambda c: c["methods"]["teacher"].update(model="teecher"), "methods.teacher.model: no such name 'teecher'"),
        (
            lambda c: c["methods"]["lminductreason"].update(judge="gen"),
            "methods.lminductreason.judge: no such name 'gen'",
        ),
        (lambda c: c["methods"]["lminductreason"].pop("rounds"), "methods.lminductreason: 'rounds' is a required"),
        (lambda c: c["methods"]["pba"].pop("upper"), "methods.pba: 'upper' is a required property"),
        (lambda c: c["methods"]["pba"].update(label="VPL"), "tables.table2: duplicate label 'VPL'"),
        (
            lambda c: c["tables"]["table4"]["columns"]["psoups reversed"].update(change_from="psoup"),
            "tables.table4.columns.psoups reversed.change_from: no such name 'psoup'; did you mean 'psoups'?",
        ),
        (lambda c: c["methods"]["pba"].update(uper=0.6), "methods.pba.uper: unknown key; did you mean 'upper'?"),
        (lambda c: c["prompts"].pop("refine_rule"), "methods.lminductreason needs the key 'prompts.refine_rule'"),
        (lambda c: c["benchmarks"]["psoups_style_reverse"].update(reverse_of="psoups_stile"), "did you mean"),
        (
            lambda c: c["figures"]["figure3"]["methods"].append("goldn"),
            "figures.figure3.methods: no such name 'goldn'; did you",
        ),
        (
            lambda c: c["tables"]["table4"]["columns"]["alignx_test with UGC"].update(judge="gen"),
            "judges.gen.benchmarks, needed by tables.table4.columns.alignx_test with UGC: no such",
        ),
        (
            lambda c: c["models"]["judge"].update(path="./nowhere"),
            "models.judge.path: there is no directory './nowhere'",
        ),
        (
            lambda c: c["models"].update(judge={"engine": "openai", "path": "m", "logprobs": False}),
            "judges.judge.model: 'judge' gives no log-probabilities, which this needs: give it sampling",
        ),
        (
            lambda c: c["models"]["backbone"].update(today="2026-01-01"),
            "training.variants.no_cold_start.from: training ignores today",
        ),
        (lambda c: c["case_study"].update(cases=0), "case_study.cases"),
        (
            lambda c: c["case_study"].update(benchmark="alignx_test_ugc"),
            "methods.no_rl.benchmarks, needed by case_study: no such name 'alignx_test_ugc'",
        ),
        (lambda c: c["case_study"]["methods"].append("vpl"), "case_study: method 'vpl' writes no descriptions"),
        (
            lambda c: c["case_study"].update(judge="judge2", benchmark="psoups_style"),
            "judges.judge2.benchmarks, needed by case_study: no such name 'psoups_style'",
        ),
        (lambda c: c.pop("vpl"), "methods.vpl needs the key 'vpl'"),
        (lambda c: c["vpl"].update(betta=1), "vpl.betta: unknown key; did you mean 'beta'?"),
        (lambda c: c["methods"]["vpl"].update(reasoning=True), "methods.vpl"),
        (lambda c: c["methods"]["vpl"].pop("model"), "methods.vpl: 'model' is a required property"),
        (
            lambda c: c["methods"]["vpl"].update(benchmarks=["alignx_test_ugc"]),
            "methods.vpl.benchmarks: 'alignx_test_ugc' has no pairs to infer from",
        ),
        (
            lambda c: c["models"]["instruct"].update(engine="vllm"),
            "methods.vpl.model: 'instruct' needs the engine 'transformers'",
        ),
        (
            lambda c: c["methods"].update(no_rl=c["methods"].pop("vpl")),
            "methods.no_rl: training.variants.no_rl already makes models/trained/no_rl",
        ),
        (
            lambda c: c["methods"]["vpl"]["tables"].append("table3"),
            "tables.table3: method 'vpl' writes no descriptions; remove it",
        ),
        (
            lambda c: c["figures"]["figure3"]["methods"].append("vpl"),
            "figures.figure3: method 'vpl' writes no descriptions; remove it",
        ),
    ],
)
def test_bad_configuration_is_named_in_one_line(tree, change, message):
    path = configured(tree, "bad", change)
    result = snakemake(tree, "-n", "--configfile", str(path))
    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert message in output
    assert "Traceback" not in output


def test_a_key_that_a_planned_job_needs_stops_the_run_before_any_job(tree):
    def remote(config):
        config["models"]["remote"] = {"engine": "openai", "path": "far", "run": {"key_env": "SET_NOWHERE"}}
        config["methods"]["instruct"].update(model="remote")
        config["judges"]["judge2"].update(model="remote", sampling=config["evaluation"])

    path = configured(tree, "keyless", remote)
    arguments = ("--cores", "1", "--forceall", "--configfile", str(path))
    for target in ("preferences/instruct.parquet", "judgements/judge2/golden.parquet"):
        stopped = snakemake(tree, f"results/{target}", *arguments)
        output = stopped.stdout + stopped.stderr
        assert stopped.returncode != 0
        assert "models.remote: the environment variable SET_NOWHERE with its key is not set" in output
        assert "Traceback" not in output and "jobid" not in output
    result = snakemake(tree, "data/cold/dimensions.parquet", *arguments)
    assert result.returncode == 0, result.stderr


def test_files_that_a_launch_command_names_are_inputs(tree):
    (tree / "empty.yaml").write_text("")
    (tree / "null.yaml").write_text("deepspeed_config: null\n")
    (tree / "zero.yaml").write_text("deepspeed_config: {deepspeed_config_file: config/deepspeed/zero3.json}\n")
    words = "bash config/accelerate/nodes.sh --config_file=zero.yaml --a=empty.yaml --b null.yaml"
    path = configured(tree, "launched", lambda c: c["training"].update(launch=words))
    plan = [sys.executable, "scripts/plan_jobs.py", "--configfile", str(path), "--", "models/trained/no_rl"]
    done = subprocess.run(plan, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (job,) = [job for job in json.loads(done.stdout)["jobs"] if job["rule"] == "sft"]
    assert {"zero.yaml", "config/deepspeed/zero3.json", "empty.yaml", "null.yaml"} <= set(job["input"])
    assert "config/accelerate/nodes.sh" in job["input"]


def test_a_gguf_file_that_is_not_there_is_named(tree):
    path = configured(tree, "ungguf", lambda c: c.update(gguf={"small": {"file": "none.gguf", "dtype": "float32"}}))
    result = snakemake(tree, "-n", "models/gguf/small", "--configfile", str(path))
    assert result.returncode != 0 and "none.gguf" in result.stdout + result.stderr


def test_a_gguf_files_package_is_known_by_its_version(tree):
    entry = {"package": "yaml", "file": "a.gguf", "dtype": "float32"}
    path = configured(tree, "packaged", lambda c: c.update(gguf={"small": entry}))
    plan = [sys.executable, "scripts/plan_jobs.py", "--configfile", str(path), "--", "models/gguf/small"]
    done = subprocess.run(plan, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (job,) = json.loads(done.stdout)["jobs"]
    assert job["params"]["package"] == {"name": "yaml", "file": "a.gguf", "versions": {"PyYAML": version("PyYAML")}}


def test_data_stage_runs_and_then_has_nothing_to_do(tree):
    targets = ["data/cold/dimensions.parquet", "data/cases/alignx_test_reverse.parquet"]
    first = snakemake(tree, "--cores", "2", *targets)
    assert first.returncode == 0, first.stderr
    again = snakemake(tree, "-n", *targets)
    assert "Nothing to be done" in again.stdout + again.stderr
    path = configured(tree, "more", lambda c: c["data"]["splits"]["test"].update(size=150))
    changed = snakemake(tree, "-n", *targets, "--configfile", str(path))
    jobs = planned(changed.stdout + changed.stderr)
    assert jobs == {"split": 1, "benchmark_split": 1, "benchmark_reverse": 1}


def test_what_a_failed_job_took_away_is_made_again(tree):
    """Snakemake removes a job's outputs before a rerun. If it fails, what was made from them is stale."""
    targets = ["data/cases/alignx_test_reverse.parquet"]
    assert snakemake(tree, "--cores", "2", *targets).returncode == 0
    path = configured(tree, "unbalanced", lambda c: c["data"].update(balance=0.0))
    failed = snakemake(tree, "--cores", "2", *targets, "--configfile", str(path))
    assert failed.returncode != 0 and not (tree / "data/splits/test.parquet").exists()
    assert (tree / targets[0]).exists()
    again = snakemake(tree, "-n", *targets, "--configfile", str(path))
    assert planned(again.stdout + again.stderr) == {"split": 1, "benchmark_split": 1, "benchmark_reverse": 1}
    elsewhere = snakemake(tree, "-n", "data/splits/cold.parquet")
    assert "Nothing to be done" in elsewhere.stdout + elsewhere.stderr


def test_the_plan_knows_what_a_killed_job_has_left_half_done(tree):
    target = "data/splits/test.parquet"
    assert snakemake(tree, "--cores", "2", target).returncode == 0
    plan = [sys.executable, "scripts/plan_jobs.py", "--", target]

    def reasons() -> list[str]:
        done = subprocess.run(plan, cwd=tree, capture_output=True, text=True, check=True)
        return [job["rule"] for job in json.loads(done.stdout)["jobs"] if job["reason"]]

    assert reasons() == []
    marker = tree / ".snakemake/incomplete" / urlsafe_b64encode(target.encode()).decode()
    marker.write_text("{}")
    try:
        assert reasons() == ["split"]
    finally:
        marker.unlink()


def test_given_splits_are_fetched_and_change_no_drawn_one(tree):
    assert snakemake(tree, "--cores", "2", "data/splits/test.parquet").returncode == 0
    sources = ["hf://owner/data@v1/a.json", f"https://host/b.json#sha256={'0' * 64}"]
    path = configured(tree, "given", lambda c: c["data"]["splits"].update(mine={"source": sources}))
    result = snakemake(tree, "-n", "data/splits/mine.parquet", "data/splits/test.parquet", "--configfile", str(path))
    assert planned(result.stdout + result.stderr) == {"download": 2, "given_split": 1}


def looks(tree: Path, *arguments: str) -> tuple[int, float]:
    """How often Snakemake looks for jobs to start, and how often it should: after each job, and once a second."""
    started = time.monotonic()
    result = snakemake(tree, "--cores", "1", "--verbose", *arguments)
    assert result.returncode == 0, result.stderr
    output = result.stdout + result.stderr
    return output.count("Ready jobs: "), output.count("Finished jobid: ") + time.monotonic() - started


def test_snakemake_looks_for_jobs_once_a_second(tree):
    found, wanted = looks(tree, "--forceall", *(f"data/cases/{name}.parquet" for name in merged()["benchmarks"]))
    assert found <= wanted


def test_snakemake_by_itself_looks_more_often_with_each_job(tmp_path):
    """If this fails, rules/runtime.smk needs its `look_again` no longer."""
    (tmp_path / "Snakefile").write_text(
        "rule all:\n    input: [f'{i}.txt' for i in range(12)]\n"
        "rule one:\n    output: '{i}.txt'\n    shell: 'sleep 0.5; touch {output}'\n"
    )
    found, wanted = looks(tmp_path)
    assert found > 1.3 * wanted


def test_too_few_users_end_with_one_clear_line(tree):
    path = configured(tree, "greedy", lambda c: c["data"]["splits"]["rl"].update(size=5000))
    result = snakemake(tree, "--cores", "1", "data/splits/rl.parquet", "--configfile", str(path))
    log = (tree / "logs/split/rl.log").read_text()
    assert result.returncode != 0
    assert re.search(r"data\.splits\.rl\.size: 5000 examples .* only \d+ of the \d+ .* fall to this split", log)
    assert "Traceback" not in log


def test_nested_numbers_on_the_command_line(tree):
    values = ("--config", "online={cases: 5}", "evaluation={temperature: 0.5}", "training={run: {disable_tqdm: true}}")
    result = snakemake(tree, "-n", *values, "--", "results/table3.csv")
    assert result.returncode == 0, result.stderr
    wrong = snakemake(tree, "-n", "--config", "online={cases: five}")
    assert wrong.returncode != 0 and "config: online.cases: 'five' is not of type 'integer'" in wrong.stdout


def test_checkpoints_have_the_labels_of_their_methods(tree):
    plan = [sys.executable, "scripts/plan_jobs.py", "--", "results/figure2.svg", "results/report"]
    done = subprocess.run(plan, cwd=tree, capture_output=True, text=True, check=True)
    params = {job["output"][0]: job["params"] for job in json.loads(done.stdout)["jobs"] if job["output"]}
    drawn = ("alignxplore", "no_cold_start", "r_gen")
    labels = {name: merged()["methods"][name]["label"] for name in (*drawn, "no_rl", "updates", "vpl")}
    assert params["results/figure2.svg"]["labels"] == [labels[name] for name in drawn]
    report = params["results/report"]
    assert report["trained"] == labels
    methods = merged()["methods"].values()
    assert report["references"] == [entry["label"] for entry in methods if entry.get("reference")]
    assert "Golden Preference" in report["references"] and report["demo"] is True


def test_jobs_print_no_progress_bars(tmp_path):
    tree = copy_workflow(tmp_path)
    code = "from transformers.utils.logging import is_progress_bar_enabled as bars; print('bars:', bars())"
    with (tree / "Snakefile").open("a") as file:
        file.write(f'\n\nrule bars:\n    shell:\n        """python -c "{code}" """\n')
    result = snakemake(tree, "--cores", "1", "bars")
    assert result.returncode == 0, result.stderr
    assert "bars: False" in result.stdout
    result = snakemake(tree, "--cores", "1", "bars", HF_HUB_DISABLE_PROGRESS_BARS="0")
    assert "bars: True" in result.stdout
