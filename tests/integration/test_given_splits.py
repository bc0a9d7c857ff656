"""A run on given splits alone: every form goes from a file to a row of a table, and no raw AlignX is there."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from form_samples import RECORDS, varied, write
from report_samples import compressed

ROOT = Path(__file__).parents[2]
TESTED = {"mine": "pairs", "rl": "rl", "test": "test", "raw": "alignx", "soups": "psoups"}
"""Splits of examples, by form; the split `cold` has demonstrations."""
COUNT = 4
WITHOUT_GOLDEN = {"rl", "test"}
TRAINED = ("tuned", "rewarded")


def configuration(model: Path) -> dict:
    """Every split is evaluated, the demonstrations train a model, and the split `rl` trains it further."""
    local = {"engine": "transformers", "path": str(model)}
    described = [name for name in TESTED if name not in WITHOUT_GOLDEN]
    trained = {name: {"engine": "transformers", "path": f"models/trained/{name}"} for name in TRAINED}
    asked = {"kind": "model", "reasoning": True, "tables": ["accuracy"]}
    grpo = {"per_device_train_batch_size": 2, "num_generations": 2, "max_completion_length": 6, "max_steps": 1}
    return {
        "data": {
            "splits": {name: {"source": f"{name}.json"} for name in TESTED}
            | {"cold": {"source": ["cold.json"], "form": "cold_start"}},
            "wording": "resources/wording.csv",
            "max_reject_share": 0.3,
        },
        "benchmarks": {name: {"split": name} for name in TESTED} | {"turned": {"reverse_of": "test"}},
        "models": {"model": local, "judge": local, **trained},
        "judges": {"gen": None},
        "evaluation": {"max_new_tokens": 8},
        "training": {
            "launch": sys.executable, "gpus": 0, "grpo": grpo,
            "sft": {"per_device_train_batch_size": 4, "num_train_epochs": 1},
            "variants": {
                "tuned": {"stage": "sft", "from": "model", "data": "data/splits/cold.parquet"},
                "rewarded": {"stage": "grpo", "from": "tuned", "judge": "judge"},
                "no_rl": None, "alignxplore": None, "no_cold_start": None, "r_gen": None,
            },
        },
        "methods": {
            "golden": {"benchmarks": described, "tables": ["described"]},
            **dict.fromkeys(("signals", "liked", "opposite", "shuffled", "concise", "reasoning")),
            "annotated": {"label": "PBA", "kind": "pba", "scores": "annotations", "upper": 0.6, "lower": 0.4,
                          "benchmarks": ["raw"], "tables": ["annotated"]},
            **{name: {"label": name, "model": name, **asked} for name in TRAINED},
        },
        "tables": {
            "validity": None,
            "annotated": {"kind": "accuracy", "title": "A",
                          "columns": {"a": {"judge": "judge", "benchmarks": ["raw"]}}},
            "described": {"kind": "accuracy", "title": "D",
                          "columns": {"d": {"judge": "judge", "benchmarks": described}}},
        },
    }  # fmt: skip


def run(directory: Path, *targets: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--snakefile", str(ROOT / "Snakefile"),
               "--directory", ".", *targets,
               "--configfile", str(ROOT / "config/evaluate.yaml"), "mine.yaml"]  # fmt: skip
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory) -> Path:
    """A finished run. One record of each file is broken."""
    directory = tmp_path_factory.mktemp("given")
    for name, form in {**TESTED, "cold": "cold_start"}.items():
        write(directory / f"{name}.json", [*(varied(form, n) for n in range(COUNT)), {"broken": True}], "json")
    (directory / "mine.yaml").write_text(yaml.safe_dump(configuration(tiny_model)))
    done = run(directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def rows(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_form_of_examples_is_a_column_with_a_row_per_method(finished):
    cells = {(row["method"], row["column"]): row["n"] for row in rows(finished / "results/accuracy.csv")}
    labels = ["Null", *TRAINED]
    assert cells == {(label, column): str(COUNT) for label in labels for column in [*TESTED, "turned"]}


def test_descriptions_of_the_user_are_those_of_the_record_or_of_its_directions(finished):
    (golden,) = [row for row in rows(finished / "results/described.csv") if row["method"] == "Golden Preference"]
    assert golden["n"] == str(3 * COUNT)
    found = pl.read_parquet(finished / "results/preferences/golden.parquet")
    texts = dict(found.group_by("benchmark").agg(pl.col("preference").first()).iter_rows())
    assert texts["mine"] == RECORDS["pairs"]["golden"] and texts["raw"].startswith("This person: ")
    assert texts["soups"] == RECORDS["psoups"]["ground_truth_persona"]


def test_annotated_directions_are_described_without_a_model(finished):
    (row,) = rows(finished / "results/annotated.csv")
    assert (row["method"], row["n"]) == ("PBA", str(COUNT))
    found = pl.read_parquet(finished / "results/preferences/annotated.parquet")
    assert all(text.startswith("This person: ") for text in found["preference"])


def test_broken_records_are_rejects(finished):
    for name in [*TESTED, "cold"]:
        assert pl.read_parquet(finished / f"data/rejects/{name}.parquet")["line"].to_list() == [COUNT + 1], name


def test_splits_are_counted_and_no_raw_data_was_refined(finished):
    counts = {row["set"]: row["examples"] for row in rows(finished / "results/data/splits.csv")}
    assert counts == dict.fromkeys([*TESTED, "cold"], str(COUNT))
    assert not (finished / "data/refined.parquet").exists() and not (finished / "data/cold").exists()


def test_the_report_shows_the_prompt_of_a_case_without_signals(finished):
    files = (finished / "results/report").rglob("details/*.js")
    assert json.dumps(RECORDS["rl"][0]["value"]) in json.dumps([compressed(path) for path in files])


def test_a_file_of_another_form_ends_with_one_clear_line(finished, tmp_path):
    write(tmp_path / "mine.json", [{"question": "q", "answer": "a"}], "json")
    config = {"data": {"splits": {"mine": {"source": "mine.json"}}}, "benchmarks": {"mine": {"split": "mine"}}}
    models = {name: {"engine": "transformers", "path": str(finished)} for name in ("model", "judge")}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**config, "models": models}))
    done = run(tmp_path, "data/cases/mine.parquet")
    log = (tmp_path / "logs/split/mine.log").read_text()
    assert done.returncode != 0 and "Traceback" not in log
    assert "data.splits.mine.source: the records of mine.json have no known form" in log
