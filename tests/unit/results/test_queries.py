"""What the queries count."""

import polars as pl
from alignxplore import records
from alignxplore.results import queries
from result_samples import SQL


def test_a_benchmark_without_directions_is_counted(tmp_path):
    case = dict.fromkeys(records.CASE, "x") | {
        "direction": [],
        "pairs": [],
        "ugc": [],
        "rendered": "prompt",
        "chunks": [],
    }
    path = tmp_path / "cases.parquet"
    records.write(pl.DataFrame([case], schema=records.CASE), path, records.CASE)
    columns = queries.benchmarks_relation([{"benchmark": "x", "in_domain": True}])
    (row,) = queries.query(f"{SQL}/benchmarks.sql", {"cases": [str(path)]}, {"columns": columns}).to_dicts()
    assert (row["n"], row["dimensions"], row["preferred"], row["pairs_per_case"]) == (1, None, None, 0.0)


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
            "rendered": "",
            **records.NO_STREAM,
            "profile": "",
        }
        for index, direction in enumerate([[1, 0, -1], [1, 0, 0]])
    ]
    path = tmp_path / "cases.parquet"
    records.write(pl.DataFrame(rows), path, records.CASE)
    columns = queries.benchmarks_relation([{"benchmark": "b1", "in_domain": False}])
    row = queries.query(f"{SQL}/benchmarks.sql", {"cases": [str(path)]}, {"columns": columns}).to_dicts()[0]
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
