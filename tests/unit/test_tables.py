"""Tables against independent computations on the same Parquet files."""

import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
from alignxplore import records, tables
from alignxplore.errors import UserError
from alignxplore.stats import bootstrap_interval, holm, mcnemar_test, paired_t_test
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
        if method["name"] == "ours":
            assert (row["mark"], row["p_value"]) == ("best", None)
        else:
            expected = stats.ttest_rel(outcomes("ours"), mine).pvalue
            assert row["p_value"] == pytest.approx(expected, abs=1e-6)
            others = [outcomes(m["name"]) for m in METHODS if m["name"] != "ours"]
            raw = sorted(mcnemar_test(outcomes("ours"), other) for other in others)
            mine_raw = mcnemar_test(outcomes("ours"), mine)
            # Two hypotheses: the smaller p-value is doubled, the larger stands but for being no smaller than that.
            adjusted = 2 * raw[0] if mine_raw == raw[0] else max(raw[1], 2 * raw[0])
            assert row["mcnemar_holm"] == pytest.approx(min(adjusted, 1), abs=1e-6)
            assert row["mark"] == ("*" if method["name"] == "plain" else None)
    published = dict(cells.filter(pl.col("column") == "one").select("method", "paper").iter_rows())
    assert published == {"Plain": 50.33, "Ours": 65.33, "Gold": None}


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


def test_bootstrap_interval_agrees_with_the_normal_one():
    values = np.random.default_rng(1).random(400) < 0.7
    low, high = bootstrap_interval(values, 4000, seed=2)
    half = 1.96 * math.sqrt(values.mean() * (1 - values.mean()) / len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.006)
    assert high == pytest.approx(values.mean() + half, abs=0.006)
    assert bootstrap_interval(values, 4000, seed=2) == (low, high)
    assert bootstrap_interval([1.0, 1.0], 100, seed=1) == (1.0, 1.0)


def test_paired_t_test_equals_scipy_and_survives_constant_differences():
    rng = np.random.default_rng(5)
    first, second = rng.random(50), rng.random(50)
    assert paired_t_test(first, second) == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert paired_t_test([1, 0, 1], [1, 0, 1]) == 1.0
    assert paired_t_test([1, 1], [0, 0]) == 0.0


def test_mcnemar_is_the_binomial_test_of_pairs_that_differ():
    first, second = [1, 1, 1, 1, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1, 1, 1, 0]
    # 5 to 1: twice the probability of at most 1 of 6 fair coins, (1 + 6) / 64.
    assert mcnemar_test(first, second) == pytest.approx(14 / 64)
    assert mcnemar_test(first, first) == 1.0


def test_holm_steps_down():
    # Hand-worked: sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, each no less than the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
