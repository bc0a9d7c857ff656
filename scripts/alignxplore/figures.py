"""All figures, drawn alike: training curves (2, 4), word clouds (3), and accuracy against what it may depend on."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import polars as pl

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from wordcloud import STOPWORDS, WordCloud  # noqa: E402

LABELS = {
    "reward": "reward (mean of rollouts)",
    "completion_length": "completion length (tokens)",
    "format_ok": "share in the right format",
    "entropy": "entropy (nats a token)",
    "grad_norm": "gradient norm",
    "reward_std": "standard deviation of rewards",
    "clipped_ratio": "share cut off at the limit",
    "loss": "loss",
}
LINES = ("-", "--", "-.", ":")
MARKERS = "os^DvPX*"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Okabe and Ito's, told apart by colour-blind readers; line and marker tell series apart in grey."""
WINDOW = 10
CHANCE = 50
AXES = {
    "confidence": "confidence of the judge (probability of its choice)",
    "dimension": "accuracy (% of cases)",
    "signals": "signals shown (pairs and comments)",
    "length": "length of the completion (tokens, fifths of cases)",
}
STYLE: dict[Any, Any] = {
    "figure.figsize": (6.4, 3.6),
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "alignxplore",  # ids in the file would otherwise differ from run to run
}


def training_curves(metrics: Mapping[str, pl.DataFrame], metric: str) -> Figure:
    """`metric` by optimiser step, one line a variant: each step thinly, and the mean of WINDOW steps up to it."""
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(layout="constrained")
        for index, (variant, table) in enumerate(metrics.items()):
            color, line = COLORS[index % len(COLORS)], LINES[index % len(LINES)]
            smooth = table[metric].rolling_mean(WINDOW, min_samples=1)
            axes.plot(table["step"], table[metric], color=color, alpha=0.25, linewidth=0.8)
            axes.plot(table["step"], smooth, line, color=color, linewidth=1.8, label=variant)
        axes.set_xlabel(f"optimiser step (bold: mean of {WINDOW})")
        axes.set_ylabel(LABELS[metric])
        axes.legend()
    return figure


def word_counts(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, without stop words; hyphenated words count as one."""
    words = (word for text in texts for word in re.findall(r"[a-z][a-z'-]*", text.lower()))
    return Counter(word for word in words if word not in STOPWORDS)


def word_clouds(texts: Mapping[str, list[str]], seed: int) -> Figure:
    """One cloud for each method's descriptions; a word's size follows its count."""
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
                    width=720, height=400, background_color="white", colormap="viridis", random_state=seed, max_words=60
                )
                place.imshow(cloud.generate_from_frequencies(counts), interpolation="bilinear")
    return figure


def accuracy_points(points: pl.DataFrame, by: str) -> Figure:
    """POINTS of tables.py: a panel a judge, a series a method, with intervals; dimensions down, all else across."""
    panels = points["panel"].unique(maintain_order=True).to_list()
    down = by == "dimension"
    rows = points["x"].n_unique() if down else 0
    size = (4.6 * len(panels) + 2.4 * down, 3.8 if not down else 1.6 + 0.26 * rows)
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(
            1, len(panels), figsize=size, layout="constrained", squeeze=False, sharey=True, sharex=down
        )
        for place, panel in zip(axes.flat, panels, strict=True):
            own = points.filter(pl.col("panel") == panel)
            series = own["series"].unique(maintain_order=True).to_list()
            for index, name in enumerate(series):
                table = own.filter(pl.col("series") == name)
                _draw(place, table, by, index, len(series))
            _finish(place, own, by, panel)
        if by == "confidence":
            for place in axes.flat:
                place.legend(fontsize=8, loc="lower right")
        else:
            handles, names = axes[0, 0].get_legend_handles_labels()
            figure.legend(handles, names, fontsize=8, loc="outside lower center", ncols=min(3, len(names)))
    return figure


def _draw(axes: Any, table: pl.DataFrame, by: str, index: int, series: int) -> None:
    spread = [(table["accuracy"] - table["low"]).to_list(), (table["high"] - table["accuracy"]).to_list()]
    look = {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)], "markersize": 4}
    look |= {"elinewidth": 0.8, "capsize": 1.5}
    label = table["series"][0]
    if by == "dimension":
        # Series stand a little below each other, so that their intervals can be told apart.
        places = table["x"] + 0.5 * (index - (series - 1) / 2) / series
        axes.errorbar(table["accuracy"], places, xerr=spread, linestyle="", label=label, **look)
        return
    if by == "confidence":
        gap = ((table["accuracy"] / 100 - table["x"]).abs() * table["n"]).sum() / table["n"].sum()
        label = f"{label} (ECE {gap:.2f})"
    axes.errorbar(
        table["x"], table["accuracy"], yerr=spread, linestyle=LINES[index % len(LINES)], label=label, **look
    )


def _finish(axes: Any, own: pl.DataFrame, by: str, panel: str) -> None:
    cases = own.group_by("series").agg(pl.col("n").sum())["n"].max()
    if by == "dimension":
        counts = own.group_by("x", "label").agg(pl.col("n").max()).sort("x")
        # AlignX explains some names in parentheses, which would leave no room for the points.
        names = [f"{name.partition(' (')[0]} (n = {n})" for name, n in counts.select("label", "n").rows()]
        axes.set_yticks(counts["x"].to_list(), names, fontsize=7)
        axes.set_ylim(counts["x"].max() + 0.7, counts["x"].min() - 0.7)
        axes.axvline(CHANCE, color="0.5", linewidth=0.8)
        axes.set_xlabel(AXES[by])
        axes.set_title(f"judge: {panel}", fontsize=10)
        return
    title = f"judge: {panel}" if by == "signals" else f"judge: {panel} (n = {cases} cases a method)"
    axes.set_title(title, fontsize=10)
    if by == "signals":
        counts = own.group_by("x").agg(pl.col("n").max()).sort("x")
        axes.set_xticks(counts["x"].to_list(), [f"{x:.0f}\nn = {n}" for x, n in counts.rows()])
    if by == "confidence":
        axes.plot([0.5, 1], [50, 100], color="0.5", linewidth=0.8)
    axes.axhline(CHANCE, color="0.5", linewidth=0.8)
    axes.set_xlabel(AXES[by])
    axes.set_ylabel("accuracy (% of cases)")
    axes.label_outer()


def save(figure: Figure, svg: str | Path, png: str | Path) -> None:
    """Write a figure twice; equal figures give equal bytes."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(svg, metadata={"Date": None})
        figure.savefig(png, dpi=160, metadata={"Software": None})
    pyplot.close(figure)
