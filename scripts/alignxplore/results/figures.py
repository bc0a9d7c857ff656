"""The figures, in one style: training curves (2, 4), word clouds (3), and accuracy against a possible influence."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import polars as pl

from alignxplore.errors import UserError
from alignxplore.results.stats import calibration_error, wilson_interval

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402
from wordcloud import STOPWORDS, WordCloud  # noqa: E402

POINTS = pl.Schema(
    {
        "panel": pl.String(),
        "series": pl.String(),
        "x": pl.Float64(),
        "label": pl.String(),
        "n": pl.Int64(),
        "accuracy": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
    }
)
"""Points of an accuracy figure: percentages of `n` cases with 95% Wilson intervals. A panel is a judge, a series a
method."""
METRIC_LABELS = {
    "reward": "reward (mean over rollouts)",
    "completion_length": "completion length (tokens)",
    "format_ok": "share of completions in format",
    "entropy": "entropy (nats per token)",
    "grad_norm": "gradient norm",
    "reward_std": "reward standard deviation",
    "clipped_ratio": "share of completions cut off at the limit",
    "loss": "loss",
}
LINES = ("-", "--", "-.", ":")
MARKERS = "os^DvPX*"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart. Line styles and markers do so in greyscale."""
INK = "#15374f"
"""The colour of words, dark enough for greyscale."""
WINDOW = 10
"""Steps in the running mean of a training curve."""
CHANCE = 50
"""Accuracy of a coin toss, in percent."""
AXES = {
    "confidence": "judge confidence (probability of its choice, %)",
    "dimension": "accuracy (% of cases)",
    "signals": "signals shown (pairs and comments)",
    "chunk": "chunks read",
    "length": "completion length (tokens; cases in fifths)",
}
STYLE: dict[Any, Any] = {
    "figure.figsize": (6.4, 3.6),
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "alignxplore",  # otherwise ids in the file differ from run to run
}


def training_curves(metrics: Mapping[str, pl.DataFrame], metric: str) -> Figure:
    """`metric` by optimiser step, one line per variant: thin for the single step, bold for the running mean."""
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(layout="constrained")
        for index, (variant, table) in enumerate(metrics.items()):
            color, line = COLORS[index % len(COLORS)], LINES[index % len(LINES)]
            smooth = table[metric].rolling_mean(WINDOW, min_samples=1)
            axes.plot(table["step"], table[metric], color=color, alpha=0.25, linewidth=0.8)
            axes.plot(table["step"], smooth, line, color=color, linewidth=1.8, label=variant)
        axes.set_xlabel(f"optimiser step (bold: mean of the last {WINDOW})")
        axes.set_ylabel(METRIC_LABELS.get(metric, metric.replace("_", " ")))
        axes.legend()
    return figure


def word_counts(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, stop words aside; a hyphenated word counts as one."""
    words = (word for text in texts for word in re.findall(r"[a-z][a-z'-]*", text.lower()))
    return Counter(word for word in words if word not in STOPWORDS)


def word_clouds(texts: Mapping[str, list[str]], seed: int) -> Figure:
    """One cloud per method, from its descriptions; a word's size follows its count."""
    with matplotlib.rc_context(STYLE):
        across = min(2, len(texts))
        down = -(-len(texts) // across)
        figure, axes = pyplot.subplots(
            down, across, figsize=(3.6 * across, 2.3 * down), layout="constrained", squeeze=False
        )
        for place in axes.flat:
            place.set_axis_off()
        for place, (method, descriptions) in zip(axes.flat, texts.items(), strict=False):
            place.set_title(f"{method} (n = {len(descriptions)})", fontsize=10)
            counts = word_counts(descriptions)
            if counts:
                cloud = WordCloud(
                    width=720,
                    height=400,
                    background_color="white",
                    color_func=lambda *_, **__: INK,
                    random_state=seed,
                    max_words=60,
                )
                place.imshow(cloud.generate_from_frequencies(counts), interpolation="bilinear")
    return figure


def accuracy_points(found: pl.DataFrame) -> pl.DataFrame:
    """POINTS from the result of an accuracy_by_*.sql query, which counts `correct` among `n` cases."""
    rows = []
    for row in found.to_dicts():
        low, high = wilson_interval(row["correct"], row["n"])
        rows.append({**row, "accuracy": 100 * row["correct"] / row["n"], "low": 100 * low, "high": 100 * high})
    return pl.DataFrame(rows, schema=POINTS).with_columns(pl.col("x", "accuracy", "low", "high").round(4))


def accuracy_panels(points: pl.DataFrame, by: str) -> Figure:
    """POINTS with their intervals against `by`, a key of AXES: one panel per judge, one series per method.

    Confidence has a panel for each judge and method, because the series would cover each other.
    """
    if points.is_empty():
        raise UserError(f"accuracy by {by}: no case has any, so there is nothing to draw")
    if by == "confidence":
        return _calibration(points)
    panels = {str(panel): own for (panel,), own in points.group_by("panel", maintain_order=True)}
    across, draw = (6.2, _dimensions) if by == "dimension" else (4.6, _lines)
    down = 1.6 + 0.26 * points["x"].n_unique() if by == "dimension" else 3.8
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(
            1, len(panels), figsize=(across * len(panels), down), layout="constrained", squeeze=False, sharey=True
        )
        for place, (panel, own) in zip(axes.flat, panels.items(), strict=True):
            place.set_title(f"judge: {panel}", fontsize=10)
            draw(place, own, by)
        handles, names = axes[0, 0].get_legend_handles_labels()
        _legend_below(figure, handles, names)
    return figure


def _calibration(points: pl.DataFrame) -> Figure:
    """Accuracy against confidence, one row per judge and one column per method; larger dots stand for more cases."""
    judges, methods = (points[name].unique(maintain_order=True).to_list() for name in ("panel", "series"))
    with matplotlib.rc_context(STYLE):
        figure, grid = pyplot.subplots(
            len(judges), len(methods), figsize=(2.3 * len(methods) + 0.5, 2.1 * len(judges) + 0.9),
            layout="constrained", squeeze=False, sharex=True, sharey=True,
        )  # fmt: skip
        for (row, judge), (column, method) in product(enumerate(judges), enumerate(methods)):
            axes = grid[row, column]
            own = points.filter((pl.col("panel") == judge) & (pl.col("series") == method))
            axes.plot([50, 100], [50, 100], color="0.5", linewidth=0.8, label="a perfectly calibrated judge")
            x, color = 100 * own["x"], COLORS[column % len(COLORS)]
            axes.errorbar(x, own["accuracy"], yerr=_spread(own), linestyle="", color=color, elinewidth=0.8, alpha=0.6)
            axes.scatter(x, own["accuracy"], s=120 * own["n"] / own["n"].sum() + 6, color=color, zorder=3)
            error = calibration_error(own["x"], own["accuracy"] / 100, own["n"])
            axes.set_title(f"{method}\njudge: {judge}, n = {own['n'].sum()}, ECE {error:.2f}", fontsize=8)
        grid[0, 0].set_xlim(48, 102)
        grid[0, 0].set_xticks(range(50, 101, 10))
        figure.supxlabel(AXES["confidence"], fontsize=10)
        figure.supylabel(AXES["dimension"], fontsize=10)
        figure.legend(*grid[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside upper right")
    return figure


def _legend_below(figure: Figure, handles: list[Any], names: list[str]) -> None:
    """Add a legend with as many columns as fit the figure's width, at most three."""
    for columns in range(min(3, len(names)), 0, -1):
        legend = figure.legend(handles, names, fontsize=8, loc="outside lower center", ncols=columns)
        figure.draw_without_rendering()
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def _dimensions(axes: Any, points: pl.DataFrame, by: str) -> None:
    """Draw one row per dimension, with the series slightly offset so that their intervals do not overlap."""
    series = _series(points)
    for index, (name, own) in enumerate(series.items()):
        below = own["x"] + 0.5 * (index - (len(series) - 1) / 2) / len(series)
        axes.errorbar(own["accuracy"], below, xerr=_spread(own), linestyle="", label=name, **_look(index))
    counts = points.group_by("x", "label").agg(pl.col("n").max()).sort("x")
    # AlignX explains some names in parentheses; those would leave no room for the points.
    names = [f"{name.partition(' (')[0]} (n = {n})" for name, n in counts.select("label", "n").rows()]
    places = counts["x"].to_list()
    axes.set_yticks(places, names, fontsize=7)
    axes.set_ylim(places[-1] + 0.7, places[0] - 0.7)
    axes.axvline(CHANCE, color="0.5", linewidth=0.8)
    axes.set_xlabel(AXES[by])


def _lines(axes: Any, points: pl.DataFrame, by: str) -> None:
    for index, (name, own) in enumerate(_series(points).items()):
        # By signals or chunks, the same users recur with more and more signals. Otherwise a case is in one point only.
        counts = own["n"].to_list()
        label = f"{name} (n = {max(counts) if by in ('signals', 'chunk') else sum(counts)})"
        line = LINES[index % len(LINES)]
        axes.errorbar(own["x"], own["accuracy"], yerr=_spread(own), linestyle=line, label=label, **_look(index))
    axes.axhline(CHANCE, color="0.5", linewidth=0.8)
    axes.set_xlabel(AXES[by])
    axes.set_ylabel(AXES["dimension"])
    axes.label_outer()
    if by in ("signals", "chunk"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _series(points: pl.DataFrame) -> dict[str, pl.DataFrame]:
    return {str(name): own for (name,), own in points.group_by("series", maintain_order=True)}


def _spread(points: pl.DataFrame) -> list[pl.Series]:
    return [points["accuracy"] - points["low"], points["high"] - points["accuracy"]]


def _look(index: int) -> dict[str, Any]:
    look = {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)]}
    return {**look, "markersize": 4, "elinewidth": 0.8, "capsize": 1.5}


def save(figure: Figure, svg: str | Path, png: str | Path | None = None) -> None:
    """Write a figure as SVG and, if `png` is given, as PNG; equal figures give equal bytes."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(svg, metadata={"Date": None})
        if png is not None:
            figure.savefig(png, dpi=160, metadata={"Software": None})
    pyplot.close(figure)
