"""An evaluation of models on a P-SOUPS file alone: a short configuration, in a directory of its own."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PERSONAS = {"A chatty reply with a joke suits me.": "joke", "A formal reply without any frills suits me.": "formal"}


def records(count: int) -> list[dict]:
    """Cases in the published form: each has its signals, and posts occur under both personas."""
    found = []
    for number in range(count):
        for persona, word in PERSONAS.items():
            other = "formal" if word == "joke" else "joke"
            texts = {"prompt": f"Post {number}: would a quick answer help?", "chosen": f"a {word} {number}",
                     "rejected": f"a {other} {number}"}  # fmt: skip
            signals = [
                {"prompt": f"Post {number} {k}", "chosen": f"{word} {k}", "rejected": f"{other} {k}"} for k in range(4)
            ]
            found.append({**texts, "ground_truth_persona": persona, "Pair-wise Comparative Feedback": signals})
    return found


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory) -> Path:
    """A finished run, in a directory with nothing but data and a configuration."""
    directory = tmp_path_factory.mktemp("mine")
    (directory / "style.json").write_text(json.dumps(records(10)))
    model = {"engine": "transformers", "path": str(tiny_model)}
    mine = {
        "data": {"psoups": {"style": {"path": "style.json", "positive": "joke"}}},
        "benchmarks": {"style": {"psoups": "style", "limit": 8},
                       "style_reverse": {"reverse_of": "style"}},
        "models": {"model": model, "judge": model},
        "evaluation": {"max_new_tokens": 16},
    }  # fmt: skip
    (directory / "mine.yaml").write_text(yaml.safe_dump(mine))
    finished = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", "--snakefile", str(ROOT / "Snakefile"), "--directory", ".",
         "--configfile", str(ROOT / "config/evaluate.yaml"), "mine.yaml"],
        cwd=directory, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return directory


def test_tables_have_the_rows_and_columns_of_the_configuration_in_its_order(run):
    with open(run / "results/accuracy.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    assert methods[:4] == ["Null", "Raw signals", "Liked texts", "Golden Preference"]
    assert methods[4:] == ["Opposite preference", "Another user's preference", "Concise", "With reasoning"]
    columns = list(dict.fromkeys(row["column"] for row in rows))
    assert columns == ["style, judge", "style, gen", "style_reverse, judge", "style_reverse, gen"]
    assert {row["n"] for row in rows} == {"8"}


def test_the_judges_validity_is_measured_on_every_benchmark(run):
    with open(run / "results/validity.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["judge"], row["benchmark"]) for row in rows] == [
        (judge, benchmark) for judge in ("judge", "gen") for benchmark in ("style", "style_reverse")
    ]


def test_a_limit_draws_both_personas_equally(run):
    import polars as pl

    cases = pl.read_parquet(run / "data/cases/style.parquet")
    assert sorted(cases["direction"].list.first().to_list()) == [-1] * 4 + [1] * 4


def test_nothing_is_trained_or_refined(run):
    assert not (run / "models").exists() and not (run / "data/splits").exists()
    assert {path.name for path in (run / "data").iterdir() if path.is_dir()} == {"cases"}


def test_the_report_shows_what_there_is(run):
    pages = {path.name for path in (run / "results/report").glob("*.html")}
    assert {"index.html", "cases.html", "provenance.html"} <= pages and not {"training.html", "data.html"} & pages
    assert "Golden Preference" in (run / "results/report/index.html").read_text()
