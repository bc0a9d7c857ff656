"""Random judgements of three methods by two judges, for the tests of tables and figures."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from alignxplore import records
from alignxplore.results import queries

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


def write_judgements(directory: Path) -> list[str]:
    """Write the judgements, one file per judge and method with its rows shuffled; returns the paths."""
    rng = np.random.default_rng(7)
    skill = {"plain": 0.5, "ours": 0.8, "gold": 0.95}
    paths = []
    for judge in ("jud", "gen"):
        for method in skill:
            rows: list[dict[str, Any]] = [
                {
                    "case_id": f"{index:03}",
                    "benchmark": benchmark,
                    "method": method,
                    "judge": judge,
                    "p_chosen_ba": 0.25,
                    "unparsed": int(rng.integers(3)),
                    "format_ok": None if method == "gold" else bool(rng.random() < 0.6),
                    "completion_tokens": len(method) + int(index) ** 2 % 90,
                    "target": f"{benchmark} {index}",
                    "correct": bool(rng.random() < skill[method]),
                    "position_flip": bool(rng.random() < 0.3),
                }
                for benchmark in ("b1", "b2", "unused")
                for index in rng.permutation(80)
            ]
            for row in rows:
                # Every second case that is not won has probabilities that average to one half.
                lost = 0.75 if int(row["case_id"]) % 2 else 0.25
                row["p_chosen_ab"] = 1.0 if row["correct"] else lost
            path = directory / f"{judge}-{method}.parquet"
            records.write(pl.DataFrame(rows), path, records.JUDGEMENT)
            paths.append(str(path))
    return paths


def query_accuracy(paths, columns=COLUMNS, methods=METHODS, published="resources/paper_tables.csv", table="table2"):
    """The result of accuracy.sql over judgements."""
    return queries.query_table(f"{SQL}/accuracy.sql", {"judgements": paths}, methods, columns, published, table)
