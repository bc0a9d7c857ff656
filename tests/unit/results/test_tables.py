"""Tables against independent computations on the same Parquet files."""

import itertools
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
from alignxplore import records
from alignxplore.errors import UserError
from alignxplore.judging.judge import Judge
from alignxplore.judging.rows import judge_preferences
from alignxplore.methods.preferences import given_preferences
from alignxplore.prompts import Templates
from alignxplore.results import figures, tables
from alignxplore.results.stats import mcnemar_test
from markdown_it import MarkdownIt
from scipy import stats

SQL = "scripts/sql"
METHODS = [
    {"name": "plain", "label": "Plain", "paper": "Raw signals"},
    {"name": "ours", "label": "Ours", "paper": "AlignXplore-7B"},
    {"name": "gold", "label": "Gold", "reference": True},
]
COLUMNS = [
    {"name": "one", "judge": "jud", "benchmarks": ["b1"], "paper": "acc_jud/alignx_test"},
    {"name": "both", "judge": "gen", "benchmarks": ["b1", "b2"]},
]


@pytest.fixture
def judgements(tmp_path):
    """Random judgements of three methods by two judges, written in shuffled order; returns their paths."""
    rng = np.random.default_rng(7)
    skill = {"plain": 0.5, "ours": 0.8, "gold": 0.95}
    paths = []
    for judge in ("jud", "gen"):
        for method in skill:
            rows = [
                {
                    "case_id": f"{index:03}",
                    "benchmark": benchmark,
                    "method": method,
                    "judge": judge,
                    "p_chosen_ab": 0.5,
                    "p_chosen_ba": 0.5,
                    "unparsed": int(rng.integers(3)),
                    "format_ok": None if method == "gold" else bool(rng.random() < 0.6),
                    "target": f"{benchmark} {index}",
                    "correct": bool(rng.random() < skill[method]),
                    "position_flip": bool(rng.random() < 0.3),
                }
                for benchmark in ("b1", "b2", "unused")
                for index in rng.permutation(80)
            ]
            path = tmp_path / f"{judge}-{method}.parquet"
            records.write(pl.DataFrame(rows), path, records.JUDGEMENT)
            paths.append(str(path))
    return paths


def accuracy(paths, published="resources/paper_tables.csv"):
    relations = {
        "methods": tables.methods_relation(METHODS),
        "columns": tables.columns_relation(COLUMNS),
        "paper": tables.paper_relation(published, "table2"),
    }
    return tables.query(f"{SQL}/accuracy.sql", {"judgements": paths}, relations)


def test_accuracy_equals_pandas(judgements):
    cells = tables.accuracy_cells(accuracy(judgements), resamples=200, seed=1)
    frame = pd.concat([pd.read_parquet(path) for path in judgements])
    assert [(row["method"], row["column"]) for row in cells.to_dicts()] == [
        (m["label"], c["name"]) for m in METHODS for c in COLUMNS
    ]
    for row in cells.to_dicts():
        method = next(m for m in METHODS if m["label"] == row["method"])
        column = next(c for c in COLUMNS if c["name"] == row["column"])

        def outcomes(name, column=column):
            chosen = frame[(frame.method == name) & (frame.judge == column["judge"])]
            chosen = chosen[chosen.benchmark.isin(column["benchmarks"])]
            return chosen.sort_values(["benchmark", "case_id"]).correct.astype(float).to_numpy()

        mine = outcomes(method["name"])
        assert row["n"] == len(mine)
        assert row["percent"] == pytest.approx(100 * mine.mean(), abs=0.0051)
        assert row["low"] <= row["percent"] <= row["high"]
        own = frame[(frame.method == method["name"]) & (frame.judge == column["judge"])]
        own = own[own.benchmark.isin(column["benchmarks"])]
        assert row["position_flip"] == pytest.approx(100 * own.position_flip.mean(), abs=0.0051)
        assert row["unparsed"] == pytest.approx(50 * own.unparsed.mean(), abs=0.0051)
        if method["name"] == "gold":
            assert row["in_format"] is None
        else:
            assert row["in_format"] == pytest.approx(100 * own.format_ok.astype(float).mean(), abs=0.0051)
        if method["name"] == "ours":
            assert (row["mark"], row["p_value"]) == ("best", None)
        else:
            expected = stats.ttest_rel(outcomes("ours"), mine).pvalue
            assert row["p_value"] == pytest.approx(expected, rel=6e-4) and row["p_value"] > 0
            others = [outcomes(m["name"]) for m in METHODS if m["name"] != "ours"]
            raw = sorted(mcnemar_test(outcomes("ours"), other) for other in others)
            mine_raw = mcnemar_test(outcomes("ours"), mine)
            # Two hypotheses: the smaller p-value is doubled, the larger stands but for being no smaller than that.
            adjusted = 2 * raw[0] if mine_raw == raw[0] else max(raw[1], 2 * raw[0])
            assert row["mcnemar_holm"] == pytest.approx(min(adjusted, 1), rel=6e-4)
            assert row["mark"] == ("*" if method["name"] == "plain" else None)
    published = dict(cells.filter(pl.col("column") == "one").select("method", "paper").iter_rows())
    assert published == {"Plain": 50.33, "Ours": 65.33, "Gold": None}


def test_equal_bests_are_all_marked():
    outcomes = {"a": [1, 0, 1, 0, 0, 0], "b": [1, 1, 1, 1, 0, 0], "c": [0, 0, 1, 1, 1, 1], "gold": [1, 1, 1, 1, 0, 0]}
    rows = [
        {
            "method": method,
            "column": "one",
            "cases": [f"b {i}" for i in range(6)],
            "targets": list("012345"),
            "outcomes": [float(value) for value in own],
            "n": 6,
            "percent": 100 * sum(own) / 6,
            "reference": method == "gold",
            **dict.fromkeys(("position_flip", "unparsed", "in_format", "paper")),
        }
        for method, own in outcomes.items()
    ]
    cells = {cell["method"]: cell for cell in tables.accuracy_cells(pl.DataFrame(rows), 50, 1).to_dicts()}
    assert [cells[method]["mark"] for method in outcomes] == [None, "best", "best", None]
    assert [cells[method]["p_value"] is None for method in outcomes] == [False, True, False, False]
    assert cells["c"]["p_value"] == 1.0
    # Three hypotheses: b beats a in two cases and never loses, 2 / 4; adjusted, threefold, and no more than 1.
    assert [cells[method]["mcnemar_holm"] for method in outcomes] == [1.0, None, 1.0, 1.0]


class Alphabetical:
    """An engine that selects the response that comes first in the alphabet, whatever it is told."""

    def choice_logprobs(self, prompts, choices):
        shown = [[prompt.user.split(f"Response {name}: ")[1] for name in "AB"] for prompt in prompts]
        return np.array([[float(first < second), float(second < first)] for first, second in shown])


def test_what_is_right_on_one_of_two_mirrored_cases_has_no_interval(tmp_path):
    """Half of P-SOUPS's cases ask another's target for the opposite persona: a judge that is told nothing gets one."""
    rng = np.random.default_rng(3)
    words = [sorted(map(str, rng.choice(1000, 2, replace=False))) for _ in range(40)]
    rows = [
        {
            "case_id": f"{index}-{sign}",
            "benchmark": "b1",
            "dimension": "style",
            "direction": [sign],
            "pairs": [],
            "ugc": [],
            "prompt": f"post {index % 7}",
            "chosen": pair[sign < 0],
            "rejected": pair[sign > 0],
            "golden_preference": "g",
        }
        for index, pair in enumerate(words)
        for sign in (1, -1)
    ]
    cases = pl.DataFrame(rows, schema=records.CASE)
    judge = Judge("jud", Alphabetical(), Templates(judge="resources/prompts/judge.jinja"))
    judged = judge_preferences(judge, "jud", cases, given_preferences("none", cases, "plain"))
    assert judged["target"].n_unique() == 40
    path = tmp_path / "judged.parquet"
    records.write(judged, path, records.JUDGEMENT)
    (cell,) = tables.accuracy_cells(accuracy([str(path)]).filter(pl.col("column") == "one"), 500, 1).to_dicts()
    assert (cell["n"], cell["low"], cell["percent"], cell["high"]) == (80, 50.0, 50.0, 50.0)


def test_methods_judged_on_other_cases_are_refused(judgements, tmp_path):
    short = tmp_path / "short.parquet"
    plain = next(path for path in judgements if path.endswith("jud-plain.parquet"))
    records.write(records.read(plain, records.JUDGEMENT).head(40), short, records.JUDGEMENT)
    others = [path for path in judgements if path != plain]
    with pytest.raises(UserError, match="Plain and Ours were judged on other cases"):
        tables.accuracy_cells(accuracy([*others, str(short)]), resamples=200, seed=1)


def test_win_rates_mirror_each_other(tmp_path):
    rng = np.random.default_rng(3)
    outcomes = rng.choice(["a", "b", "tie"], size=90, p=[0.7, 0.2, 0.1])
    rows = [
        {
            "case_id": f"{index:03}",
            "benchmark": "b1",
            "judge": "jud",
            "method_a": "ours",
            "method_b": "plain",
            "p_a_ab": 0.5,
            "p_a_ba": 0.5,
            "outcome": outcome,
            "position_flip": False,
            "unparsed": 0,
            "target": f"{index}",
        }
        for index, outcome in enumerate(outcomes)
    ]
    path = tmp_path / "wins.parquet"
    records.write(pl.DataFrame(rows), path, records.WIN)
    relations = {
        "methods": tables.methods_relation(METHODS[:2]),
        "columns": tables.columns_relation([{"name": "b", "benchmarks": ["b1"], "paper": "win_rate/alignx_test"}]),
        "paper": tables.paper_relation("resources/paper_tables.csv", "table3"),
    }
    found = tables.query(f"{SQL}/win_rates.sql", {"wins": [str(path)]}, relations)
    cells = {row["method"]: row for row in tables.win_rate_cells(found, 200, 1).to_dicts()}
    expected = 100 * np.mean([{"a": 1, "tie": 0.5, "b": 0}[outcome] for outcome in outcomes])
    assert cells["Ours"]["percent"] == pytest.approx(expected, abs=0.0051)
    assert cells["Ours"]["percent"] + cells["Plain"]["percent"] == pytest.approx(100, abs=0.011)
    assert tables.column_order(found) == ["b, against Plain", "b, against Ours"]
    assert cells["Ours"]["column"] == "b, against Plain"
    assert (cells["Ours"]["mark"], cells["Plain"]["mark"]) == ("*", None)


def test_benchmarks_are_counted(tmp_path):
    pair = {"prompt": "p", "chosen": "c", "rejected": "r", "direction": [1]}
    rows = [
        {
            "case_id": str(index),
            "benchmark": "b1",
            "dimension": "style",
            "direction": direction,
            "pairs": [pair] * 4,
            "ugc": [],
            "prompt": "p",
            "chosen": "c",
            "rejected": "r",
            "golden_preference": "g",
        }
        for index, direction in enumerate([[1, 0, -1], [1, 0, 0]])
    ]
    path = tmp_path / "cases.parquet"
    records.write(pl.DataFrame(rows), path, records.CASE)
    columns = tables.benchmarks_relation([{"benchmark": "b1", "in_domain": False}])
    row = tables.query(f"{SQL}/benchmarks.sql", {"cases": [str(path)]}, {"columns": columns}).to_dicts()[0]
    assert row == {
        "benchmark": "b1",
        "n": 2,
        "dimensions": 2,
        "preferred": 2,
        "non_preferred": 1,
        "pairs_per_case": 4.0,
        "ugc_per_case": 0.0,
        "in_domain": False,
    }


def test_markdown_shows_every_figure(judgements):
    found = accuracy(judgements)
    cells = tables.accuracy_cells(found, resamples=200, seed=1)
    text = tables.cells_markdown("Title", "Note.", cells, tables.column_order(found))
    assert "| method | one | both |" in text
    assert "paper 65.33" in text
    assert "n is 80 to 160 cases a figure" in text


def rendered(text):
    """The cells of the table of a Markdown page, row by row, as a reader sees them, and the page's heading."""
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
    text = tables.rows_markdown(hostile, "Note.", pl.DataFrame({"a_b": [hostile], "n": [1.5]}))
    assert rendered(text) == (hostile, [["a b", "n"], [hostile, "1.50"]])


def columns(entries):
    return tables.columns_relation(entries)


def test_changes_are_paired_by_case(judgements, tmp_path):
    """The cases of b1 and b2, whose ids are alike, again under names that sort otherwise, with other verdicts: means
    differ as pandas says.
    """
    origins = {"z_b1": "b1", "a_b2": "b2"}
    turned = pl.concat([records.read(path, records.JUDGEMENT) for path in judgements if "jud-" in path])
    turned = turned.filter(pl.col("benchmark") != "unused")
    flipped = pl.Series(np.random.default_rng(2).random(turned.height) < 0.2)
    names = {origin: name for name, origin in origins.items()}
    turned = turned.with_columns(pl.col("benchmark").replace_strict(names), correct=pl.col("correct") ^ flipped)
    path = tmp_path / "turned.parquet"
    records.write(turned, path, records.JUDGEMENT)
    relations = {
        "methods": tables.methods_relation(METHODS),
        "columns": columns(
            [
                {"name": "one", "judge": "jud", "benchmarks": ["b1"]},
                {"name": "turned", "judge": "jud", "benchmarks": ["z_b1", "a_b2"]},
                {"name": "two", "judge": "jud", "benchmarks": ["b1", "b2"]},
                {"name": "twice", "judge": "jud", "benchmarks": ["b1", "z_b1"]},
            ]
        ),
        "paper": tables.paper_relation("resources/paper_tables.csv", "table2"),
    }
    found = tables.query(f"{SQL}/accuracy.sql", {"judgements": [*judgements, str(path)]}, relations)
    cells = tables.accuracy_cells(found, 500, 1, {"turned": "two"}, origins).to_dicts()
    frame = pd.concat([pd.read_parquet(path) for path in [*judgements, path]])
    frame = frame[frame.judge == "jud"].set_index(["benchmark", "case_id"])
    for cell in cells:
        if cell["column"] != "turned":
            assert cell["change"] is None and cell["change_low"] is None
            continue
        own = frame[frame.method == {m["label"]: m["name"] for m in METHODS}[cell["method"]]].correct.astype(float)
        pairs = [own[name] - own[origin] for name, origin in origins.items()]  # aligned by case_id
        difference = 100 * pd.concat(pairs)
        assert cell["change"] == pytest.approx(difference.mean(), abs=0.0051)
        assert cell["change_low"] < cell["change"] < cell["change_high"]
        half = 1.96 * difference.std() / math.sqrt(len(difference))
        assert cell["change_high"] - cell["change_low"] == pytest.approx(2 * half, rel=0.15)
    with pytest.raises(UserError, match="'one' and 'two' are of other cases"):
        tables.accuracy_cells(found, 10, 1, {"two": "one"})
    with pytest.raises(UserError, match="'two' and 'turned' are of other cases"):
        tables.accuracy_cells(found, 10, 1, {"turned": "two"})
    with pytest.raises(UserError, match="'twice' has cases twice"):
        tables.accuracy_cells(found, 10, 1, {"twice": "one"}, origins)


def wins_of_three(tmp_path):
    """Every pair of three methods on the same 60 cases of two benchmarks; the better a method, the more it wins."""
    rng = np.random.default_rng(8)
    skill = {"plain": 0.0, "ours": 1.0, "gold": 2.0}
    paths = []
    for first, second in (("plain", "ours"), ("plain", "gold"), ("ours", "gold")):
        odds = 1 / (1 + math.exp(skill[second] - skill[first]))
        rows = [
            {
                "case_id": f"{index:03}",
                "benchmark": f"b{index % 2 + 1}",
                "judge": "jud",
                "method_a": first,
                "method_b": second,
                "p_a_ab": rng.random(),
                "p_a_ba": rng.random(),
                "outcome": "tie" if rng.random() < 0.1 else "a" if rng.random() < odds else "b",
                "position_flip": bool(rng.random() < 0.2),
                "unparsed": int(rng.integers(3)),
                "target": f"{index}",
            }
            for index in rng.permutation(60)
        ]
        path = tmp_path / f"{first}-{second}.parquet"
        records.write(pl.DataFrame(rows), path, records.WIN)
        paths.append(str(path))
    return paths


def test_every_pair_is_counted_and_strengths_rank_the_methods(tmp_path):
    paths = wins_of_three(tmp_path)
    entries = [{"name": "all", "benchmarks": ["b1", "b2"]}, {"name": "second", "benchmarks": ["b2"]}]
    relations = {
        "methods": tables.methods_relation(METHODS),
        "columns": columns(entries),
        "paper": tables.paper_relation("resources/paper_tables.csv", "table3"),
    }
    found = tables.query(f"{SQL}/win_rates.sql", {"wins": paths}, relations)
    frame = pd.concat([pd.read_parquet(path) for path in paths])
    labels = {m["name"]: m["label"] for m in METHODS}
    cells = {(row["method"], row["column"]): row for row in tables.win_rate_cells(found, 200, 1).to_dicts()}
    assert len(cells) == 2 * 3 * 2
    games = {}
    for entry in entries:
        own = frame[frame.benchmark.isin(entry["benchmarks"])]
        for (first, second), pair in own.groupby(["method_a", "method_b"]):
            cell = cells[labels[first], f"{entry['name']}, against {labels[second]}"]
            won = pair.outcome.map({"a": 1.0, "tie": 0.5, "b": 0.0})
            games[entry["name"], labels[first], labels[second]] = won
            assert cell["n"] == len(pair)
            assert cell["percent"] == pytest.approx(100 * won.mean(), abs=0.0051)
            assert cell["ties"] == pytest.approx(100 * (pair.outcome == "tie").mean(), abs=0.0051)
            assert cell["disagreements"] == pytest.approx(100 * pair.position_flip.mean(), abs=0.0051)
            assert cell["unparsed"] == pytest.approx(50 * pair.unparsed.mean(), abs=0.0051)
    strengths = tables.strength_rows(found, 400, 1)
    for entry in entries:
        own = strengths.filter(pl.col("column") == entry["name"])
        order = own.sort("strength")["method"].to_list()
        assert order == ["Plain", "Ours", "Gold"]
        # Expected wins under the fitted strengths equal those counted, which is where the likelihood is greatest.
        value = dict(own.select("method", "strength").iter_rows())
        for method in value:
            counted, expected = 0.0, 0.0
            for (name, first, second), won in games.items():
                if name == entry["name"] and method in (first, second):
                    other = second if method == first else first
                    counted += (won.sum() if method == first else len(won) - won.sum()) + 0.5
                    expected += (len(won) + 1) / (1 + math.exp(value[other] - value[method]))
            assert counted == pytest.approx(expected, abs=0.02)
        assert (own["low"] < own["strength"]).all() and (own["strength"] < own["high"]).all()


def test_judges_are_compared_with_the_first(judgements):
    judges = [{"name": judge, "judge": judge, "benchmarks": ["b1", "b2"]} for judge in ("jud", "gen")]
    relations = {
        "methods": tables.methods_relation(METHODS),
        "columns": columns(judges),
        "paper": tables.paper_relation("resources/paper_tables.csv", "none"),
    }
    found = tables.query(f"{SQL}/accuracy.sql", {"judgements": judgements}, relations)
    first, second = tables.judge_rows(found, 300, 1).to_dicts()
    frame = pd.concat([pd.read_parquet(path) for path in judgements])
    frame = frame[frame.benchmark.isin(["b1", "b2"])].set_index(["method", "benchmark", "case_id"]).sort_index()
    mine, other = frame[frame.judge == "gen"], frame[frame.judge == "jud"]
    assert (first["judge"], first["agreement"], first["kendall_tau"]) == ("jud", None, None)
    assert second["verdicts"] == len(mine) == 480
    assert second["agreement"] == pytest.approx(100 * (mine.correct == other.correct).mean(), abs=1e-4)
    assert second["position_flip"] == pytest.approx(100 * mine.position_flip.mean(), abs=1e-4)
    assert second["unparsed"] == pytest.approx(50 * mine.unparsed.mean(), abs=1e-4)
    means = [side.groupby("method").correct.mean() for side in (mine, other)]
    assert second["kendall_tau"] == pytest.approx(means[0].corr(means[1], method="kendall"), abs=1e-4)
    assert second["ranking"].startswith("Gold > ") and second["swapped"] == 0
    assert second["tau_low"] <= second["kendall_tau"] <= second["tau_high"]


def test_a_ranking_upside_down_is_seen():
    rows = [
        {
            "method": method,
            "column": judge,
            "column_position": place,
            "cases": [f"b {i:02}" for i in range(20)],
            "targets": [f"{i}" for i in range(20)],
            "outcomes": [1.0] * right + [0.0] * (20 - right),
            "position_flip": 0.0,
            "unparsed": 0.0,
        }
        for place, (judge, rights) in enumerate({"j1": (5, 10, 15), "j2": (15, 10, 5)}.items())
        for method, right in zip("abc", rights, strict=True)
    ]
    second = tables.judge_rows(pl.DataFrame(rows), 50, 1).to_dicts()[1]
    assert (second["kendall_tau"], second["swapped"], second["ranking"]) == (-1.0, 3, "a > b > c")


def points(by, judgements, judge="jud", benchmarks=("b1", "b2"), **relations):
    parquet = {"judgements": judgements, **{k: [str(v)] for k, v in relations.items() if k != "names"}}
    given = {
        "methods": tables.methods_relation(METHODS),
        "columns": columns([{"name": judge, "judge": judge, "benchmarks": list(benchmarks)}]),
        **{k: v for k, v in relations.items() if k == "names"},
    }
    return tables.points(tables.query(f"{SQL}/accuracy_by_{by}.sql", parquet, given))


def compared(found, expected):
    """Points against a pandas table of means and counts by (series, x)."""
    labels = {m["label"]: m["name"] for m in METHODS}
    mine = {(labels[row["series"]], round(row["x"], 4)): (row["n"], row["accuracy"]) for row in found.to_dicts()}
    theirs = {(method, round(x, 4)): (n, accuracy) for method, x, n, accuracy in expected}
    assert mine.keys() == theirs.keys()
    for key, (n, accuracy) in theirs.items():
        assert mine[key] == (n, pytest.approx(100 * accuracy, abs=1e-3))


@pytest.fixture
def scored(judgements, tmp_path):
    """The judgements with probabilities; returns their path, and a pandas frame of the judge `jud`."""
    rng = np.random.default_rng(4)
    table = pl.concat([records.read(path, records.JUDGEMENT) for path in judgements])
    table = table.with_columns(p_chosen_ab=pl.Series(rng.random(table.height)), p_chosen_ba=rng.random(table.height))
    path = tmp_path / "scored.parquet"
    records.write(table, path, records.JUDGEMENT)
    frame = table.to_pandas()
    return str(path), frame[(frame.judge == "jud") & frame.benchmark.isin(["b1", "b2"])].copy()


def test_accuracy_by_confidence_equals_pandas(scored):
    path, frame = scored
    p = (frame.p_chosen_ab + frame.p_chosen_ba) / 2
    frame["confidence"] = np.maximum(p, 1 - p)
    frame["bin"] = np.minimum(((frame.confidence - 0.5) / 0.05).astype(int), 9)
    groups = frame.groupby(["method", "bin"])
    expected = [(key[0], g.confidence.mean(), len(g), g.correct.mean()) for key, g in groups]
    compared(points("confidence", [path]), expected)


def test_accuracy_by_signals_and_dimension_equal_pandas(scored, tmp_path):
    path, frame = scored
    rng = np.random.default_rng(6)
    pair = {"prompt": "p", "chosen": "c", "rejected": "r", "direction": [1]}
    comment = {"prompt": "p", "comment": "c", "direction": [1]}
    rows = []
    for benchmark in ("b1", "b2", "unused"):
        for index in range(80):
            named = benchmark == "b2"
            direction = [1 if rng.random() < 0.5 else -1] if named else rng.integers(-1, 2, 90).tolist()
            rows.append(
                {
                    "case_id": f"{index:03}",
                    "benchmark": benchmark,
                    "dimension": "style" if named else "",
                    "direction": direction,
                    "pairs": [pair] * int(rng.integers(0, 4)),
                    "ugc": [comment] * int(rng.integers(0, 3)),
                    "prompt": "p",
                    "chosen": "c",
                    "rejected": "r",
                    "golden_preference": "g",
                }
            )
    cases = tmp_path / "cases.parquet"
    records.write(pl.DataFrame(rows, schema=records.CASE), cases, records.CASE)
    by_case = {(row["benchmark"], row["case_id"]): row for row in rows}
    own = [by_case[key] for key in zip(frame.benchmark, frame.case_id, strict=True)]
    frame["signals"] = [len(case["pairs"]) + len(case["ugc"]) for case in own]
    groups = frame.groupby(["method", "signals"])
    compared(points("signals", [path], cases=cases), [(k[0], k[1], len(g), g.correct.mean()) for k, g in groups])

    names = pl.read_csv("resources/dimensions.csv")
    found = points("dimension", [path], cases=cases, names=names)
    label = dict(names.iter_rows())
    frame["dimensions"] = [
        [case["dimension"]] if case["dimension"] else [label[i] for i, sign in enumerate(case["direction"]) if sign]
        for case in own
    ]
    groups = frame.explode("dimensions").groupby(["method", "dimensions"])
    labels = {m["name"]: m["label"] for m in METHODS}
    expected = {(labels[k[0]], k[1]): (len(g), round(100 * g.correct.mean(), 4)) for k, g in groups}
    mine = {(row["series"], row["label"]): (row["n"], row["accuracy"]) for row in found.to_dicts()}
    assert mine == {key: (n, pytest.approx(accuracy, abs=1e-3)) for key, (n, accuracy) in expected.items()}
    order = found.unique("x").sort("x")["label"].to_list()
    assert order == [*label.values(), "style"]


def test_accuracy_by_length_equals_pandas(scored, tmp_path):
    path, frame = scored
    rng = np.random.default_rng(9)
    rows = [
        {
            "case_id": case_id,
            "benchmark": benchmark,
            "method": method,
            "reasoning": "",
            "preference": "d",
            "format_ok": True,
            "finish_reason": "stop",
            "prompt_tokens": 1,
            "completion_tokens": int(rng.integers(10, 60)),
        }
        for method, benchmark, case_id in frame[["method", "benchmark", "case_id"]].itertuples(index=False)
    ]
    preferences = tmp_path / "preferences.parquet"
    records.write(pl.DataFrame(rows, schema=records.PREFERENCE), preferences, records.PREFERENCE)
    joined = frame.merge(pd.DataFrame(rows), on=["method", "benchmark", "case_id"])
    expected = []
    for method, own in joined.groupby("method"):
        ordered = own.sort_values(["completion_tokens", "benchmark", "case_id"])
        for fifth in np.array_split(np.arange(len(ordered)), 5):
            part = ordered.iloc[fifth]
            expected.append((method, part.completion_tokens.mean(), len(part), part.correct.mean()))
    compared(points("length", [path], preferences=preferences), expected)


def test_a_legend_stays_inside_its_figure():
    methods = [
        "AlignXplore",
        "Null (no description)",
        "Teacher",
        "A model with a name of many words",
        "Raw signals",
        "B",
    ]
    rows = [("judge", name, x, "", 200, 60.0, 50.0, 70.0) for name in methods for x in (1.0, 2.0)]
    figure = figures.accuracy_points(pl.DataFrame(rows, schema=tables.POINTS, orient="row"), "length")
    figure.draw_without_rendering()
    extent = figure.legends[0].get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= figure.bbox.width and extent.y0 >= 0
    assert len(figure.legends) == 1 and len(figure.legends[0].get_texts()) == len(methods)
    assert figure.axes[0].get_window_extent().height > 0.5 * figure.bbox.height


@pytest.mark.parametrize("by", sorted(figures.AXES))
def test_figures_name_judges_methods_and_counts(by, tmp_path):
    rows = [
        {
            "panel": panel,
            "series": series,
            "x": x,
            "label": f"dimension {x}",
            "n": 40,
            "accuracy": 60.0 + x,
            "low": 50.0,
        }
        | {"high": 80.0}
        for panel in ("j1", "j2")
        for series in ("Ours & <co>", "Plain")
        for x in (1.0, 2.0, 3.0)
    ]
    figure = figures.accuracy_points(pl.DataFrame(rows, schema=tables.POINTS), by)
    places = figure.axes
    assert [place.get_title() for place in places] == ["judge: j1", "judge: j2"]
    assert places[0].get_xlabel() == figures.AXES[by]
    legend = places[0].get_legend() if by == "confidence" else figure.legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    ticks = [text.get_text() for text in places[0].get_yticklabels()]
    assert [name.partition(" (n")[0] for name in names] == ["Ours & <co>", "Plain"]
    counted = {"dimension": ticks[0], "signals": names[0]}.get(by)
    assert "(n = 40)" in counted if counted else "(n = 120)" in names[0]
    for name in ("one", "two"):
        figures.save(
            figures.accuracy_points(pl.DataFrame(rows), by), tmp_path / f"{name}.svg", tmp_path / f"{name}.png"
        )
    for kind in ("svg", "png"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()
