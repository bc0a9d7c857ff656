"""CONTRIBUTING.md: its examples, applied to a clone in the page's order, run."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
import yaml
from alignxplore import engines
from alignxplore.judging import judge as judging
from alignxplore.methods.given import GIVEN
from alignxplore.prompts import Templates, strip_markers
from alignxplore.workflow.dependencies import ENGINES
from configs import write_config
from faulty_server import Server
from served_workflow import KEY, served_config, verdict
from trees import ROOT, copy_workflow, snakemake

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
METHODS = ("golden", "disliked")
JUDGES = ("judge", "writer", "likelier", "people")


class Block(NamedTuple):
    section: str
    language: str
    file: str
    text: str


def blocks() -> Iterator[Block]:
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        for language, file, text in re.findall(
            r"^```(\w+)\n(?:#|//) (\S+)\n(.*?)^```", section, re.DOTALL | re.MULTILINE
        ):
            yield Block(section.splitlines()[0], language, file, text)


def change(path: Path, diff: str) -> None:
    """Replace the lines marked - by those marked +; they must be there exactly once."""
    old, new = ("".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] == sign) for sign in "-+")
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} does not have the line that the page changes: {old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def merge(config: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(config.get(key), dict) and isinstance(value, dict):
            merge(config[key], value)
        else:
            config[key] = value


def people_answer(tree: Path) -> None:
    """People prefer the first response whatever they are asked: a file with all that they will be asked."""
    templates = Templates(judge=ROOT / "resources/prompts/judge.jinja")
    described = pl.concat(pl.read_parquet(tree / f"results/preferences/{method}.parquet") for method in METHODS)
    answers = {}
    for case in described.join(pl.read_parquet(tree / "data/cases/brevity.parquet"), on="case_id").to_dicts():
        for first, second in (("chosen", "rejected"), ("rejected", "chosen")):
            texts = case["prompt"], case["preference"], case[first], case[second]
            answers[strip_markers(templates.judge(*texts, written=True).user)] = "Response A"
    (tree / "data/people.json").write_text(json.dumps(answers))


@pytest.fixture(scope="module")
def extended(tmp_path_factory, tiny_model):
    """A clone with all that the page adds, run: its tree."""
    tree = copy_workflow(tmp_path_factory.mktemp("contributing") / "clone")
    with Server(reply=verdict) as server:
        config = served_config(server)
        config["models"]["local"] = {"engine": "transformers", "path": str(tiny_model)}
        for block in blocks():
            file = tree / block.file
            if block.language == "diff":
                change(file, block.text)
            elif block.language == "yaml":
                merge(config, yaml.safe_load(block.text))
            else:
                assert not file.exists()
                file.parent.mkdir(exist_ok=True)
                file.write_text(block.text, encoding="utf-8")
        for name in ("golden", "disliked"):
            config["methods"][name]["benchmarks"] = ["brevity"]
        for name in ("judge", "writer"):
            config["judges"][name]["benchmarks"] = ["brevity"]
        columns = {judge: {"judge": judge, "benchmarks": ["brevity"]} for judge in JUDGES}
        config["tables"] = {"added": {"kind": "accuracy", "title": "", "columns": columns}}
        for name, entry in config["methods"].items():
            entry["tables"] = ["added"] if name in METHODS else []
        (tree / "data/people.json").write_text("{}")
        path = write_config(tree / "config/served.yaml", config)
        run(tree, *(f"results/preferences/{method}.parquet" for method in METHODS), config=path)
        people_answer(tree)
        run(tree, "results/added.csv", config=path)
    return tree


def run(tree: Path, *targets: str, config: Path) -> None:
    result = snakemake(tree, *targets, "--cores", "2", "--configfile", str(config), **{KEY: "canary"})
    assert result.returncode == 0, result.stderr


def cells(tree: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["method"], row["column"]): row for row in pl.read_csv(tree / "results/added.csv").to_dicts()}


def test_the_page_has_all_five():
    assert {b.section for b in blocks()} == {"A benchmark", "A method", "A judge", "A reward", "An engine"}


def test_a_benchmark(extended):
    cases = pl.read_parquet(extended / "data/cases/brevity.parquet")
    given = json.loads((extended / "data/brevity.json").read_text())
    assert cases["prompt"].to_list() == [record["prompt"] for record in given]
    assert all(row["n"] == len(given) for row in cells(extended).values())


def test_a_method(extended):
    cases = {case["case_id"]: case for case in pl.read_parquet(extended / "data/cases/brevity.parquet").to_dicts()}
    described = pl.read_parquet(extended / "results/preferences/disliked.parquet")
    for row in described.to_dicts():
        assert row["preference"].split("\n") == [pair["rejected"] for pair in cases[row["case_id"]]["pairs"]]
    assert ("What the user rejected", "judge") in cells(extended)


def test_a_judge(extended):
    read, written = (
        pl.read_parquet(extended / f"results/judgements/{judge}/golden.parquet") for judge in ("judge", "writer")
    )
    assert set(written["p_chosen_ab"]) <= {0.0, 1.0} and not set(read["p_chosen_ab"]) & {0.0, 1.0}
    assert set(written["judge"]) == {"writer"}


def test_a_reward(extended, tiny_model):
    """The kind's probabilities against likelihoods asked for here."""
    judged = pl.read_parquet(extended / "results/judgements/likelier/golden.parquet").to_dicts()
    cases = {case["case_id"]: case for case in pl.read_parquet(extended / "data/cases/brevity.parquet").to_dicts()}
    engine = engines.load({"engine": "transformers", "path": str(tiny_model)})
    templates = Templates(respond=ROOT / "resources/prompts/respond.jinja")
    for row in judged:
        case = cases[row["case_id"]]
        prompt = templates.respond(case["prompt"], case["golden_preference"])
        (chosen, _), (rejected, _) = engine.loglikelihood([prompt] * 2, [case["chosen"], case["rejected"]])
        assert row["p_chosen_ab"] == row["p_chosen_ba"]
        assert (row["p_chosen_ab"] > 0.5) == (chosen > rejected) == row["correct"]


def test_an_engine(extended):
    """People who always say A disagree with themselves on every case, and are right on none."""
    judged = pl.read_parquet(extended / "results/judgements/people/disliked.parquet")
    assert judged["position_flip"].all() and not judged["correct"].any() and judged["unparsed"].sum() == 0
    assert (judged["p_chosen_ab"] == 1).all() and (judged["p_chosen_ba"] == 0).all()


def test_the_page_lint(extended):
    """What the page adds to the library is as the linters want it."""
    for check in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "scripts", "--config", str(ROOT / "pyproject.toml")]
        ruff = subprocess.run(command, cwd=extended, capture_output=True, text=True)
        assert ruff.returncode == 0, ruff.stdout


def test_the_schema_knows_what_the_library_has():
    schema = yaml.safe_load((ROOT / "config/schema.yaml").read_text())["properties"]
    kinds = {name: schema[name]["additionalProperties"]["properties"] for name in ("models", "judges", "methods")}
    assert set(kinds["models"]["engine"]["enum"]) == {
        path.stem for path in ENGINES.glob("*.py") if "\ndef start(" in path.read_text() and path.stem != "__init__"
    }
    assert set(kinds["judges"]["kind"]["enum"]) == set(judging.KINDS)
    assert set(GIVEN) < set(kinds["methods"]["kind"]["enum"])
