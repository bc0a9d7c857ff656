"""The report site in a browser, opened from disk: what it shows, how it works, and that no user's text runs as code."""

import json
import mimetypes
import os
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl
import pytest
import stream_samples
from alignxplore.results.site.explorer import Sources
from alignxplore.results.site.pages import write_site
from report_samples import CASES, HOSTILE, LABELS, correct, sample_inputs

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WITHOUT = "no Chromium: install Debian's package chromium, or set the environment variable CHROMIUM to its path"
if CHROMIUM is None:
    warnings.warn(f"the browser tests are skipped: {WITHOUT}", stacklevel=1)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)
playwright_api = pytest.importorskip("playwright.sync_api")
expect = playwright_api.expect
ALL = sum(CASES.values())


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    write_site(Path("resources/report"), directory / "results/report", sample_inputs(directory))
    return directory / "results/report"


@pytest.fixture(scope="module")
def browser():
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page, with a list of everything that happened in it and must not."""

    def __init__(self, browser, site, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(5000)
        self.site, self.faults = site, []
        self.page.on("console", lambda message: self.faults.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        self.page.on("request", self._requested)

    def _requested(self, request):
        if not request.url.startswith(self.site.as_uri()):
            self.faults.append(f"request: {request.url}")

    def open(self, name, fragment=""):
        # Through a blank page, so that a change of fragment alone is a new visit too.
        self.page.goto("about:blank")
        self.page.goto(f"{self.site.as_uri()}/{name}.html{fragment}")
        return self.page


@pytest.fixture
def visit(browser, site, request):
    visit = Visit(browser, site, **getattr(request, "param", {}))
    yield visit
    assert visit.faults == []
    visit.context.close()


def press(head) -> str | None:
    """Click a column's heading; returns the direction it then announces. The table is sorted a moment later."""
    before = head.get_attribute("aria-sort")
    head.get_by_role("button").click()
    if before:
        expect(head).not_to_have_attribute("aria-sort", before)
    else:
        expect(head).to_have_attribute("aria-sort", re.compile("ending$"))
    return head.get_attribute("aria-sort")


def columns_of(page, table: str, column: int) -> list[str]:
    return page.locator(f"{table} tbody tr > :nth-child({column})").all_inner_texts()


def status(page):
    return page.locator("#status")


def expect_count(page, count: int):
    expect(status(page)).to_have_text(re.compile(f"^{count} of {ALL} cases"))


def test_every_table_is_there_with_its_numbers(visit):
    page = visit.open("index")
    wide = page.locator("#table2 table.wide")
    assert wide.locator("thead th").all_inner_texts() == ["method", "alignx_test", "a, column"]
    null = wide.locator("tbody tr").first.locator("td").all_inner_texts()
    assert [re.sub(r"\s+", " ", text).strip() for text in null] == [
        "51.0* 44.0 to 57.5 paper 51.4 (−0.4)",
        "9.2 1.0 to 17.5",
    ]
    expect(wide.locator("td.best .value")).to_have_text("75.5 best")
    page.locator("#table2 summary").click()
    fields = page.locator("#table2 details table tbody tr").first.locator("td")
    assert fields.all_inner_texts()[6:] == ["2e-06", "*", "51.37", "1e-05", "4.44", "0.00", "0.00"]
    assert columns_of(page, "#table1 table", 2) == ["90", "1000"]
    figure = page.locator("#figure2 img")
    assert figure.evaluate("image => image.complete && image.naturalWidth") == 300


def test_tables_sort_by_number_and_back(visit):
    page = visit.open("index")
    head = page.locator("#table2 table.wide thead th").nth(1)
    before = columns_of(page, "#table2 table.wide", 1)
    orders = []
    for _ in range(3):
        press(head)
        values = page.locator("#table2 table.wide tbody tr > :nth-child(2)").evaluate_all(
            "cells => cells.map(cell => cell.dataset.order ?? null)"
        )
        orders.append((head.get_attribute("aria-sort"), values))
    assert orders[0] == ("descending", ["75.5", "60.0", "51.0", None])
    assert orders[1] == ("ascending", ["51.0", "60.0", "75.5", None])
    assert columns_of(page, "#table2 table.wide", 1) == before


def points(page):
    """The table of the figure's 25 points: 0 and 12 have no accuracy; 24, with hostile text, has the lowest."""
    page.locator("#figure2 summary").click()
    return page.locator("#figure2 table")


def test_missing_values_sort_last_in_either_direction(visit):
    page = visit.open("index")
    table = points(page)
    head = table.locator("thead th").nth(3)
    seen = []
    for direction in ("descending", "ascending", None):
        assert press(head) == direction
        assert table.locator("th[aria-sort]").count() == (direction is not None)
        seen.append(columns_of(page, "#figure2 table", 4))
    figures = sorted([x * 37 % 100 / 100 for x in range(24) if x % 12] + [-1.5])
    assert [[float(text) for text in texts[:23]] for texts in seen[:2]] == [figures[::-1], figures]
    assert seen[0][23:] == seen[1][23:] == ["", ""]
    assert columns_of(page, "#figure2 table", 3) == [str(x) for x in range(25)]
    last = table.locator("tbody tr:last-child > :nth-child(2)")
    for direction, name in (("ascending", "Null"), ("descending", HOSTILE)):
        assert press(table.locator("thead th").nth(1)) == direction
        assert last.text_content() == name


def test_only_long_tables_have_a_search_box(visit):
    page = visit.open("index")
    table = points(page)
    assert page.get_by_role("searchbox").count() == page.locator("#figure2 input").count() == 1
    search, status = page.get_by_label("Search"), page.locator("#figure2 [role=status]")
    expect(status).to_have_text("25 rows")
    search.fill("<SCRIPT> alert(1) title='hit'")
    expect(status).to_have_text("0 of 25 rows")
    expect(table.locator("tbody")).to_have_text("No row contains all of these words.")
    search.fill("<SCRIPT> judge title='hit'")
    expect(status).to_have_text("1 of 25 rows")
    assert table.locator("tbody td").nth(1).text_content() == HOSTILE
    search.fill("")
    expect(table.locator("tbody tr")).to_have_count(25)
    page.emulate_media(media="print")
    expect(search).to_be_hidden()


def test_filters_narrow_the_list(visit):
    page = visit.open("cases")
    expect_count(page, ALL)
    page.get_by_label("Benchmark").select_option("alignx_test")
    expect_count(page, 90)
    page.get_by_label("Method", exact=True).select_option("backbone")
    page.get_by_label("Compare with", exact=True).select_option("null")
    page.get_by_label("Verdict").select_option("1")
    right = [number for number in range(90) if correct("backbone", "judge", number)]
    expect_count(page, len(right))
    page.get_by_label("only if the two differ").check()
    differ = [number for number in right if not correct("null", "judge", number)]
    expect_count(page, len(differ))
    assert page.locator("#list a > .soft").all_inner_texts() == [f"alignx_test/case-{number}" for number in differ]
    page.get_by_label("Judge", exact=True).select_option("gen")
    by_gen = [n for n in range(90) if correct("backbone", "gen", n) and not correct("null", "gen", n)]
    expect_count(page, len(by_gen))
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Dimension").select_option("style")
    expect_count(page, 30)
    expect(page.locator("#list a")).to_have_count(30)


def test_the_pages_of_the_list_hold_every_case_once(visit):
    page = visit.open("cases")
    seen = []
    for number in range(1, 4):
        expect(page.locator("#pages")).to_contain_text(f"page {number} of 3")
        seen += page.locator("#list a > .soft").all_inner_texts()
        page.locator("#pages").get_by_text("Next").click()
    assert len(seen) == len(set(seen)) == ALL


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("unicorn42", ["alignx_test/case-42"]),  # in the reasoning
        ("UNICORN4 psoups_style", ["psoups_style/case-4"]),
        ('"my own comment 17"', ["psoups_style/case-17"]),  # in a signal
        ("full 猫", ["alignx_test/case-4", "psoups_style/case-4"]),
        ("written by backbone", ["alignx_test/case-7"]),
        ("unicorn4 rejected nowhere", []),
    ],
)
def test_a_case_is_found_by_its_text(visit, query, keys):
    page = visit.open("cases")
    page.get_by_label("Search all texts").fill(query)
    if query.startswith("UNICORN4 "):  # a prefix also matches longer words
        keys = [f"psoups_style/case-{n}" for n in range(30) if str(n).startswith("4")]
    expect_count(page, len(keys))
    assert page.locator("#list a > .soft").all_inner_texts() == keys


def test_clearing_a_dimension_restores_all_cases_of_a_search(visit):
    page = visit.open("cases")
    page.get_by_label("Search all texts").fill("unicorn4")
    expect_count(page, 12)
    page.get_by_label("Dimension").select_option("style")
    expect_count(page, 1)
    page.get_by_label("Dimension").select_option("")
    expect_count(page, 12)


def test_a_case_opens_with_two_methods_side_by_side(visit):
    page = visit.open("cases", "#q=unicorn7&benchmark=alignx_test&a=backbone&b=alignxplore")
    page.locator("#list a").first.click()
    case = page.locator("#case")
    expect(case.get_by_role("heading", level=2)).to_contain_text("alignx_test case-7")
    for text in ("Post 7", "chosen response 7", "rejected response 7", "likes brevity", "signal post 7"):
        expect(case.get_by_text(text, exact=True).first).to_be_visible()
    expect(case.locator(".signals li")).to_have_count(4)
    backbone, alignxplore = case.locator(".method").all()
    expect(backbone).to_contain_text("backbone reasons of alignx_test 7: unicorn7")
    expect(alignxplore).to_contain_text("alignxplore describes 7")
    expect(alignxplore).to_contain_text("written by alignxplore")
    expect(alignxplore).to_contain_text("wins against Backbone")
    rows = backbone.locator("tbody tr").all_inner_texts()
    assert [re.split(r"\s+", row) for row in rows] == [
        ["judge", "✗", "wrong", "0.250", "0.070"],
        ["gen", "✗", "wrong", "0.250", "0.070"],
    ]
    page.get_by_label("Compare with", exact=True).select_option("vpl")
    expect(case.locator(".method").nth(1)).to_contain_text("This method writes no description.")
    assert "case=alignx_test%2Fcase-7" in page.url
    again = visit.open("cases", page.url[page.url.index("#") :])
    expect(again.locator("#case h2")).to_contain_text("case-7")
    expect(again.get_by_label("Search all texts")).to_have_value("unicorn7")


def test_neighbours_and_unknown_cases(visit):
    page = visit.open("cases", "#case=alignx_test/case-89")
    page.get_by_text("Next case").click()
    expect(page.locator("#case h2")).to_contain_text("psoups_style case-0")
    page.go_back()
    expect(page.locator("#case h2")).to_contain_text("alignx_test case-89")
    expect(visit.open("cases", "#case=alignx_test/none").locator("#case")).to_contain_text("There is no case")


def test_everything_works_by_keyboard(visit):
    page = visit.open("index")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    assert page.get_by_text("Skip to the content").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    button = page.locator("#table1 thead button").nth(1)
    button.focus()
    assert button.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    for key, first in (("Enter", "1000"), ("Space", "90"), ("Enter", "90"), ("Space", "1000")):
        page.keyboard.press(key)
        expect(page.locator("#table1 tbody tr:first-child > :nth-child(2)")).to_have_text(first)
    expect(button).to_be_focused()
    page = visit.open("cases")
    page.locator("#list a").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#list a").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#case h2")).to_contain_text("alignx_test case-1")
    expect(page.locator("#case")).to_be_focused()
    expect(page.locator("#list a[aria-current]")).to_have_count(1)


def test_screen_readers_find_the_structure(visit):
    for name in ("index", "cases", "case_study", "training", "rollouts", "data", "provenance"):
        page = visit.open(name)
        assert page.get_by_role("heading", level=1).count() == 1
        assert page.locator("nav [aria-current=page]").count() == 1
        assert page.locator("html").get_attribute("lang") == "en"
        unlabelled = page.locator("input, select").evaluate_all("all => all.filter(one => !one.labels.length).length")
        assert unlabelled == 0 and page.locator("img:not([alt])").count() == 0


def test_hostile_text_is_shown_and_does_not_run(visit):
    page = visit.open("cases", "#case=alignx_test/case-5&a=alignxplore&b=backbone")
    shown = page.locator("#case .verbatim").all_text_contents()
    assert shown.count(HOSTILE) >= 5
    for name in ("index", "case_study", "data", "provenance", "training", "rollouts"):
        page = visit.open(name)
        page.wait_for_load_state()
        expected = {"index": HOSTILE, "data": HOSTILE, "provenance": json.dumps(HOSTILE, ensure_ascii=False)}
        assert expected.get(name, "") in page.locator("body").text_content()
        assert page.title() != "hit"
        assert page.locator("a[href^='javascript:'], [onerror], [onload], main script").count() == 0


def test_the_policy_stops_an_injected_script(visit):
    page = visit.open("index")
    page.evaluate(
        """() => {
            const holder = document.createElement("div");
            holder.innerHTML = "<img src='data:,' onerror=\\"document.title='hit'\\">";
            document.body.append(holder);
            const script = document.createElement("script");
            script.textContent = "document.title='hit'";
            document.body.append(script);
        }"""
    )
    page.wait_for_timeout(100)
    assert page.title() != "hit"
    assert len(visit.faults) >= 2 and all(
        "Content Security Policy" in fault for fault in visit.faults if "data:" not in fault
    )
    visit.faults.clear()


@pytest.mark.parametrize("visit", [{"color_scheme": "dark"}, {"color_scheme": "light"}], indirect=True)
def test_the_theme_follows_the_system_and_the_switch(visit):
    def brightness(page):
        return sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))

    page = visit.open("index")
    system = brightness(page)
    seen = []
    for _ in range(3):
        page.locator("#theme").click()
        seen.append((page.locator("#theme").inner_text(), brightness(page) > 382))
    assert seen[:2] == [("Theme: light", True), ("Theme: dark", False)]
    assert seen[2][0] == "Theme: system" and brightness(page) == system
    page.locator("#theme").click()
    assert visit.open("data").locator("html").get_attribute("data-theme") == "light"


@pytest.mark.parametrize("visit", [{"viewport": {"width": 390, "height": 844}}], indirect=True)
def test_a_narrow_screen_does_not_scroll_sideways(visit):
    names = ("index", "cases", "case_study", "training", "rollouts", "data", "provenance")
    for name, fragment in [*((name, "") for name in names), ("cases", "#case=alignx_test/case-5&a=alignxplore")]:
        page = visit.open(name, fragment)
        page.wait_for_load_state()
        for details in page.locator("details:not([open]) > summary").all():
            if details.is_visible():
                details.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    expect(page.locator("#list")).to_be_hidden()
    page.get_by_text("Back to the list").click()
    expect(page.locator("#list a").first).to_be_visible()


NARROW = pytest.mark.parametrize("visit", [{"viewport": {"width": 390, "height": 844}}], indirect=True)


@NARROW
def test_a_title_is_below_the_header_when_jumped_to(visit):
    page = visit.open("index")
    for name in ("table1", "table2", "figure2"):
        page.locator(f".contents a[href='#{name}']").click()
        page.wait_for_timeout(50)
        header, title = (page.locator(one).bounding_box() for one in ("header.bar", f"#{name}-title"))
        assert title["y"] >= header["y"] + header["height"], name


@NARROW
def test_the_open_tab_is_in_view(visit):
    for name in ("index", "cases", "case_study", "training", "rollouts", "data", "provenance"):
        tab = visit.open(name).locator("nav [aria-current=page]").bounding_box()
        assert tab["x"] >= 0 and tab["x"] + tab["width"] <= 390, name


@pytest.mark.parametrize(
    "visit", [{"viewport": {"width": width, "height": 900}} for width in (390, 1280)], indirect=True
)
def test_tables_that_scroll_sideways_say_so_and_no_others(visit):
    found = set()
    for name, fragment in (("index", ""), ("data", ""), ("cases", "#case=alignx_test/case-7&a=backbone")):
        page = visit.open(name, fragment)
        page.wait_for_load_state()
        expect(page.locator(".scroll").first).to_be_attached()
        page.wait_for_timeout(100)
        for box in page.locator(".scroll:visible").all():
            hidden = box.evaluate("box => box.scrollWidth - box.clientWidth")
            hint = box.locator("xpath=preceding-sibling::*[1][contains(@class, 'hint')]")
            assert hint.is_visible() == (hidden > 1)
            assert (box.evaluate("box => getComputedStyle(box).maskImage") != "none") == (hidden > 1)
            found.add(hidden > 1)
            if hidden > 1:  # no shadow at the end
                box.evaluate("box => (box.scrollLeft = box.scrollWidth)")
                expect(box).not_to_have_class(re.compile("more"))
    assert found == {True, False}


@NARROW
def test_a_figure_is_large_enough_to_read(visit):
    page = visit.open("index")
    assert page.locator("#figure2 img").bounding_box()["width"] >= 600
    expect(page.locator("#figure2 .hint").first).to_be_visible()


def test_words_do_not_break_in_headers_and_first_columns(browser, tmp_path):
    inputs = sample_inputs(tmp_path)
    header = "method,column,percent,low,high"
    methods = ("LMInductReason", "AlignXplore w/o cold start", "Golden Preference")
    rows = [f"{name},{column},50,40,60" for name in methods for column in ("psoups_informativeness", "alignx_test_ugc")]
    (tmp_path / "results/table2.csv").write_text("\n".join([header, *rows]) + "\n")
    write_site(Path("resources/report"), tmp_path / "site", replace(inputs, references=["Golden Preference"]))
    visit = Visit(browser, tmp_path / "site", viewport={"width": 390, "height": 844})
    page = visit.open("index")
    broken = page.locator("#table2 .wide").evaluate(
        """table => [...table.querySelectorAll("th")].flatMap(cell => {
            const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), found = [];
            for (let node; (node = walker.nextNode()); )
                for (const word of node.data.matchAll(/[^\\s]+/g)) {
                    const range = document.createRange();
                    range.setStart(node, word.index);
                    range.setEnd(node, word.index + word[0].length);
                    const lines = new Set([...range.getClientRects()].map(({ top }) => Math.round(top)));
                    if (lines.size > 1) found.push(word[0]);
                }
            return found;
        })"""
    )
    assert broken == []
    visit.context.close()


def test_a_judge_that_does_not_judge_a_benchmark_says_so(visit):
    said = "gen does not judge psoups_style"
    page = visit.open("cases", "#case=psoups_style/case-1")
    everyone = page.locator("#case .everyone")
    expect(everyone).to_contain_text(f"{said}.")
    assert everyone.locator("thead th").all_inner_texts() == ["method", "judge"]
    assert all(text.strip() for text in everyone.locator("tbody td").all_inner_texts())
    page.get_by_label("Benchmark").select_option("psoups_style")
    page.get_by_label("Judge", exact=True).select_option("gen")
    expect(status(page)).to_contain_text(said)
    page = visit.open("cases", "#case=alignx_test/case-1&judge=gen&benchmark=alignx_test")
    expect(page.locator("#case .everyone thead th")).to_have_text(["method", "judge", "gen"])
    expect(status(page)).to_contain_text("are the verdicts of gen")
    assert "does not judge" not in page.locator("main").inner_text()


def test_study_training_data_and_provenance_pages(visit):
    page = visit.open("case_study")
    expect(page.locator(".onecase h2")).to_have_text(["alignx_test case-7", "alignx_test case-3"])
    assert [len(one.locator(".method").all()) for one in page.locator(".onecase").all()] == [2, 2]
    page = visit.open("training")
    images = page.locator(".curves img")
    for image in images.all():
        image.scroll_into_view_if_needed()
        image.evaluate("image => image.decode()")
    assert {"reward", "entropy", "loss"} <= set(page.locator("figure h3").all_inner_texts())
    page.get_by_role("main").get_by_role("link", name="Rollouts").click()
    page.locator("summary", has_text="Held out, after step 20").click()
    shown = page.locator("details.record[open] .rollout")
    expect(shown).to_have_count(3)
    expect(shown.last).to_contain_text("step 20 describes 7: likes brevity")
    expect(shown.last.locator(".thought")).to_be_hidden()
    shown.last.locator("summary").click()
    expect(shown.last.locator(".thought")).to_contain_text("step 20 reasons of 7.")
    page = visit.open("data")
    expect(page.locator("#funnel ~ div progress").nth(1)).to_have_attribute("value", "9")
    page = visit.open("index")
    origin = page.locator("#table2 .origin")
    expect(origin).to_contain_text("table_accuracy, 2026-11-24 06:12:00 UTC, code 012345678+")
    expect(origin).to_contain_text("3 jobs, 30.0 s, 15 model answers (6 from the journal), 450 tokens, $0.75")
    origin.get_by_role("link").click()
    record = page.locator("details.record[open]")
    expect(record).to_have_count(1)
    expect(record.locator("> summary")).to_contain_text("table2.csv")
    record.locator("ul.inputs a").first.click()
    judged = page.locator("details.record", has=page.locator("> summary", has_text="judgements/judge/null.parquet"))
    expect(judged).to_have_attribute("open", "")


def test_a_site_that_lost_its_data_says_so(browser, site, tmp_path):
    copy = shutil.copytree(site, tmp_path / "site")
    shutil.rmtree(copy / "data/details")
    visit = Visit(browser, copy)
    page = visit.open("cases", "#case=alignx_test/case-1")
    expect(status(page)).to_contain_text("data/details/0.js cannot be read: was the whole directory copied?")
    visit.context.close()


def test_a_server_may_call_every_file_utf_8(browser, site):
    def answer(route):
        path = site / urlsplit(route.request.url).path[1:]
        route.fulfill(path=path, content_type=f"{mimetypes.guess_type(path)[0]}; charset=utf-8")

    page = browser.new_page()
    page.route("http://report.test/**", answer)
    page.goto("http://report.test/cases.html#case=alignx_test/case-7")
    expect(page.locator("#case")).to_contain_text("chosen response 7")
    page.close()


def test_a_run_without_methods_shows_its_cases(browser, tmp_path):
    inputs = sample_inputs(tmp_path)
    sources = Sources(inputs.sources.cases, [], [], {}, inputs.sources.dimensions)
    inputs = replace(inputs, sources=sources, study=None, metrics={})
    write_site(Path("resources/report"), tmp_path / "site", inputs)
    visit = Visit(browser, tmp_path / "site")
    page = visit.open("cases", "#case=psoups_style/case-1")
    expect(status(page)).to_have_text(f"{ALL} of {ALL} cases")
    expect(page.locator("#case")).to_contain_text("my own comment 1")
    for name in ("Training", "Case study"):
        assert page.get_by_role("link", name=name).count() == 0
    assert visit.faults == []
    visit.context.close()


@pytest.fixture(scope="module")
def stream_site(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("streams")
    paths = stream_samples.write(directory)
    labels = {method["name"]: method["label"] for method in stream_samples.METHODS}
    sources = Sources(paths["cases"], paths["preferences"], paths["judgements"], labels, {})
    inputs = replace(sample_inputs(directory), sources=sources, study=None, metrics={})
    write_site(Path("resources/report"), directory / "site", inputs)
    return directory / "site"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_descriptions_of_a_stream_are_side_by_side(browser, stream_site, width):
    visit = Visit(browser, stream_site, viewport={"width": width, "height": 900})
    page = visit.open("cases", "#case=drifting/u7.3&a=updated&b=whole")
    stream = page.locator(".stream").first
    expect(stream.locator("h3")).to_have_text("After each chunk: Updated")
    steps = stream.locator("li")
    expect(steps).to_have_count(stream_samples.CHUNKS)
    expect(steps.nth(2)).to_have_attribute("aria-current", "step")
    second = steps.nth(1)
    assert [" ".join(text.split()) for text in second.locator("ins").all_text_contents()] == [
        "added: , tea end.",
        f"added: {stream_samples.HOSTILE} end.",
    ]
    assert second.locator("del").count() == 0
    for number, step in enumerate(steps.all(), 1):
        words = step.locator(".verbatim").evaluate(
            """text => { const copy = text.cloneNode(true);
                         copy.querySelectorAll("del, .away").forEach(one => one.remove());
                         return copy.textContent; }"""
        )
        assert words == stream_samples.TEXTS[number]
    # Not by colour alone: what is added is underlined, what is dropped is struck out.
    lines = [
        steps.nth(3).locator(tag).first.evaluate("mark => getComputedStyle(mark).textDecorationLine")
        for tag in ("ins", "del")
    ]
    assert lines == ["underline", "line-through"]
    tops = {step.bounding_box()["y"] for step in steps.all()}
    assert len(tops) == stream_samples.CHUNKS if width == 390 else len(tops) < stream_samples.CHUNKS
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if folder := os.environ.get("SCREENSHOTS"):
        stream.scroll_into_view_if_needed()
        page.screenshot(path=f"{folder}/stream-{width}.png", full_page=width == 390)
    steps.first.get_by_role("link", name="Chunk 1").click()
    expect(page.locator("#case .id code")).to_have_text("u7.1")
    expect(page.locator(".stream").first.locator("li").first).to_have_attribute("aria-current", "step")
    page.goto(f"{stream_site.as_uri()}/cases.html#case=drifting/u7.0")
    expect(page.locator("#case .id code")).to_have_text("u7.0")
    assert page.locator(".stream").count() == 0 and visit.faults == []
    visit.context.close()


def test_methods_are_listed_by_label(visit):
    page = visit.open("cases")
    options = page.get_by_label("Method", exact=True).locator("option").all_text_contents()
    assert options == list(LABELS.values())
    numbers = pl.read_parquet(visit.site / "data/cases.parquet")
    assert numbers.height == ALL
