"""The paper's figures, drawn alike: training curves (2, 4) and word clouds (3)."""

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
WINDOW = 10
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
            color = f"C{index}"
            smooth = table[metric].rolling_mean(WINDOW, min_samples=1)
            axes.plot(table["step"], table[metric], color=color, alpha=0.25, linewidth=0.8)
            axes.plot(table["step"], smooth, LINES[index % len(LINES)], color=color, linewidth=1.8, label=variant)
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


def save(figure: Figure, svg: str | Path, png: str | Path) -> None:
    """Write a figure twice; equal figures give equal bytes."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(svg, metadata={"Date": None})
        figure.savefig(png, dpi=160, metadata={"Software": None})
    pyplot.close(figure)
