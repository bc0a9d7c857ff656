"""Whether judges can be trusted: what they say under descriptions that are known to be right or wrong."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from alignxplore.errors import UserError
from alignxplore.results.stats import bootstrap_interval, cohen_kappa, length_controlled

COLUMNS = {"golden": "golden", "opposite": "opposite", "shuffled": "shuffled", "none": "null"}
"""The column of each kind of method whose descriptions a table of validity compares."""
VALIDITY = pl.Schema(
    {
        "judge": pl.String(),
        "benchmark": pl.String(),
        "n": pl.Int64(),
        "golden": pl.Float64(),
        "opposite": pl.Float64(),
        "shuffled": pl.Float64(),
        "null": pl.Float64(),
        "discrimination": pl.Float64(),
        "discrimination_low": pl.Float64(),
        "discrimination_high": pl.Float64(),
        "position_flip": pl.Float64(),
        "ties": pl.Float64(),
        "unparsed": pl.Float64(),
        "longer": pl.Float64(),
        "shorter": pl.Float64(),
        "length_controlled": pl.Float64(),
        "agreement": pl.Float64(),
        "kappa": pl.Float64(),
    }
)
"""A judge on a benchmark of `n` cases.

- `golden`, `opposite`, `shuffled`, `null`: accuracy in percent under each description; `null` is the empty one. It is
  missing if no case is decided.
- `discrimination`: `golden` minus `opposite` in points, paired by case, with its 95% interval over targets.
- `position_flip`, `ties`, `unparsed`: under the golden description, in percent, as in an accuracy CSV.
- `longer`, `shorter`: accuracy under the golden description where the chosen response has more or fewer characters than
  the other; missing if there are no such cases.
- `length_controlled`: accuracy under the golden description if both responses were equally long, by `length_controlled`
  in `stats.py`; missing if length tells right from wrong cases apart.
- `agreement`, `kappa`: percentage of equal verdicts with the benchmark's first judge, and Cohen's kappa, over the
  verdicts under all descriptions: about as many are right as wrong, as kappa needs.
"""
VALIDITY_NOTE = (
    "Percent of cases in which a judge prefers the chosen response under the golden description, its opposite, another "
    "user's, and none. Discrimination is golden minus opposite in points, with its 95% bootstrap interval over "
    "targets. Position flips, ties, unparsed orders and effects of length are those under the golden description: "
    "accuracy where the chosen response is the longer or the shorter one, and at equal length by a logistic "
    "regression. Agreement and Cohen's kappa compare all verdicts with those of the benchmark's first judge."
)


def validity_rows(found: pl.DataFrame, resamples: int, seed: int) -> pl.DataFrame:
    """VALIDITY from the result of validity.sql.

    Raises UserError if the verdicts on a benchmark are over different cases.
    """
    rows = []
    first: dict[str, dict[str, dict[str, Any]]] = {}
    for (judge, benchmark), own in found.group_by("judge", "benchmark", maintain_order=True):
        cells = {cell["kind"]: cell for cell in own.to_dicts()}
        others = first.setdefault(str(benchmark), cells)
        for kind, cell in cells.items():
            if cell["cases"] != others["golden"]["cases"]:
                raise UserError(f"judge {judge!r} has verdicts on other cases of {benchmark!r} ({kind})")
        golden = cells["golden"]
        rows.append(
            {
                "judge": judge,
                "benchmark": benchmark,
                "n": golden["n"],
                **{COLUMNS[kind]: cell["percent"] for kind, cell in cells.items()},
                **_discrimination(golden, cells["opposite"], resamples, seed),
                **{name: golden[name] for name in ("position_flip", "ties", "unparsed", "longer", "shorter")},
                "length_controlled": None
                if golden["percent"] is None
                else 100 * length_controlled(golden["outcomes"], golden["characters"]),
                **(_agreement(cells, others) if cells is not others else {}),
            }
        )
    figures = [name for name in VALIDITY if VALIDITY[name] == pl.Float64]
    return pl.DataFrame(rows, schema=VALIDITY).with_columns(pl.col(figures).fill_nan(None).round(4))


def _discrimination(
    golden: Mapping[str, Any], opposite: Mapping[str, Any], resamples: int, seed: int
) -> dict[str, float]:
    """`discrimination` with its interval, or nothing if no case is decided under one of the descriptions."""
    if None in (golden["percent"], opposite["percent"]):
        return {}
    gained = 100 * np.subtract(golden["outcomes"], opposite["outcomes"])
    low, high = bootstrap_interval(gained, golden["targets"], resamples, seed)
    return {"discrimination": float(gained.mean()), "discrimination_low": low, "discrimination_high": high}


def _agreement(own: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, float]:
    """`agreement` and `kappa` over the descriptions under which both judges decide any case; nothing without one."""
    decided = [kind for kind in own if None not in (own[kind]["percent"], first[kind]["percent"])]
    if not decided:
        return {}
    a, b = (np.concatenate([cells[kind]["outcomes"] for kind in decided]) for cells in (own, first))
    return {"agreement": 100 * float((a == b).mean()), "kappa": cohen_kappa(a, b)}
