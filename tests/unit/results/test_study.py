"""The case study: the cases it chooses, and its Markdown."""

import polars as pl
import pytest
from alignxplore import records
from alignxplore.errors import UserError
from alignxplore.results.markdown import escape
from alignxplore.results.study import case_study, choose_cases, markdown
from markdown_it import MarkdownIt
from report_samples import HOSTILE, LABELS, write_records

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


def test_lines_of_a_users_text_make_no_heading_or_code_together():
    asked = dict.fromkeys(("chosen", "rejected", "golden_preference"), "x")
    text = "title\n===\ntitle\n---\n\n    indented * once\n\ttwice\n> quoted"
    case = {"benchmark": "b", "case_id": "1", "pairs": [], "ugc": [], "rendered": "", "prompt": text, **asked}
    study = markdown([case], pl.DataFrame(schema=records.PREFERENCE), pl.DataFrame(schema=records.JUDGEMENT), {})
    html = MarkdownIt("gfm-like", {"linkify": False}).render(study)
    question = html[html.index("The question") :]
    assert "<code>" not in question and question.count("<h") == 1, "the heading of the judgements"
    assert all(line.strip() in question for line in ("===", "---", "indented * once", "twice", "&gt; quoted"))
