"""Rankings of the methods: their Bradley-Terry strengths, and how far a ranking depends on the judge."""

from typing import Any

import numpy as np
import polars as pl
from scipy.stats import kendalltau

from alignxplore.errors import UserError
from alignxplore.results.queries import column_order
from alignxplore.results.stats import bradley_terry, cohen_kappa, resampled_counts

STRENGTHS = pl.Schema(
    {
        "method": pl.String(),
        "column": pl.String(),
        "n": pl.Int64(),
        "strength": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
    }
)
"""Bradley-Terry log strengths with 95% bootstrap intervals; `n` counts the cases on which all methods were compared."""
STRENGTHS_NOTE = (
    "Bradley-Terry log strengths of mean 0, with 95% bootstrap intervals over targets. A difference of 1 means odds of "
    "2.7 to 1. A tie counts as half a win for each method, and one tie is added between every two methods."
)
JUDGES = pl.Schema(
    {
        "judge": pl.String(),
        "verdicts": pl.Int64(),
        "position_flip": pl.Float64(),
        "ties": pl.Float64(),
        "unparsed": pl.Float64(),
        "agreement": pl.Float64(),
        "kappa": pl.Float64(),
        "kendall_tau": pl.Float64(),
        "tau_low": pl.Float64(),
        "tau_high": pl.Float64(),
        "swapped": pl.Int64(),
        "ranking": pl.String(),
    }
)
"""A judge's failures over its `verdicts` (one per method and case), and how it compares with the table's first judge.

`position_flip`, `ties` and `unparsed` are percentages, as in an accuracy CSV. `agreement` (percent) and Cohen's `kappa`
compare the verdicts; Kendall's tau-b and the number of `swapped` pairs of methods compare the rankings.
"""
JUDGES_NOTE = (
    "Each judge is compared with the first: percent of equal verdicts, Cohen's kappa, Kendall's tau-b between the two "
    "rankings of the methods with its 95% bootstrap interval over targets, and the number of pairs of methods that the "
    "two judges rank in opposite order."
)


def strength_rows(found: pl.DataFrame, resamples: int, seed: int) -> pl.DataFrame:
    """STRENGTHS of the methods in the result of win_rates.sql, one row per method and group of benchmarks.

    The bootstrap draws all comparisons of a case together. Raises UserError if two methods were compared on other
    cases than the rest of their group.
    """
    methods = found["method"].unique(maintain_order=True).to_list()
    rows: list[tuple[Any, ...]] = []
    for group in found["group"].unique(maintain_order=True):
        games = found.filter(pl.col("group") == group).to_dicts()
        cases = games[0]["cases"]
        for game in games:
            if game["cases"] != cases:
                raise UserError(
                    f"{game['method']} and {game['opponent']} were compared on different cases from the other methods:"
                    f" {game['column']}"
                )
        # Row 0 counts every case once, which gives the estimate; the others are the bootstrap samples.
        counts = np.vstack([np.ones(len(cases)), resampled_counts(games[0]["targets"], resamples, seed)])
        wins = np.zeros((len(counts), len(methods), len(methods)))
        for game in games:
            won = counts @ np.asarray(game["outcomes"])
            wins[:, methods.index(game["method"]), methods.index(game["opponent"])] = won
        strengths = bradley_terry(wins)
        low, high = np.percentile(strengths[1:], [2.5, 97.5], axis=0)
        rows += zip(methods, [group] * len(methods), [len(cases)] * len(methods), strengths[0], low, high, strict=True)
    table = pl.DataFrame(rows, schema=STRENGTHS, orient="row")
    return table.with_columns(pl.col("strength", "low", "high").round(4))


def judge_rows(found: pl.DataFrame, resamples: int, seed: int) -> pl.DataFrame:
    """JUDGES from the result of accuracy.sql, whose columns are judges over the same benchmarks.

    Raises UserError if two judges, or the methods of one, have different cases.
    """
    methods = found["method"].unique(maintain_order=True).to_list()
    judges = column_order(found)
    cases = found["cases"][0].to_list()
    for row in found.to_dicts():
        if row["cases"] != cases:
            raise UserError(
                f"judges must have the same cases to be compared; {row['column']} has others of {row['method']}"
            )
    verdicts = {judge: _verdicts(found.filter(pl.col("column") == judge), methods) for judge in judges}
    counts = resampled_counts(found["targets"][0].to_list(), resamples, seed)
    first = verdicts[judges[0]]
    rows = []
    for judge, own in verdicts.items():
        compared = _compared(own, first, counts)
        cells = found.filter(pl.col("column") == judge)
        rows.append(
            {
                "judge": judge,
                "verdicts": own.size,
                "position_flip": cells["position_flip"].mean(),
                "ties": cells["ties"].mean(),
                "unparsed": cells["unparsed"].mean(),
                **(compared if judge != judges[0] else dict.fromkeys(compared)),
                "ranking": " > ".join(methods[place] for place in np.argsort(-own.mean(1), kind="stable")),
            }
        )
    figures = [name for name in JUDGES if JUDGES[name] == pl.Float64]
    # Tau is undefined for a ranking in which all methods are equal.
    return pl.DataFrame(rows, schema=JUDGES).with_columns(pl.col(figures).round(4).fill_nan(None))


def _verdicts(cells: pl.DataFrame, methods: list[str]) -> np.ndarray:
    """One judge's verdicts, 0 or 1: (methods, cases)."""
    outcomes = dict(cells.select("method", "outcomes").iter_rows())
    return np.array([outcomes[method] for method in methods])


def _compared(own: np.ndarray, first: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """How one judge's verdicts (methods, cases) and ranking compare with the first judge's.

    `counts` (resamples, cases) says how often each bootstrap sample draws a case.
    """
    taus = [_tau(*pair) for pair in zip(counts @ own.T, counts @ first.T, strict=True)]
    return {
        "agreement": 100 * (own == first).mean(),
        "kappa": cohen_kappa(own.ravel(), first.ravel()),
        "kendall_tau": _tau(own.mean(1), first.mean(1)),
        "tau_low": np.nanpercentile(taus, 2.5),
        "tau_high": np.nanpercentile(taus, 97.5),
        "swapped": _swapped(own.mean(1), first.mean(1)),
    }


def _tau(first: np.ndarray, second: np.ndarray) -> float:
    return float(kendalltau(first, second).statistic)


def _swapped(first: np.ndarray, second: np.ndarray) -> int:
    """The number of pairs of methods whose order differs between two sets of accuracies."""
    signs = [np.sign(values[:, None] - values[None, :]) for values in (first, second)]
    return int((signs[0] * signs[1] < 0).sum()) // 2
