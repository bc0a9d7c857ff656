"""The report site: its pages, its data files, and the errors in its inputs."""

import base64
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import stream_samples
from alignxplore import records
from alignxplore.errors import UserError
from alignxplore.results.site import csv_tables
from alignxplore.results.site.explorer import Sources, write_cases
from alignxplore.results.site.javascript import packed, postings, write_call
from alignxplore.results.site.lineage import Lineage
from alignxplore.results.site.pages import Inputs, write_site
from alignxplore.results.site.search import SearchIndex, words
from report_samples import (
    CASES,
    HOSTILE,
    JUDGES,
    LABELS,
    called,
    compressed,
    provenance_row,
    sample_inputs,
    write_records,
)
from report_samples import write_provenance as written

RESOURCES = Path("resources/report")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return sample_inputs(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def site(inputs) -> Path:
    write_site(RESOURCES, inputs.splits.parent / "report", inputs)
    return inputs.splits.parent / "report"


def test_no_text_can_leave_a_script(tmp_path):
    write_call(tmp_path / "a.js", "f", HOSTILE, {HOSTILE: [None, True]})
    text = (tmp_path / "a.js").read_text(encoding="utf-8")
    assert not set("<>&\u2028\u2029") & set(text) and text.count("\n") == 1
    assert called(tmp_path / "a.js") == [HOSTILE, {HOSTILE: [None, True]}]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_call(tmp_path / "b.js", "f", float("nan"))


def test_pages_escape_all_text_and_ask_for_nothing_from_elsewhere(site):
    pages = list(site.glob("*.html"))
    assert len(pages) == 7
    for page in pages:
        text = page.read_text(encoding="utf-8")
        parts = Tags(text)
        assert not [name for name in parts.attributes if name.startswith("on") or name == "style"]
        policy = parts.attributes["content"][0]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        targets = {target.partition("#")[0] for name in ("src", "href") for target in parts.attributes[name]} - {""}
        assert len(targets) > 5 and all((site / target).is_file() for target in targets)


def test_datatables_become_one_script_with_its_licences(site):
    text = (site / "assets/datatables.js").read_text(encoding="utf-8")
    assert "Permission is hereby granted" in text and "DataTables 2." in text and "SpryMedia" in text
    assert text.count("window.DataTable=") == 1 and not re.search(r"\bexport\s*\{", text)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, "No such file.*dt_bundle.js.*install"),
        ("var a;export{a as b};", "dt_bundle.js: not a DataTables module.*install"),
    ],
)
def test_another_itables_is_named(inputs, tmp_path, monkeypatch, module, message):
    information = tmp_path / "other/itables-9.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: itables\nVersion: 9.0\n")
    if module:
        bundle = tmp_path / "other/itables/html/dt_bundle.js"
        bundle.parent.mkdir(parents=True)
        bundle.write_text(module)
    monkeypatch.syspath_prepend(tmp_path / "other")
    with pytest.raises(UserError, match=message):
        write_site(RESOURCES, tmp_path / "site", inputs)


class Tags(HTMLParser):
    """The values of each attribute of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.attributes: dict[str, list[str]] = defaultdict(list)
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            self.attributes[name].append(value)
        assert tag != "script" or dict(attrs).get("src", "").endswith(".js")


def test_equal_records_give_equal_sites(site, inputs, tmp_path):
    write_site(RESOURCES, tmp_path / "again", inputs)
    paths = sorted(path.relative_to(site) for path in site.rglob("*") if path.is_file())
    assert len(paths) > 30
    for path in paths:
        assert (site / path).read_bytes() == (tmp_path / "again" / path).read_bytes(), path


def test_details_equal_the_records_in_any_order(site):
    (index,) = called(site / "data/index.js")
    assert index["count"] == sum(CASES.values()) and index["judges"] == list(JUDGES)
    assert index["benchmarks"] == [["alignx_test", 90], ["psoups_style", 30]]
    assert [label for _, label in index["methods"]] == list(LABELS.values())
    number = 90 + 4  # case 4 of psoups_style
    place, cases = compressed(site / f"data/details/{number // index['chunk']}.js")
    case = cases[number - place * index["chunk"]]
    assert (case["id"], case["benchmark"], case["directions"]) == ("case-4", "psoups_style", [["style", -1]])
    assert case["ugc"][0] == ["what did you say", "my own comment 4"] and case["pairs"] == []
    backbone = [name for name, _ in index["methods"]].index("backbone")
    assert case["described"][str(backbone)][:2] == [
        "backbone reasons of psoups_style 4: unicorn4",
        "backbone describes 4",
    ]
    assert [row for row in case["judged"] if row[1] == backbone] == [[0, backbone, 0.25, 0.04, False, False, 0]]
    assert case["written"] == {} and case["won"] == []
    (seventh,) = [one for one in compressed(site / "data/details/0.js")[1] if one["id"] == "case-7"]
    assert seventh["written"][str(backbone)] == "written by backbone" and seventh["won"][0][2] == "b"
    eighth = compressed(site / "data/details/0.js")[1][8]
    assert [row[2:4] for row in eighth["judged"] if row[1] == backbone] == [[0.25, None], [0.75, None]]


def test_the_outcomes_in_the_index_equal_the_judgements(site):
    (index,) = called(site / "data/index.js")
    methods = [name for name, _ in index["methods"]]
    for judge, of_judge in zip(JUDGES, index["outcomes"], strict=True):
        for method, outcomes in zip(methods, of_judge, strict=True):
            path = site.parent / f"judgements/{judge}/{method}.parquet"
            rows = {(row["benchmark"], row["case_id"]): row["correct"] for row in pl.read_parquet(path).to_dicts()}
            keys = [(benchmark, f"case-{n}") for benchmark, count in CASES.items() for n in range(count)]
            assert outcomes == "".join({True: "1", False: "0", None: "-"}[rows.get(key)] for key in keys)


def test_the_block_size_changes_no_file(site, tmp_path, monkeypatch):
    """The number of cases in memory at a time does not show in any file."""
    monkeypatch.setattr("alignxplore.results.site.explorer.BLOCK", 25)
    write_cases(write_records(tmp_path), tmp_path / "data")
    for path in (tmp_path / "data").rglob("*.js"):
        assert path.read_bytes() == (site / "data" / path.relative_to(tmp_path / "data")).read_bytes(), path


def test_a_streams_steps_may_be_in_different_blocks(tmp_path, monkeypatch):
    """What changed since the step before is in the details, wherever that step's case is."""
    paths = stream_samples.write(tmp_path)
    labels = {method["name"]: method["label"] for method in stream_samples.METHODS}
    sources = Sources(paths["cases"], paths["preferences"], paths["judgements"], labels, {})
    write_cases(sources, tmp_path / "whole")
    monkeypatch.setattr("alignxplore.results.site.explorer.BLOCK", 25)
    numbers = write_cases(sources, tmp_path / "divided")
    details = sorted((tmp_path / "whole/details").iterdir())
    assert len(details) == numbers.height / 25 > 4
    for path in details:
        assert path.read_bytes() == (tmp_path / "divided/details" / path.name).read_bytes()


@pytest.mark.parametrize("size", [*range(1, 17), 1000])
def test_packed_bytes_decode_and_need_no_escape(size):
    data = b"\xff" + np.random.default_rng(size).bytes(size - 1)
    text = packed(data)
    assert len(text) == -(-8 * size // 15) and {"\u5000" <= character <= "\ucfff" for character in text} == {True}
    number = int("".join(f"{ord(character) - 0x5000:015b}" for character in text), 2)
    assert (number >> 15 * len(text) - 8 * size).to_bytes(size, "big") == data


def test_postings_decode_to_their_numbers():
    lists = [[], [0, 1, 2, 3, 99], [0], list(range(0, 100, 2)), [7], list(range(100)), [1, 99]]
    texts = postings(pl.Series(lists, dtype=pl.List(pl.UInt32)), 100)
    for numbers, text in zip(lists, texts, strict=True):
        if text.startswith("!"):
            bits = np.unpackbits(np.frombuffer(base64.b64decode(text[1:]), dtype=np.uint8), bitorder="little")
            assert np.flatnonzero(bits).tolist() == numbers
        else:
            assert np.cumsum([int(step) for step in text.split(",")] if text else []).tolist() == numbers
        assert len(text) < 24


def test_words_are_lower_case_and_cut():
    found = words(pl.Series(["Ａ cat's CAT, naïve_x 猫が 3.14", "", "x" * 50]))
    assert found.to_list() == [["a", "cat", "s", "cat", "naïve_x", "猫", "が", "3", "14"], [], ["x" * 40]]


def test_every_word_is_in_one_shard_with_all_its_cases(tmp_path, monkeypatch):
    """Also if it is written in several ways, in several texts of a case and in several parts of the merge."""
    monkeypatch.setattr("alignxplore.results.site.search.SHARD_BYTES", 100)
    monkeypatch.setattr("alignxplore.results.site.search.PART", 60)
    index = SearchIndex(tmp_path / "work")
    for start in (0, 50):
        numbers = range(start, start + 50)
        texts = ["All, word{}\n{}".format(n, "half" if n % 2 else "E\u0301mile") for n in numbers]
        texts += [f"all ALL émile. WORD{n}" for n in numbers]
        schema = {"number": pl.UInt32, "text": pl.String}
        index.add(pl.DataFrame({"number": [*numbers, *numbers], "text": texts}, schema=schema))
    shards = index.write(tmp_path / "words", 100)
    assert len(shards) > 5 and shards == sorted(shards)
    found = {}
    for place, (first, last) in enumerate(shards):
        number, (own, cases) = compressed(tmp_path / f"words/{place}.js")
        assert (number, own[0], own[-1]) == (place, first, last) and not set(own) & set(found)
        found |= dict(zip(own, cases, strict=True))
    assert set(found) == {"all", "half", "émile"} | {f"word{n}" for n in range(100)}
    expected = pl.Series([[73], range(100), range(1, 100, 2), range(100)], dtype=pl.List(pl.UInt32))
    assert [found[word] for word in ("word73", "all", "half", "émile")] == postings(expected, 100)


def test_a_file_that_cannot_be_written_ends_the_job(tmp_path):
    (tmp_path / "data/details/2.js").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=r"details/2\.js"):
        write_cases(write_records(tmp_path), tmp_path / "data")


def test_unknown_methods_are_named(tmp_path):
    sources = write_records(tmp_path)
    labels = {name: label for name, label in sources.labels.items() if name != "backbone"}
    with pytest.raises(UserError, match="method 'backbone' in .*backbone.parquet has no label"):
        write_cases(replace(sources, labels=labels), tmp_path / "data")


def test_records_that_break_their_contract_are_named(tmp_path):
    sources = write_records(tmp_path)
    pl.read_parquet(sources.preferences[1]).drop("reasoning").write_parquet(sources.preferences[1])
    with pytest.raises(UserError, match=r"backbone.parquet: field 'reasoning' is missing"):
        write_cases(sources, tmp_path / "data")
    Path(sources.preferences[1]).write_text("no Parquet")
    with pytest.raises(UserError, match=r"backbone.parquet: cannot be read as Parquet"):
        write_cases(sources, tmp_path / "data")


def test_a_wide_table_keeps_the_order_and_every_field(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "method,column,n,percent,low,high,mark,paper\nb,y,9,50,40,60.5,*,51.25\na,x,9,1,0,2,best,\nb,x,9,3,2,4,,\n"
    )
    table = csv_tables.read_table(path)
    assert table.columns == ("y", "x") and list(table.wide) == ["b", "a"] and len(table.rows) == 3
    assert table.wide["b"]["y"] == csv_tables.Cell(50, 40, 60.5, "*", 51.25)
    assert table.wide["b"]["y"].change is None
    assert table.wide["b"]["y"].difference == -1.25 and table.wide["a"]["x"].difference is None
    path.write_text("method,column,percent,low,high,change,change_low,change_high\na,x,1,0,2,-3,-4,-2\na,y,1,0,2,,,\n")
    changes = [figure.change for figure in csv_tables.read_table(path).wide["a"].values()]
    assert changes == [(-3, -4, -2), None]
    path.write_text("method,column,percent,low,high\na,x,,,\na,y,1,0,2\nb,x,,,\n")
    table = csv_tables.read_table(path)
    assert table.columns == ("x", "y") and {method: list(row) for method, row in table.wide.items()} == {
        "a": ["y"],
        "b": [],
    }, "a line without a percentage is a row and a column, and has no cell"
    path.write_text("method,n\na,1\n")
    assert csv_tables.read_table(path).wide is None


def test_win_rate_columns_follow_the_rows(tmp_path):
    path = tmp_path / "t.csv"
    methods = ("A", "B, against all", "C")
    lines = [
        f'"{method}","{group}, against {opponent}",1,0,2'
        for method in methods
        for group in ("y", "x")
        for opponent in methods
        if method != opponent
    ]
    path.write_text("\n".join(["method,column,percent,low,high", *lines]) + "\n")
    expected = tuple(f"{group}, against {method}" for group in ("y", "x") for method in methods)
    assert csv_tables.read_table(path).columns == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method,column,percent,low,high\na,b,x,1,2\n", "line 2, field 'percent': 'x' is not a number"),
        ("a,b\n1\n", "line 2 has 1 fields, but the header has 2"),
        ("", "cannot be read as CSV"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=f"t.csv: {message}"):
        csv_tables.read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("value", "shown"),
    [("71.23456", "71.23"), ("12", "12"), ("0.0", "0.00"), ("2e-6", "2e-06"), ("0.004567", "0.0046"), ("text", "text")],
)
def test_figures_are_rounded_and_text_is_not(value, shown):
    assert csv_tables.plain(value) == shown


def test_lineage_follows_inputs_to_the_start_and_counts_a_job_once(tmp_path):
    rows = [
        provenance_row("results/t.csv", "table", ["results/j.parquet", "data/none.parquet"]),
        provenance_row("results/t.md", "table", ["results/j.parquet"]),
        provenance_row("results/j.parquet", "judge", ["models/m/weights.safetensors", "results/p.parquet"]),
        provenance_row("results/p.parquet", "infer", ["models/m"], account=json.dumps([])),
        provenance_row("models/m", "train", [], seconds=5.5, account=None),
    ]
    known = Lineage.read(written(tmp_path / "p.parquet", rows))
    assert known.chain("results/t.csv") == ["results/j.parquet", "models/m", "results/p.parquet"]
    total = known.origin("results/t.csv")["total"]
    assert (total.jobs, total.seconds, total.asked, total.cost) == (4, 35.5, 10, 0.5)
    assert known.total(["results/t.csv", "results/t.md"]).jobs == 1
    assert known.origin("results/other.csv") is None


def test_answers_from_the_journal_count_with_what_they_took_when_they_were_made(tmp_path):
    """The same job, first with new answers and then, in a rerun, with the journal's."""
    new = {"model": "m", "asked": 5, "from_journal": 0, "prompt_tokens": 90, "completion_tokens": 10}
    zero = {"reused_tokens": 0, "reused_seconds": 0.0, "reused_cost": 0.0}
    first = {**new, "seconds": 8.0, "cost": 2.5, **zero}
    again = {**first, "from_journal": 5, "prompt_tokens": 0, "completion_tokens": 0, "seconds": 0.0, "cost": 0.0}
    again |= {"reused_tokens": 100, "reused_seconds": 8.0, "reused_cost": 2.5}
    totals = []
    for name, account, seconds in (("first", first, 9.0), ("again", again, 1.0)):
        row = provenance_row("results/t.csv", "infer", [], account=json.dumps([account]), seconds=seconds)
        totals.append(Lineage.read(written(tmp_path / f"{name}.parquet", [row])).total(["results/t.csv"]))
    before, after = totals
    assert (before.seconds, before.tokens, before.cost) == (9.0, 100, 2.5)
    assert after == replace(before, from_journal=5)


def test_reference_methods_are_marked_and_explained(site, inputs, tmp_path):
    tag = '<span class="tag">reference</span>'
    assert tag not in (site / "index.html").read_text()
    write_site(RESOURCES, tmp_path / "site", replace(inputs, references=["VPL"]))
    text = (tmp_path / "site/index.html").read_text()
    assert f'<th scope="row">VPL {tag}</th>' in text and f"<td>VPL {tag}</td>" in text
    assert f"Rows marked {tag} do not compete" in text
    assert text.count(tag) == 4, "the legend, a row of the wide table, and both of its lines in the CSV"


def test_a_run_of_scale_models_says_so_at_the_top(site, inputs, tmp_path):
    said = "say nothing about language models"
    assert said not in (site / "index.html").read_text()
    write_site(RESOURCES, tmp_path / "site", replace(inputs, demo=True))
    text = (tmp_path / "site/index.html").read_text()
    assert said in text and text.index(said) < text.index('<dl class="glance">')


def test_the_navigation_lists_pages_with_content_only(site, inputs, tmp_path):
    def listed(directory: Path) -> list[str]:
        nav = re.search(r'<nav aria-label="Pages">(.*?)</nav>', (directory / "index.html").read_text(), re.DOTALL)
        return re.findall(r'href="(\w+)\.html"', nav[1])

    assert listed(site) == ["index", "cases", "case_study", "training", "rollouts", "data", "provenance"]
    sources = Sources([], [], [], {}, {})
    none = replace(inputs, sources=sources, study=None, metrics={}, rollouts={}, funnel=None, splits=None, rejects=[])
    write_site(RESOURCES, tmp_path / "site", none)
    assert listed(tmp_path / "site") == ["index", "provenance"]
    assert {page.stem for page in (tmp_path / "site").glob("*.html")} == {"index", "provenance"}


def test_splits_that_are_given_have_a_page_without_a_funnel_and_curves_need_no_figures(inputs, tmp_path):
    write_site(RESOURCES, tmp_path / "site", replace(inputs, funnel=None, rejects=inputs.rejects * 2, figures=[]))
    page = (tmp_path / "site/data.html").read_text()
    assert "Data sets" in page and "Refinement, rule by rule" not in page
    assert len(re.findall("data/rejects.parquet", page)) == 2 * len(re.findall("results/splits.csv", page)) > 0
    assert list((tmp_path / "site/figures").glob("training-*.svg"))


def test_evaluations_are_drawn_beside_training_and_absent_metrics_are_left_out(site):
    page = (site / "training.html").read_text()
    assert "held out reward" in page and "kl</th>" not in page, "no checkpoint reports it"
    drawn = {path.stem.rpartition("-")[2] for path in (site / "figures").glob("training-0-*.svg")}
    assert drawn == {"reward", "completion_length", "entropy", "loss"}, (
        "what never changes, and held-out metrics, have no figure of their own"
    )
    curve = (site / "figures/training-0-reward.svg").read_text()
    assert (
        curve.count("alignxplore, held out") == 1
        and "held out" not in (site / "figures/training-0-loss.svg").read_text()
    )


def test_rollouts_of_some_steps_are_shown(site, inputs, tmp_path):
    page = (site / "rollouts.html").read_text()
    steps = re.findall(r"<summary>(Step|Held out, after step) (\d+) ", page)
    assert [int(step) for kind, step in steps if kind == "Step"] == [1, 3, 6, 8, 11, 14, 16, 19, 22, 24, 27, 30]
    assert [int(step) for kind, step in steps if kind != "Step"] == [10, 20, 30]
    assert page.count("step 30 describes 7: likes brevity") == 2, "in training, and in the evaluation"
    table = records.read(inputs.rollouts["alignxplore"], records.ROLLOUT)
    long = table.head(1).with_columns(preference=pl.lit("a" * 10_000))
    records.write(long, tmp_path / "long.parquet", records.ROLLOUT)
    write_site(RESOURCES, tmp_path / "site", replace(inputs, rollouts={"alignxplore": tmp_path / "long.parquet"}))
    assert re.findall("a{1000,}", (tmp_path / "site/rollouts.html").read_text()) == ["a" * 4_000]


def test_a_cycle_of_inputs_ends(tmp_path):
    rows = [provenance_row("a", "r", ["b"]), provenance_row("b", "s", ["a"])]
    assert Lineage.read(written(tmp_path / "p.parquet", rows)).chain("a") == ["b"]


def test_bad_provenance_is_named(tmp_path):
    path = written(tmp_path / "p.parquet", [{**provenance_row("results/t.csv", "table", []), "inputs": "{"}])
    with pytest.raises(UserError, match=r"p.parquet: output 'results/t.csv', field 'inputs': not valid JSON"):
        Lineage.read(path)
    pl.DataFrame({"output": ["a"]}).write_parquet(path)
    with pytest.raises(UserError, match=r"p.parquet: field 'rule' is missing"):
        Lineage.read(path)


def test_a_study_of_a_case_outside_the_report_is_named(tmp_path):
    inputs = sample_inputs(tmp_path)
    inputs.study.write_text(json.dumps({"methods": [], "cases": [{"benchmark": "other", "case_id": "x"}]}))
    with pytest.raises(UserError, match="case_study.json: the report has no case 'x'"):
        write_site(RESOURCES, tmp_path / "site", inputs)


def test_parquet_files_equal_what_the_pages_show(site):
    """The Parquet files beside the pages have the tables' cells and the explorer's case numbers."""
    cells = pl.read_parquet(site / "data/cells.parquet")
    assert cells.filter(pl.col("method") == "VPL").select("table", "percent", "paper").rows() == [
        ("table2", 75.5, None)
    ]
    cases = pl.read_parquet(site / "data/cases.parquet")
    assert cases["number"].to_list() == list(range(sum(CASES.values())))
    assert records.CASE["case_id"] == cases.schema["case_id"]


def test_without_a_browser_its_tests_are_skipped_with_a_warning():
    run = "pytest.main(['tests/integration/test_site_in_browser.py', '-rs', '-k', 'sort_by_number'])"
    code = f"import os, pytest; os.environ['PATH'] = ''; {run}"
    environment = {name: value for name, value in os.environ.items() if name != "CHROMIUM"}
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=False, env=environment).stdout
    assert "install Debian's package chromium" in output and "1 skipped" in output and "1 warning" in output
