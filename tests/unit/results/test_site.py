"""Figures, the site's generator, and the case study."""

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
from alignxplore import records
from alignxplore.errors import UserError
from alignxplore.results import figures
from alignxplore.results.case_study import case_study, choose_cases, markdown
from alignxplore.results.markdown import escape
from alignxplore.results.site import tables
from alignxplore.results.site.cases import write_cases
from alignxplore.results.site.pages import Inputs, write_site
from alignxplore.results.site.provenance import Provenance
from alignxplore.results.site.scripts import write_call
from alignxplore.results.site.search import SearchIndex, posting, words
from alignxplore.training.metrics import GRPO_METRICS
from PIL import Image
from report_samples import CASES, HOSTILE, JUDGES, LABELS, metrics, provenance_row, sample_inputs, write_records
from report_samples import write_provenance as written

RESOURCES = Path("resources/report")


@pytest.mark.parametrize("kind", ["training", "words"])
def test_figures_are_drawn_and_equal_input_gives_equal_bytes(tmp_path, kind):
    for name in ("one", "two"):
        if kind == "training":
            tables_ = {"alignxplore": metrics(GRPO_METRICS, 0.2), "r_gen": metrics(GRPO_METRICS, 0.1)}
            figure = figures.training_curves(tables_, "loss")
        else:
            figure = figures.word_clouds({"Backbone": ["This person: humorous, tidy."] * 3, "Empty": [""]}, seed=1)
        figures.save(figure, tmp_path / f"{name}.svg", tmp_path / f"{name}.png")
    for suffix in ("svg", "png"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert len(image.convert("L").getcolors(1000)) > 10


def test_word_counts_leave_stop_words_out():
    assert figures.word_counts(["The humorous and the tidy", "humorous"]) == {"humorous": 2, "tidy": 1}


def called(path: Path) -> list:
    """The arguments of the call in a data file."""
    text = path.read_text(encoding="utf-8")
    return json.loads(f"[{text[text.index('(') + 1 : text.rindex(')')]}]")


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
    assert len(pages) == 6
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
    [(None, "No such file.*dt_bundle.js.*install"), ("var a;export{a as b};", "dt_bundle.js: no module.*install")],
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


def test_details_hold_what_the_records_say_whatever_their_order(site):
    (told,) = called(site / "data/index.js")
    assert told["count"] == sum(CASES.values()) and told["judges"] == list(JUDGES)
    assert told["benchmarks"] == [["alignx_test", 90], ["psoups_style", 30]]
    assert [label for _, label in told["methods"]] == list(LABELS.values())
    number = 90 + 4  # case 4 of psoups_style
    place, cases = called(site / f"data/details/{number // told['chunk']}.js")
    case = cases[number - place * told["chunk"]]
    assert (case["id"], case["benchmark"], case["directions"]) == ("case-4", "psoups_style", [["style", -1]])
    assert case["ugc"][0] == ["what did you say", "my own comment 4"] and case["pairs"] == []
    backbone = [name for name, _ in told["methods"]].index("backbone")
    assert case["said"][str(backbone)][:2] == ["backbone reasons of psoups_style 4: unicorn4", "backbone describes 4"]
    assert [row for row in case["judged"] if row[1] == backbone] == [[0, backbone, 0.25, 0.04, False, False, 0]]
    assert case["written"] == {} and case["won"] == []
    (seventh,) = [one for one in called(site / "data/details/0.js")[1] if one["id"] == "case-7"]
    assert seventh["written"][str(backbone)] == "written by backbone" and seventh["won"][0][2] == "b"


def test_outcomes_of_the_index_are_those_of_the_judgements(site):
    (told,) = called(site / "data/index.js")
    methods = [name for name, _ in told["methods"]]
    for judge, of_judge in zip(JUDGES, told["outcomes"], strict=True):
        for method, outcomes in zip(methods, of_judge, strict=True):
            path = site.parent / f"judgements/{judge}/{method}.parquet"
            rows = {(row["benchmark"], row["case_id"]): row["correct"] for row in pl.read_parquet(path).to_dicts()}
            keys = [(benchmark, f"case-{n}") for benchmark, count in CASES.items() for n in range(count)]
            assert outcomes == "".join({True: "1", False: "0", None: "-"}[rows.get(key)] for key in keys)


def test_a_block_more_changes_nothing(site, tmp_path, monkeypatch):
    """Cases are worked on some at a time; how many at a time shows in no file."""
    monkeypatch.setattr("alignxplore.results.site.cases.BLOCK", 25)
    write_cases(write_records(tmp_path), tmp_path / "data")
    for path in (tmp_path / "data").rglob("*.js"):
        assert path.read_bytes() == (site / "data" / path.relative_to(tmp_path / "data")).read_bytes(), path


@pytest.mark.parametrize("numbers", [[], [0], [7], [0, 1, 2, 3, 99], list(range(0, 100, 2)), list(range(100))])
def test_postings_tell_the_numbers(numbers):
    text = posting(np.array(numbers, dtype=np.int64), 100)
    if text.startswith("!"):
        bits = np.unpackbits(np.frombuffer(base64.b64decode(text[1:]), dtype=np.uint8), bitorder="little")
        assert np.flatnonzero(bits).tolist() == numbers
    else:
        assert np.cumsum([int(step) for step in text.split(",")] if text else []).tolist() == numbers
    assert len(text) < 24


def test_words_are_lower_case_once_each_and_cut():
    found = words(pl.Series(["Ａ cat's CAT, naïve_x 猫が 3.14", "", "x" * 50]))
    assert [sorted(one) for one in found.to_list()] == [
        ["14", "3", "a", "cat", "naïve_x", "s", "が", "猫"],
        [],
        ["x" * 40],
    ]


def test_every_word_is_in_one_shard_with_all_its_cases(tmp_path, monkeypatch):
    monkeypatch.setattr("alignxplore.results.site.search.SHARD_BYTES", 100)
    index = SearchIndex(tmp_path / "work")
    for start in (0, 50):
        numbers = range(start, start + 50)
        texts = [f"all word{n} {'half' if n % 2 else 'émile'}" for n in numbers]
        index.add(pl.DataFrame({"number": numbers, "text": texts}, schema={"number": pl.UInt32, "text": pl.String}))
    shards = index.write(tmp_path / "words", 100)
    assert len(shards) > 5 and shards == sorted(shards)
    found = {}
    for place, (first, last) in enumerate(shards):
        number, own, postings = called(tmp_path / f"words/{place}.js")
        own = own.split(" ")
        assert (number, own[0], own[-1]) == (place, first, last) and not set(own) & set(found)
        found |= dict(zip(own, postings.split(" "), strict=True))
    assert set(found) == {"all", "half", "émile"} | {f"word{n}" for n in range(100)}
    assert found["word73"] == "73" and found["all"] == posting(np.arange(100), 100)
    assert found["half"] == posting(np.arange(1, 100, 2), 100)


def test_unknown_methods_are_named(tmp_path):
    sources = write_records(tmp_path)
    labels = {name: label for name, label in sources.labels.items() if name != "backbone"}
    with pytest.raises(UserError, match="no label for method 'backbone', which .*backbone.parquet has"):
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
    table = tables.read_table(path)
    assert table.columns == ("y", "x") and list(table.wide) == ["b", "a"] and len(table.rows) == 3
    assert table.wide["b"]["y"] == tables.Figure(50, 40, 60.5, "*", 51.25)
    assert table.wide["b"]["y"].change is None
    assert table.wide["b"]["y"].difference == -1.25 and table.wide["a"]["x"].difference is None
    path.write_text("method,column,percent,low,high,change,change_low,change_high\na,x,1,0,2,-3,-4,-2\na,y,1,0,2,,,\n")
    changes = [figure.change for figure in tables.read_table(path).wide["a"].values()]
    assert changes == [(-3, -4, -2), None]
    path.write_text("method,n\na,1\n")
    assert tables.read_table(path).wide is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method,column,percent,low,high\na,b,x,1,2\n", "line 2, field 'percent': 'x' is not a number"),
        ("a,b\n1\n", "line 2 has 1 fields, the first has 2"),
        ("", "cannot be read as CSV"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=f"t.csv: {message}"):
        tables.read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("value", "shown"),
    [("71.23456", "71.23"), ("12", "12"), ("0.0", "0.00"), ("2e-6", "2e-06"), ("0.004567", "0.0046"), ("text", "text")],
)
def test_figures_are_rounded_and_text_is_not(value, shown):
    assert tables.plain(value) == shown


def test_provenance_follows_inputs_to_the_start_and_counts_a_job_once(tmp_path):
    rows = [
        provenance_row("results/t.csv", "table", ["results/j.parquet", "data/none.parquet"]),
        provenance_row("results/t.md", "table", ["results/j.parquet"]),
        provenance_row("results/j.parquet", "judge", ["models/m/weights.safetensors", "results/p.parquet"]),
        provenance_row("results/p.parquet", "infer", ["models/m"], account=json.dumps([])),
        provenance_row("models/m", "train", [], seconds=5.5, account=None),
    ]
    known = Provenance.read(written(tmp_path / "p.parquet", rows))
    assert known.chain("results/t.csv") == ["results/j.parquet", "models/m", "results/p.parquet"]
    total = known.origin("results/t.csv")["total"]
    assert (total.jobs, total.seconds, total.asked, total.cost) == (4, 35.5, 10, 0.5)
    assert known.total(["results/t.csv", "results/t.md"]).jobs == 1
    assert known.origin("results/other.csv") is None


def test_a_circle_of_inputs_ends(tmp_path):
    rows = [provenance_row("a", "r", ["b"]), provenance_row("b", "s", ["a"])]
    assert Provenance.read(written(tmp_path / "p.parquet", rows)).chain("a") == ["b"]


def test_bad_provenance_is_named(tmp_path):
    path = written(tmp_path / "p.parquet", [{**provenance_row("results/t.csv", "table", []), "inputs": "{"}])
    with pytest.raises(UserError, match=r"p.parquet: output 'results/t.csv', field 'inputs': no JSON"):
        Provenance.read(path)
    pl.DataFrame({"output": ["a"]}).write_parquet(path)
    with pytest.raises(UserError, match=r"p.parquet: field 'rule' is missing"):
        Provenance.read(path)


JUDGED = pl.DataFrame(
    [
        {"case_id": case, "method": method, "p_chosen_ab": p, "p_chosen_ba": p, "correct": p > 0.5}
        for case, low, high in [("b", 0.4, 0.6), ("a", 0.4, 0.6), ("c", 0.6, 0.99), ("d", 0.1, 0.9), ("e", 0.2, 0.3)]
        for method, p in (("one", low), ("two", high))
    ]
    + [{"case_id": "f", "method": "one", "p_chosen_ab": 0.0, "p_chosen_ba": 0.0, "correct": False}]
)


def test_cases_on_which_methods_differ_are_chosen_first():
    assert choose_cases(JUDGED, ["one", "two"], 9) == ["d", "a", "b", "c", "e"]
    assert choose_cases(JUDGED.reverse(), ["two", "one"], 2) == ["d", "a"]


def test_the_study_shows_each_method_and_judgement(tmp_path):
    sources = write_records(tmp_path)
    labels = {name: LABELS[name] for name in ("backbone", "alignxplore")}
    judgements = [path for path in sources.judgements if path.parent.name == "judge" and path.stem in labels]
    cases, text = case_study(sources.cases[0], sources.preferences, judgements, labels, ["case-7", "case-5"])
    assert cases.to_dicts() == [{"benchmark": "alignx_test", "case_id": one} for one in ("case-7", "case-5")]
    seventh, fifth = text.split("## alignx\\_test, case ")[1:]
    assert (
        "backbone reasons of alignx\\_test 7: unicorn7" in seventh
        and "| Backbone | judge | 0.250 | 0.070 | wrong |" in seventh
    )
    assert seventh.count("**Chosen**") == 5 and "likes brevity" in seventh
    assert escape(HOSTILE.splitlines()[0]) in fifth
    with pytest.raises(UserError, match="case_study.cases: .*alignx_test.parquet has no case 'case-999'"):
        case_study(sources.cases[0], sources.preferences, judgements, labels, ["case-999"])


def test_markdown_finds_nothing_in_a_users_text():
    from markdown_it import MarkdownIt

    lines = [
        "# no heading",
        "- no item",
        "1. no item",
        "[no](javascript:x)",
        "<b>no</b>",
        "a | b",
        "```",
        "&lt;",
        "`x`",
        "*x*",
    ]
    for line in [*lines, HOSTILE.replace("\u2028", " ").replace("\u2029", " ")]:
        html = MarkdownIt("gfm-like", {"linkify": False}).render(escape(line))
        assert re.fullmatch(r"<p>[^<>]*</p>\n", html), html


def test_lines_of_a_users_text_make_no_heading_or_code_together():
    from markdown_it import MarkdownIt

    asked = dict.fromkeys(("chosen", "rejected", "golden_preference"), "x")
    text = "title\n===\ntitle\n---\n\n    indented * once\n\ttwice\n> quoted"
    case = {"benchmark": "b", "case_id": "1", "pairs": [], "ugc": [], "prompt": text, **asked}
    study = markdown([case], pl.DataFrame(schema=records.PREFERENCE), pl.DataFrame(schema=records.JUDGEMENT), {})
    html = MarkdownIt("gfm-like", {"linkify": False}).render(study)
    question = html[html.index("The question") :]
    assert "<code>" not in question and question.count("<h") == 1, "the heading of the judgements"
    assert all(line.strip() in question for line in ("===", "---", "indented * once", "twice", "&gt; quoted"))


def test_a_study_of_a_case_that_is_not_shown_says_so(tmp_path):
    inputs = sample_inputs(tmp_path)
    inputs.study.write_text(json.dumps({"methods": [], "cases": [{"benchmark": "other", "case_id": "x"}]}))
    with pytest.raises(UserError, match="case_study.json: the report has no case 'x'"):
        write_site(RESOURCES, tmp_path / "site", inputs)


def test_data_files_are_what_a_browser_reads_too(site):
    """The tables as Parquet beside the pages."""
    cells = pl.read_parquet(site / "data/cells.parquet")
    assert cells.filter(pl.col("method") == "VPL").select("table", "percent", "paper").rows() == [
        ("table2", 75.5, None)
    ]
    cases = pl.read_parquet(site / "data/cases.parquet")
    assert cases["number"].to_list() == list(range(sum(CASES.values())))
    assert records.CASE["case_id"] == cases.schema["case_id"]


def test_the_browser_tests_are_skipped_aloud_without_a_browser():
    code = "import os, pytest; os.environ['PATH'] = ''; pytest.main(['tests/browser', '-rs', '-k', 'sort'])"
    environment = {name: value for name, value in os.environ.items() if name != "CHROMIUM"}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, check=False, env=environment).stdout
    assert "install Debian's package chromium" in told and "1 skipped" in told and "1 warning" in told
