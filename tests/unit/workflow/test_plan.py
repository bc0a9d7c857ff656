"""Estimates from records: which rows grow, which prompts are new, what stays unknown."""

import json
from pathlib import Path

import polars as pl
import pytest
from alignxplore.digests import digest
from alignxplore.engines.journal import CALL, Journal
from alignxplore.workflow import plan, provenance
from method_samples import cases

TOKENS = {"prompt_tokens": 1000, "completion_tokens": 500}
ACCOUNT = {"asked": 100, "from_journal": 0, **TOKENS, "seconds": 18.0, "loading": 2.0, "cost": 3.0}
MODEL = {"engine": "transformers", "path": "models/m"}
SPLIT, CASES, D, J = "data/splits/test.parquet", "data/cases/test.parquet", "results/d.parquet", "results/j.parquet"
CHAIN = [
    ("split", ["data/refined.parquet"], SPLIT, 50, {"name": "test", "size": 50, "seed": 1}, None),
    ("sft", ["resources/a.jinja", SPLIT], "models/m", None, {"settings": {"epochs": 1}}, None),
    ("cases", [SPLIT], CASES, 50, {}, None),
    ("describe", ["models/fixed", CASES, "resources/a.jinja"], D, 50, {"model": MODEL, "seed": 1}, ACCOUNT),
    ("judge", [CASES, D], J, 50, {"judge": {"model": MODEL}}, ACCOUNT),
]


@pytest.fixture
def jobs(tmp_path, monkeypatch) -> list[dict]:
    """The jobs of a finished tree (the working directory); none of them is planned."""
    monkeypatch.chdir(tmp_path)
    for file in ("resources/a.jinja", "models/fixed/x"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(file)
    Path("data").mkdir()
    pl.DataFrame({"x": range(50)}).write_parquet("data/refined.parquet")
    found = []
    for rule, inputs, output, rows, params, account in CHAIN:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        if rows is None:
            path.mkdir()
        else:
            pl.DataFrame({"x": range(rows)}).write_parquet(path)
        record = {
            "rule": rule, "params": params, "inputs": {file: digest(file) for file in inputs}, "temporary": False,
            "outputs": {output: {"sha256": digest(output), "rows": rows}}, "seconds": 25.0, "models": [], "gpus": 2,
            "read": {file: 50 for file in inputs if file.endswith(".parquet")},
            "account": [{"model": "models/m", **account}] if account else [],
        }  # fmt: skip
        provenance.sidecar(output).write_text(json.dumps(record))
        found.append(
            {"rule": rule, "wildcards": {}, "params": dict(params), "input": list(inputs), "output": [output],
             "temporary": [], "threads": 1, "gpus": 2, "reason": ""}
        )  # fmt: skip
    target = {"rule": "all", "wildcards": {}, "params": {}, "input": ["results/j.parquet"], "output": []}
    return [*found, {**target, "temporary": [], "threads": 1, "gpus": 0, "reason": ""}]


def planned(jobs, *rules, **params):
    """Estimates by rule when the jobs of these rules are planned; `params` change for the first rule."""
    for job in jobs:
        if job["rule"] in (*rules, "all"):
            job["reason"] = "changed"
            job["params"].update(params if job["rule"] == rules[0] else {})
    return {item.job["rule"]: item for item in plan.estimate(jobs, "journal")}


def test_added_rows_add_only_their_prompts(jobs):
    found = planned(jobs, "split", "cases", "describe", "judge", size=60)
    assert found["split"].causes == ["size: 50 -> 60"]
    assert found["judge"].causes == []
    for rule in ("describe", "judge"):
        assert found[rule].asked == pytest.approx(120) and found[rule].new == pytest.approx(20)
        assert found[rule].tokens == pytest.approx(300) and found[rule].dollars == pytest.approx(0.6)
        assert found[rule].seconds == pytest.approx(5 * 1.2 + 20 * 0.18 + 2)
        assert found[rule].gpu_hours == pytest.approx(2 * 11.6 / 3600)
    assert found["cases"].seconds == pytest.approx(30) and found["cases"].tokens == 0


@pytest.mark.parametrize(("before", "limit", "asked"), [(50, 400, 800), (50, None, None), (60, 400, 100), (60, 20, 40)])
def test_a_few_cases_tell_what_more_will_cost(jobs, before, limit, asked):
    path = provenance.sidecar(CASES)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "params": {"limit": before}}))
    found = planned(jobs, "cases", "describe", "judge", limit=limit)
    assert [found[rule].asked for rule in ("describe", "judge")] == [asked and pytest.approx(asked)] * 2
    if asked and asked > 100:
        assert found["describe"].new == pytest.approx(700) and found["describe"].dollars == pytest.approx(21)


def test_a_changed_model_makes_all_answers_and_judgements_new(jobs):
    found = planned(jobs, "describe", "judge", model={**MODEL, "dtype": "bfloat16"})
    assert found["describe"].causes == ['model.dtype: unset -> "bfloat16"']
    assert [found[rule].new for rule in ("describe", "judge")] == [100, 100]


def test_edited_template_makes_prompts_new_but_edited_module_does_not(jobs):
    Path("resources/a.jinja").write_text("other")
    found = planned(jobs, "describe", "judge")
    assert found["describe"].causes == ["resources/a.jinja: changed"] and found["judge"].new == 100
    jobs[3]["input"][2] = jobs[4]["input"][1] = "x.py"
    Path("x.py").write_text("code")
    assert planned(jobs, "describe")["describe"].causes == ["x.py: new input", "resources/a.jinja: no longer an input"]
    assert planned(jobs, "describe")["describe"].new == 0


def test_a_model_trained_on_more_rows_answers_anew(jobs):
    jobs[3]["input"][0] = "models/m"
    found = planned(jobs, "split", "sft", "cases", "describe", "judge", size=60)
    assert [found[rule].new for rule in ("describe", "judge")] == [pytest.approx(120)] * 2


def test_a_job_without_record_is_unknown_rather_than_zero(jobs):
    provenance.sidecar("results/j.parquet").unlink()
    found = planned(jobs, "judge")
    assert found["judge"].seconds is None and found["judge"].causes == ["no record of an earlier run"]
    text = plan.describe(list(found.values()), len(jobs))
    assert "judge     1  unknown" in text and "Unknown for 1 jobs: no earlier run" in text


def test_a_job_answered_by_the_journal_gives_no_rate_for_new_prompts(jobs):
    path = provenance.sidecar("results/d.parquet")
    record = json.loads(path.read_text())
    record["account"][0].update(from_journal=100, prompt_tokens=0, completion_tokens=0, seconds=0.1, loading=0, cost=0)
    path.write_text(json.dumps(record))
    found = planned(jobs, "split", "cases", "describe", size=60)["describe"]
    assert (found.new, found.tokens, found.seconds) == (pytest.approx(20), None, None)


def test_causes_missing_from_records_are_quoted_from_snakemake(jobs):
    found = planned(jobs, "cases", "describe")
    assert found["cases"].causes == ["changed"]
    assert found["describe"].causes == [], "it runs only because cases runs"


def test_nothing_to_do(jobs):
    assert plan.describe(plan.estimate(jobs, "journal"), len(jobs)).startswith("Nothing to do: all 6 jobs")


def test_another_model_is_unknown_and_its_prompts_are_counted(jobs):
    found = planned(jobs, "describe", "judge", model={**MODEL, "path": "models/other"})["describe"]
    assert (found.asked, found.new) == (100, 100)
    assert (found.tokens, found.seconds, found.dollars, found.unknown) == (None, None, None, plan.OTHER_MODEL)


def test_a_replaced_model_is_unknown(jobs):
    Path("models/fixed/x").write_text("another model")
    found = planned(jobs, "describe")["describe"]
    assert (found.new, found.seconds, found.unknown) == (100, None, plan.OTHER_MODEL)


@pytest.mark.parametrize("settings", [{"epochs": 9}, {"epochs": 1, "learning_rate": 0.5}])
def test_other_training_is_unknown_also_for_jobs_that_use_the_model(jobs, settings):
    jobs[3]["input"][0] = "models/m"
    path = provenance.sidecar(D)
    record = json.loads(path.read_text())
    record["inputs"]["models/m"] = digest("models/m")
    path.write_text(json.dumps(record))
    found = planned(jobs, "sft", "describe", settings=settings)
    same = "learning_rate" in settings  # it changes the model, but not how long training takes
    assert [found[rule].seconds is None for rule in ("sft", "describe")] == [not same] * 2
    assert found["describe"].new == 100
    if not same:
        assert [found[rule].unknown for rule in ("sft", "describe")] == [plan.OTHER_SETTINGS, plan.OTHER_MODEL]


def test_longer_completions_are_unknown(jobs):
    found = planned(jobs, "describe", "judge", sampling={"max_new_tokens": 9999})
    assert (found["describe"].tokens, found["describe"].unknown) == (None, plan.OTHER_SETTINGS)
    assert (found["judge"].new, found["judge"].tokens) == (100, 1500)


def test_other_gpus_leave_only_the_time_unknown(jobs):
    jobs[3]["gpus"] = 8
    found = planned(jobs, "split", "cases", "describe", size=60)["describe"]
    assert found.seconds is None and found.gpu_hours is None and found.unknown == plan.OTHER_GPUS
    assert found.tokens == pytest.approx(300) and found.dollars == pytest.approx(0.6)


def test_a_larger_file_of_the_user_scales_its_jobs(jobs):
    pl.DataFrame({"x": range(100)}).write_parquet("data/refined.parquet")
    assert planned(jobs, "split")["split"].seconds == pytest.approx(50)


def test_rows_that_cannot_be_counted_are_unknown_from_there_on(jobs):
    jobs[0]["input"].append("data/more.jsonl")
    Path("data/more.jsonl").write_text("{}")
    jobs[0]["rule"] = "refine"
    found = planned(jobs, "refine", "cases", "describe")
    assert [found[rule].unknown for rule in ("refine", "cases", "describe")] == [plan.OTHER_SIZE] * 3
    assert found["describe"].asked is None
    text = plan.describe(list(found.values()), len(jobs))
    assert f"Unknown for 3 jobs: {plan.OTHER_SIZE}." in text


def test_a_model_that_was_asked_two_kinds_of_questions_has_no_common_rate(jobs):
    call = {"model": "models/m", "hits": 0, "new": 10, "seconds": 1.0, "loading": 1.0, "new_tokens": 100}
    call |= {"hit_tokens": 0, "paid_dollars": 0.0, "saved_dollars": 0.0}
    journal = Journal("journal")
    journal.add([(CALL, {"call": {**call, "kind": "generate"}})])
    assert plan._rates("journal").keys() == {"models/m"}
    journal.add([(CALL, {"call": {**call, "kind": "choice_logprobs"}})])
    assert plan._rates("journal") == {}


def test_times_of_another_machine_are_said_to_be(jobs):
    for name in (D, J):
        path = provenance.sidecar(name)
        machine = "64 x Big CPU" if name == D else provenance.machine()
        path.write_text(json.dumps({**json.loads(path.read_text()), "machine": machine}))
    text = plan.describe(list(planned(jobs, "describe", "judge").values()), len(jobs))
    assert text.endswith("The times of 1 jobs are those of another machine: 64 x Big CPU.")


def test_many_files_of_a_directory_are_one_line(jobs):
    job = {**jobs[4], "rule": "judgements", "reason": "r"}
    files = [f"results/judgements/judge/m{n}.parquet" for n in range(40)]
    estimates = [plan.Estimate(job, [f"{file}: missing"]) for file in files]
    estimates[0].causes.append("results/judgements/judge2/m0.parquet: missing")
    estimates.append(plan.Estimate(job, ["data/a/b.parquet: missing"]))
    lines = plan.describe(estimates, 50).splitlines()
    assert lines[3:6] == [
        "  results/judgements: 41 files: missing  (judgements x40)",
        "  data/a/b.parquet: missing  (judgements x1)",
        "",
    ]
    assert [line.split()[:2] for line in lines[6:]] == [["rule", "jobs"], ["judgements", "41"], ["all", "41"]]


def test_methods_are_compared_by_name(jobs):
    path = provenance.sidecar(D)
    record = json.loads(path.read_text())
    record["params"]["methods"] = [{"name": "a", "label": "A"}, {"name": "b", "label": "B"}]
    path.write_text(json.dumps(record))
    found = planned(jobs, "describe", methods=[{"name": "b", "label": "B"}, {"name": "a", "label": "Other"}])
    assert found["describe"].causes == ['methods.a.label: "A" -> "Other"']


def test_snakemakes_reason_is_quoted_file_by_file():
    assert plan._quoted("Missing output files: a/b, c; Updated input files: d") == [
        "a/b: missing output file",
        "c: missing output file",
        "d: updated input file",
    ]


@pytest.mark.parametrize(("engine", "dollars"), [("transformers", 0), ("openai", None)])
def test_uncounted_tokens_are_unknown_rather_than_zero(jobs, engine, dollars):
    path = provenance.sidecar(J)
    record = json.loads(path.read_text())
    record["params"]["judge"]["model"]["engine"] = jobs[4]["params"]["judge"]["model"]["engine"] = engine
    record["account"][0].update(prompt_tokens=0, completion_tokens=0, cost=0)
    path.write_text(json.dumps(record))
    Path("resources/a.jinja").write_text("other")
    found = planned(jobs, "describe", "judge")["judge"]
    assert (found.new, found.tokens, found.dollars, found.unknown) == (100, None, dollars, plan.UNCOUNTED)
    assert found.seconds == pytest.approx(25)


STREAMING = {"entry": {"kind": "model", "streaming": {"chunk": 2}}}


def streaming(jobs, tmp_path, **recorded) -> dict:
    """The estimates after the job `describe` gets cases with 4, 4 and 5 signals and params that stream them."""
    cases(list("abcd"), list("abxy"), list("abcde")).write_parquet(CASES)
    path = provenance.sidecar(D)
    record = json.loads(path.read_text())
    record["params"] |= recorded
    record["read"] = {CASES: 3}
    record["inputs"][CASES] = digest(CASES)
    path.write_text(json.dumps(record))
    return planned(jobs, "describe", **STREAMING)


def test_chained_prompts_are_counted_from_the_cases(jobs, tmp_path):
    found = streaming(jobs, tmp_path, entry={"kind": "model", "streaming": {"chunk": 4}})["describe"]
    assert found.causes == ["entry.streaming.chunk: 4 -> 2"]
    # a b, then c d and x y, then e: cases that begin alike share their first prompt
    assert (found.asked, found.new, found.tokens) == (4, 4, None)
    assert "Prompts of 1 jobs contain descriptions that are yet to be written" in plan.describe([found], 1)


def test_chained_prompts_are_priced_by_the_earlier_run(jobs, tmp_path):
    Path("resources/a.jinja").write_text("other")
    found = streaming(jobs, tmp_path, **STREAMING)["describe"]
    assert (found.asked, found.new) == (4, 4)
    assert found.tokens == pytest.approx(4 * 15) and found.dollars == pytest.approx(4 * 0.03)


def test_chained_prompts_of_a_first_run_are_counted_but_not_priced(jobs, tmp_path):
    provenance.sidecar(D).unlink()
    cases(list("abcd")).write_parquet(CASES)
    found = planned(jobs, "describe", entry={"kind": "model", "streaming": {"chunk": 2, "carry": False}})["describe"]
    assert (found.asked, found.new, found.tokens, found.unknown) == (1, 1, None, plan.NO_RECORD)
    assert "yet to be written" not in plan.describe([found], 1)


def test_chained_prompts_of_cases_to_come_are_estimated_by_their_number(jobs):
    jobs[3]["params"] |= STREAMING
    found = planned(jobs, "split", "cases", "describe", size=60)
    assert found["describe"].asked == pytest.approx(120)
