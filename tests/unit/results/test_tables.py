"""Accuracy and win-rate tables against independent computations on the same Parquet files."""

import math
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
from alignxplore import records
from alignxplore.errors import UserError
from alignxplore.judging.judge import Judge
from alignxplore.judging.offline import judge_preferences
from alignxplore.methods.given import given_preferences
from alignxplore.prompts import Templates
from alignxplore.results import queries, tables
from alignxplore.results.stats import mcnemar_test
from result_samples import COLUMNS, METHODS, SQL, query_accuracy
from scipy import stats


def test_accuracy_equals_pandas(judgements):
    cells = tables.accuracy_cells(query_accuracy(judgements), resamples=200, seed=1)
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
        tied = (own.unparsed == 0) & (own.p_chosen_ab + own.p_chosen_ba == 1)
        assert row["ties"] == pytest.approx(100 * tied.mean(), abs=0.0051)
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
            # Two hypotheses: the smaller p-value is doubled, and the larger cannot fall below that.
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
            **dict.fromkeys(("position_flip", "ties", "unparsed", "in_format", "tokens", "paper")),
        }
        for method, own in outcomes.items()
    ]
    cells = {cell["method"]: cell for cell in tables.accuracy_cells(pl.DataFrame(rows), 50, 1).to_dicts()}
    assert [cells[method]["mark"] for method in outcomes] == [None, "best", "best", None]
    assert [cells[method]["p_value"] is None for method in outcomes] == [False, True, False, False]
    assert cells["c"]["p_value"] == 1.0
    # Three hypotheses: b beats a in two cases and never loses, p = 2 / 4; times three, but at most 1.
    assert [cells[method]["mcnemar_holm"] for method in outcomes] == [1.0, None, 1.0, 1.0]


class Alphabetical:
    """An engine that always selects the response that comes first in the alphabet."""

    def choice_logprobs(self, prompts, choices):
        shown = [[prompt.user.split(f"Response {name}: ")[1] for name in "AB"] for prompt in prompts]
        return np.array([[float(first < second), float(second < first)] for first, second in shown])


def test_one_right_of_two_mirrored_cases_has_no_interval(tmp_path):
    """Half of P-SOUPS's cases repeat a target for the opposite persona, so an uninformed judge gets one of each two."""
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
            "rendered": "",
            **records.NO_STREAM,
            "profile": "",
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
    (cell,) = tables.accuracy_cells(query_accuracy([str(path)]).filter(pl.col("column") == "one"), 500, 1).to_dicts()
    assert (cell["n"], cell["low"], cell["percent"], cell["high"]) == (80, 50.0, 50.0, 50.0)


@pytest.fixture
def undecided(judgements, tmp_path):
    """The judgements, but under the judge "gen" every case of Plain ties."""
    paths = [path for path in judgements if not path.endswith("gen-plain.parquet")]
    tied = records.read(next(path for path in judgements if path.endswith("gen-plain.parquet")), records.JUDGEMENT)
    even = {"p_chosen_ab": 0.5, "p_chosen_ba": 0.5, "correct": False, "unparsed": 0, "position_flip": False}
    path = tmp_path / "even.parquet"
    records.write(tied.with_columns(**{name: pl.lit(value) for name, value in even.items()}), path, records.JUDGEMENT)
    return [*paths, str(path)]


EMPTY = ["percent", "low", "high", "p_value", "mark", "mcnemar_holm", "change", "change_low", "change_high"]


def test_a_cell_in_which_every_case_ties_has_no_accuracy(undecided, judgements):
    cells = tables.accuracy_cells(query_accuracy(undecided), 200, 1, {"both": "both"}, compare_with="Ours")
    empty = cells.filter(method="Plain", column="both").to_dicts()[0]
    assert (empty["n"], empty["ties"], empty["unparsed"]) == (160, 100.0, 0.0)
    assert {name: empty[name] for name in [*EMPTY, *COMPARED]} == dict.fromkeys([*EMPTY, *COMPARED])
    assert cells.write_csv().splitlines()[2].startswith("Plain,both,160,,,,,,")
    # The other methods are compared as if it were not there: Gold is the only other hypothesis of the column.
    gold = cells.filter(method="Gold", column="both").to_dicts()[0]
    assert gold["mcnemar_holm"] == pytest.approx(_raw_mcnemar(undecided), rel=6e-4)
    assert cells.filter(method="Ours", column="both")["mark"].to_list() == ["best"]
    against_it = tables.accuracy_cells(query_accuracy(undecided), 200, 1, compare_with="Plain")
    assert against_it.filter(column="both")["difference"].null_count() == 3
    assert against_it.filter(column="one")["difference"].null_count() == 1


def _raw_mcnemar(paths):
    outcomes = outcomes_of(paths, COLUMNS[1])
    return mcnemar_test(outcomes["Ours"], outcomes["Gold"])


def test_markdown_points_out_ties_and_cells_without_a_decision(undecided, judgements):
    cells = tables.accuracy_cells(query_accuracy(undecided), 200, 1)
    text = tables.cells_markdown("Title", "Note.", cells, ["one", "both"])
    assert re.search(r"^\| Plain \| [^|]*\| – \|$", text, re.MULTILINE)
    many = cells.filter(pl.col("ties") > 5).height
    assert 1 < many < 6
    assert f"In {many} of 6 cells more than 5% of the cases tie" in text
    assert "– marks cells in which no case is decided" in text
    few = tables.accuracy_cells(query_accuracy(judgements), 200, 1).with_columns(ties=5.0)
    assert "cases tie" not in (text := tables.cells_markdown("Title", "Note.", few, ["one", "both"]))
    assert "no case is decided" not in text


def test_a_column_in_which_no_method_is_decided_has_no_best(undecided):
    found = query_accuracy(undecided, methods=METHODS[:1])
    cells = tables.accuracy_cells(found, 50, 1)
    assert cells["mark"].to_list() == ["best", None]


def test_methods_judged_on_other_cases_are_refused(judgements, tmp_path):
    short = tmp_path / "short.parquet"
    plain = next(path for path in judgements if path.endswith("jud-plain.parquet"))
    records.write(records.read(plain, records.JUDGEMENT).head(40), short, records.JUDGEMENT)
    others = [path for path in judgements if path != plain]
    with pytest.raises(UserError, match="Plain and Ours were judged on different cases"):
        tables.accuracy_cells(query_accuracy([*others, str(short)]), resamples=200, seed=1)


def test_changes_are_paired_by_case(judgements, tmp_path):
    """The cases of b1 and b2, which share ids, recur with new verdicts under benchmark names that sort differently."""
    origins = {"z_b1": "b1", "a_b2": "b2"}
    turned = pl.concat([records.read(path, records.JUDGEMENT) for path in judgements if "jud-" in path])
    turned = turned.filter(pl.col("benchmark") != "unused")
    flipped = pl.Series(np.random.default_rng(2).random(turned.height) < 0.2)
    names = {origin: name for name, origin in origins.items()}
    turned = turned.with_columns(pl.col("benchmark").replace_strict(names), correct=pl.col("correct") ^ flipped)
    path = tmp_path / "turned.parquet"
    records.write(turned, path, records.JUDGEMENT)
    columns = [
        {"name": "one", "judge": "jud", "benchmarks": ["b1"]},
        {"name": "turned", "judge": "jud", "benchmarks": ["z_b1", "a_b2"]},
        {"name": "two", "judge": "jud", "benchmarks": ["b1", "b2"]},
        {"name": "twice", "judge": "jud", "benchmarks": ["b1", "z_b1"]},
    ]
    found = query_accuracy([*judgements, str(path)], columns)
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
    with pytest.raises(UserError, match="'one' and 'two' have different cases"):
        tables.accuracy_cells(found, 10, 1, {"two": "one"})
    with pytest.raises(UserError, match="'two' and 'turned' have different cases"):
        tables.accuracy_cells(found, 10, 1, {"turned": "two"})
    with pytest.raises(UserError, match="'twice' has the same case twice"):
        tables.accuracy_cells(found, 10, 1, {"twice": "one"}, origins)


def test_harmed_cases_are_right_without_a_description_and_wrong_with_it(judgements, undecided):
    frame = pd.concat([pd.read_parquet(path) for path in judgements])
    right = frame.pivot_table(index=["judge", "benchmark", "case_id"], columns="method", values="correct") > 0.5
    cells = tables.accuracy_cells(query_accuracy(judgements), 50, 1, null="Plain")
    for column in COLUMNS:
        own = right.loc[column["judge"]].loc[column["benchmarks"]]
        harmed = dict(cells.filter(column=column["name"]).select("method", "harmed").iter_rows())
        for method in ("ours", "gold"):
            expected = 100 * pd.crosstab(own["plain"], own[method], normalize="all").loc[True, False]
            assert harmed[method.title()] == pytest.approx(expected, abs=0.0051) and expected > 0
        assert harmed["Plain"] is None, "it cannot harm itself"
    without = tables.accuracy_cells(query_accuracy(judgements), 50, 1)
    assert without["harmed"].null_count() == without.height
    assert without.drop("harmed").equals(cells.drop("harmed"))
    empty = tables.accuracy_cells(query_accuracy(undecided), 50, 1, null="Plain").filter(column="both")
    assert empty["harmed"].null_count() == 3, "a row in which no case is decided is right about none"


def test_tokens_are_means_over_the_cases_of_methods_that_write(judgements):
    cells = tables.accuracy_cells(query_accuracy(judgements), 50, 1)
    frame = pd.concat([pd.read_parquet(path) for path in judgements])
    for column in COLUMNS:
        own = frame[(frame.judge == column["judge"]) & frame.benchmark.isin(column["benchmarks"])]
        means = own.groupby("method").completion_tokens.mean()
        found = dict(cells.filter(column=column["name"]).select("method", "tokens").iter_rows())
        expected = {"Plain": means["plain"], "Ours": means["ours"], "Gold": None}
        assert found == {label: value and pytest.approx(value, abs=0.0051) for label, value in expected.items()}
        assert means["gold"] > 0, "so it is empty because it writes nothing"


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
    columns = [{"name": "b", "benchmarks": ["b1"], "paper": "win_rate/alignx_test"}]
    wins = {"wins": [str(path)]}
    found = queries.query_table(
        f"{SQL}/win_rates.sql", wins, METHODS[:2], columns, "resources/paper_tables.csv", "table3"
    )
    cells = {row["method"]: row for row in tables.win_rate_cells(found, 200, 1).to_dicts()}
    expected = 100 * np.mean([{"a": 1, "tie": 0.5, "b": 0}[outcome] for outcome in outcomes])
    assert cells["Ours"]["percent"] == pytest.approx(expected, abs=0.0051)
    assert cells["Ours"]["percent"] + cells["Plain"]["percent"] == pytest.approx(100, abs=0.011)
    assert queries.column_order(found) == ["b, against Plain", "b, against Ours"]
    assert cells["Ours"]["column"] == "b, against Plain"
    assert (cells["Ours"]["mark"], cells["Plain"]["mark"]) == ("*", None)


def test_markdown_shows_every_figure(judgements):
    found = query_accuracy(judgements)
    cells = tables.accuracy_cells(found, resamples=200, seed=1)
    text = tables.cells_markdown("Title", "Note.", cells, queries.column_order(found))
    assert "| method | one | both |" in text
    assert "paper 65.33" in text
    assert "n is 80 to 160 cases per cell" in text


COMPARED = ["difference", "difference_low", "difference_high", "p_holm"]


def compared_with(paths, baseline, columns=COLUMNS):
    """The cells, by (method, column), of a table that compares with the method of this label."""
    found = query_accuracy(paths, columns)
    cells = tables.accuracy_cells(found, 200, 1, compare_with=baseline)
    assert cells.schema == tables.COMPARED_CELLS and cells.columns[-4:] == COMPARED
    return {(row["method"], row["column"]): row for row in cells.to_dicts()}


def outcomes_of(paths, column):
    """Each method's outcomes in a column, by its label, with the cases as their index."""
    frame = pd.concat([pd.read_parquet(path) for path in paths])
    frame = frame[(frame.judge == column["judge"]) & frame.benchmark.isin(column["benchmarks"])]
    return {
        method["label"]: frame[frame.method == method["name"]]
        .set_index(["benchmark", "case_id"])
        .correct.astype(float)
        .sort_index()
        for method in METHODS
    }


def test_differences_equal_pandas(judgements):
    cells = compared_with(judgements, "Plain")
    for column in COLUMNS:
        outcomes = outcomes_of(judgements, column)
        raw = {}
        for label in ("Ours", "Gold"):
            row = cells[label, column["name"]]
            gained = 100 * (outcomes[label] - outcomes["Plain"])
            assert (row["n"], row["percent"]) == (len(gained), pytest.approx(100 * outcomes[label].mean(), abs=0.0051))
            assert row["difference"] == pytest.approx(gained.mean(), abs=0.0051)
            assert row["difference_low"] < row["difference"] < row["difference_high"]
            half = 1.96 * gained.std() / math.sqrt(len(gained))
            assert row["difference_high"] - row["difference_low"] == pytest.approx(2 * half, rel=0.2)
            raw[label] = stats.ttest_rel(outcomes[label], outcomes["Plain"]).pvalue
        smaller, larger = sorted(raw, key=raw.get)
        # Two hypotheses: the smaller p-value is doubled, and the larger cannot fall below that.
        assert cells[smaller, column["name"]]["p_holm"] == pytest.approx(min(1, 2 * raw[smaller]), rel=6e-4)
        expected = min(1, max(2 * raw[smaller], raw[larger]))
        assert cells[larger, column["name"]]["p_holm"] == pytest.approx(expected, rel=6e-4)
        assert [cells["Plain", column["name"]][name] for name in COMPARED] == [None] * 4


def test_a_comparison_adds_columns_and_changes_none(judgements):
    found = query_accuracy(judgements)
    plain = tables.accuracy_cells(found, 200, 1)
    compared = tables.accuracy_cells(found, 200, 1, compare_with="Plain")
    assert plain.schema == tables.ACCURACY_CELLS and compared.drop(COMPARED).equals(plain)
    text = tables.cells_markdown("Title", "Note.", plain, ["one", "both"])
    assert "difference" not in text and "difference" not in tables.accuracy_note(None)


def test_methods_judged_on_other_cases_have_no_difference(judgements, tmp_path):
    """Gold has another case in b2, so in column `both` only Ours can be tested against Plain."""
    paths = []
    for path in judgements:
        table = records.read(path, records.JUDGEMENT)
        if path.endswith("-gold.parquet"):
            is_other = (pl.col("benchmark") == "b2") & (pl.col("case_id") == "007")
            table = table.with_columns(case_id=pl.when(is_other).then(pl.lit("900")).otherwise(pl.col("case_id")))
        paths.append(str(tmp_path / f"other-{len(paths)}-{path.rpartition('-')[2]}"))
        records.write(table, paths[-1], records.JUDGEMENT)
    cells = compared_with(paths, "Plain")
    assert cells["Gold", "one"]["difference"] is not None and cells["Gold", "one"]["p_holm"] is not None
    assert [cells["Gold", "both"][name] for name in [*COMPARED, "p_value", "mcnemar_holm"]] == [None] * 6
    assert cells["Gold", "both"]["n"] == 160 and cells["Gold", "both"]["low"] < cells["Gold", "both"]["percent"]
    outcomes = outcomes_of(paths, COLUMNS[1])
    alone = stats.ttest_rel(outcomes["Ours"], outcomes["Plain"]).pvalue
    assert cells["Ours", "both"]["p_holm"] == pytest.approx(alone, rel=6e-4)
    # With Gold as the baseline, no method has its cases.
    cells = compared_with(paths, "Gold")
    assert all(cells[method, "both"][name] is None for method in ("Plain", "Ours", "Gold") for name in COMPARED)
    assert cells["Ours", "one"]["difference"] < 0


def test_a_baseline_that_a_column_lacks_gives_no_difference(judgements):
    paths = [path for path in judgements if not path.endswith("gen-plain.parquet")]
    cells = compared_with(paths, "Plain")
    assert ("Plain", "both") not in cells
    assert [cells["Ours", "both"][name] for name in COMPARED] == [None] * 4
    assert cells["Ours", "one"]["difference"] is not None


def test_significant_differences_are_marked():
    row = {"method": "b", "column": "c", "n": 1, "percent": 90.0, "low": 85.0, "high": 95.0, "mark": None}
    row |= {"difference": 40.0, "difference_low": 30.0, "difference_high": 50.0, "paper": 12.0}
    for adjusted, shown in ((0.0, "difference +40.0*<br>paper 12.00 |"), (0.2, "difference +40.0<br>paper 12.00 |")):
        cells = pl.DataFrame([{**row, "p_holm": adjusted}], schema=tables.COMPARED_CELLS)
        text = tables.cells_markdown("Title", tables.accuracy_note("a"), cells, ["c"])
        assert f"| b | 90.0 [85.0, 95.0]<br>{shown}" in text
    missing = {**row, **dict.fromkeys(COMPARED)}
    cells = pl.DataFrame([missing], schema=tables.COMPARED_CELLS)
    assert "| b | 90.0 [85.0, 95.0]<br>paper 12.00 |" in tables.cells_markdown("Title", "Note.", cells, ["c"])


def test_the_note_names_the_baseline_as_text():
    note = tables.accuracy_note("<b>|a_1")
    assert note.startswith(tables.ACCURACY_NOTE) and "difference from \\<b\\>\\|a\\_1 is in points" in note
    assert "Holm" in note
