"""Text that Markdown would read as markup."""

import itertools
import re

import polars as pl
from alignxplore.results import tables
from alignxplore.results.markdown import escape, rows_markdown
from markdown_it import MarkdownIt
from report_samples import HOSTILE


def rendered(text):
    """A Markdown page's heading, and the cells of its table, row by row, as a reader sees them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    kinds = {"th_open": "cell", "td_open": "cell", "tr_open": "row", "heading_open": "title"}
    rows, title = [], ""
    for before, token in itertools.pairwise(tokens):
        kind = kinds.get(before.type)
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            parts = token.children
            markup = {part.type for part in parts} - {
                "text",
                "text_special",
                "html_inline",
                "strong_open",
                "strong_close",
            }
            assert not markup and {part.content for part in parts if part.type == "html_inline"} <= {"<br>"}
            shown = "".join(part.content for part in parts if part.type != "html_inline")
            if kind == "cell":
                rows[-1].append(shown)
            elif kind == "title":
                title = shown
    return title, rows


def test_names_are_text_in_markdown():
    hostile = "<b>|x_1_ *y* `z` [a](b) \\| ![i](j) &amp; <br>"
    rows = [
        {
            "method": f"{hostile}\n| new | row",
            "column": f"{hostile} col",
            "n": 2,
            "percent": 50.0,
            "low": 0.0,
            "high": 100.0,
        }
        | dict.fromkeys(("mark", "paper"))
    ]
    text = tables.cells_markdown(hostile, "Note.", pl.DataFrame(rows), [f"{hostile} col"])
    expected = [["method", f"{hostile} col"], [f"{hostile} | new | row", "50.0 [0.0, 100.0]"]]
    assert rendered(text) == (hostile, expected)
    text = rows_markdown(hostile, "Note.", pl.DataFrame({"a_b": [hostile], "n": [1.5]}))
    assert rendered(text) == (hostile, [["a b", "n"], [hostile, "1.50"]])


def test_markdown_finds_nothing_in_a_users_text():
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
