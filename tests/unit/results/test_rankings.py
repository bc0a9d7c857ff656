"""Strengths and judges against independent computations on the same Parquet files."""

import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
from alignxplore import records
from alignxplore.results import queries, rankings, tables
from result_samples import METHODS, SQL, query_accuracy


def wins_of_three(tmp_path):
    """Write every pairing of three methods on the same 60 cases of two benchmarks; a better method wins more often."""
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
    found = queries.query_table(
        f"{SQL}/win_rates.sql", {"wins": paths}, METHODS, entries, "resources/paper_tables.csv", "table3"
    )
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
    strengths = rankings.strength_rows(found, 400, 1)
    for entry in entries:
        own = strengths.filter(pl.col("column") == entry["name"])
        order = own.sort("strength")["method"].to_list()
        assert order == ["Plain", "Ours", "Gold"]
        # At the maximum of the likelihood, expected wins under the fitted strengths equal the counted wins.
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
    found = query_accuracy(judgements, judges, table="none")
    first, second = rankings.judge_rows(found, 300, 1).to_dicts()
    frame = pd.concat([pd.read_parquet(path) for path in judgements])
    frame = frame[frame.benchmark.isin(["b1", "b2"])].set_index(["method", "benchmark", "case_id"]).sort_index()
    mine, other = frame[frame.judge == "gen"], frame[frame.judge == "jud"]
    assert (first["judge"], first["agreement"], first["kendall_tau"]) == ("jud", None, None)
    assert second["verdicts"] == len(mine) == 480
    assert second["agreement"] == pytest.approx(100 * (mine.correct == other.correct).mean(), abs=1e-4)
    assert second["position_flip"] == pytest.approx(100 * mine.position_flip.mean(), abs=1e-4)
    tied = (mine.unparsed == 0) & (mine.p_chosen_ab + mine.p_chosen_ba == 1)
    assert second["ties"] == pytest.approx(100 * tied.mean(), abs=1e-4) and tied.any()
    assert second["unparsed"] == pytest.approx(50 * mine.unparsed.mean(), abs=1e-4)
    means = [side.groupby("method").correct.mean() for side in (mine, other)]
    assert second["kendall_tau"] == pytest.approx(means[0].corr(means[1], method="kendall"), abs=1e-4)
    assert second["ranking"].startswith("Gold > ") and second["swapped"] == 0
    assert second["tau_low"] <= second["kendall_tau"] <= second["tau_high"]


def test_a_reversed_ranking_is_seen():
    rows = [
        {
            "method": method,
            "column": judge,
            "column_position": place,
            "cases": [f"b {i:02}" for i in range(20)],
            "targets": [f"{i}" for i in range(20)],
            "outcomes": [1.0] * right + [0.0] * (20 - right),
            "position_flip": 0.0,
            "ties": 0.0,
            "unparsed": 0.0,
        }
        for place, (judge, rights) in enumerate({"j1": (5, 10, 15), "j2": (15, 10, 5)}.items())
        for method, right in zip("abc", rights, strict=True)
    ]
    second = rankings.judge_rows(pl.DataFrame(rows), 50, 1).to_dicts()[1]
    assert (second["kendall_tau"], second["swapped"], second["ranking"]) == (-1.0, 3, "a > b > c")
