"""Figures: their points against pandas, and what they draw."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from alignxplore import records
from alignxplore.results import figures, queries
from alignxplore.training.metrics import GRPO_METRICS
from matplotlib.collections import PathCollection
from PIL import Image
from report_samples import metrics
from result_samples import METHODS, SQL


@pytest.mark.parametrize("kind", ["training", "words"])
def test_figures_are_drawn_and_equal_input_gives_equal_bytes(tmp_path, kind):
    for name in ("one", "two"):
        if kind == "training":
            curves = {"alignxplore": metrics(GRPO_METRICS, 0.2), "r_gen": metrics(GRPO_METRICS, 0.1)}
            figure = figures.training_curves(curves, "loss")
        else:
            figure = figures.word_clouds({"Backbone": ["This person: humorous, tidy."] * 3, "Empty": [""]}, seed=1)
        figures.save(figure, tmp_path / f"{name}.svg", tmp_path / f"{name}.png")
    for suffix in ("svg", "png"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert len(image.convert("L").getcolors(1000)) > 10


def test_an_evaluation_of_the_start_leaves_the_curves_of_training_alone():
    """Its row, step 0, has no metric of training; the running mean must not take it in."""
    table = metrics(GRPO_METRICS, 0.2)
    nothing = {name: None if name.startswith("held_out") else float("nan") for name in GRPO_METRICS}
    first = pl.DataFrame([{**nothing, "step": 0, "held_out_reward": 0.4}], schema=GRPO_METRICS)

    def lines(table, metric, **more):
        (axes,) = figures.training_curves({"a": table}, metric, **more).axes
        return [line.get_xydata().tolist() for line in axes.lines]

    evaluated = pl.concat([first, table])
    assert lines(evaluated, "reward") == lines(table, "reward")
    *curves, points = lines(evaluated, "reward", held_out="held_out_reward")
    assert curves == lines(table, "reward")
    assert points == lines(evaluated, "held_out_reward")[0]
    assert np.allclose(points, [[0, 0.4], [10, 0.3], [20, 0.4], [30, 0.5]])


def test_word_counts_leave_stop_words_out():
    assert figures.word_counts(["The humorous and the tidy", "humorous"]) == {"humorous": 2, "tidy": 1}


def points(by, judgements, judge="jud", benchmarks=("b1", "b2"), **relations):
    parquet = {"judgements": judgements, **{k: [str(v)] for k, v in relations.items() if k != "names"}}
    given = {
        "methods": queries.methods_relation(METHODS),
        "columns": queries.columns_relation([{"name": judge, "judge": judge, "benchmarks": list(benchmarks)}]),
        **{k: v for k, v in relations.items() if k == "names"},
    }
    return figures.accuracy_points(queries.query(f"{SQL}/accuracy_by_{by}.sql", parquet, given))


def compared(found, expected):
    """Points against a pandas table of means and counts by (series, x)."""
    labels = {m["label"]: m["name"] for m in METHODS}
    mine = {(labels[row["series"]], round(row["x"], 4)): (row["n"], row["accuracy"]) for row in found.to_dicts()}
    theirs = {(method, round(x, 4)): (n, accuracy) for method, x, n, accuracy in expected}
    assert mine.keys() == theirs.keys()
    for key, (n, accuracy) in theirs.items():
        assert mine[key] == (n, pytest.approx(100 * accuracy, abs=1e-3))


@pytest.fixture
def scored(judgements, tmp_path):
    """The judgements with probabilities; returns their path, and a pandas frame of the judge `jud`."""
    rng = np.random.default_rng(4)
    table = pl.concat([records.read(path, records.JUDGEMENT) for path in judgements])
    table = table.with_columns(p_chosen_ab=pl.Series(rng.random(table.height)), p_chosen_ba=rng.random(table.height))
    path = tmp_path / "scored.parquet"
    records.write(table, path, records.JUDGEMENT)
    frame = table.to_pandas()
    return str(path), frame[(frame.judge == "jud") & frame.benchmark.isin(["b1", "b2"])].copy()


def test_accuracy_by_confidence_equals_pandas(scored):
    path, frame = scored
    p = (frame.p_chosen_ab + frame.p_chosen_ba) / 2
    frame["confidence"] = np.maximum(p, 1 - p)
    frame["bin"] = np.minimum(((frame.confidence - 0.5) / 0.05).astype(int), 9)
    groups = frame.groupby(["method", "bin"])
    expected = [(key[0], g.confidence.mean(), len(g), g.correct.mean()) for key, g in groups]
    compared(points("confidence", [path]), expected)


def test_accuracy_by_signals_and_dimension_equal_pandas(scored, tmp_path):
    path, frame = scored
    rng = np.random.default_rng(6)
    pair = {"prompt": "p", "chosen": "c", "rejected": "r", "direction": [1]}
    comment = {"prompt": "p", "comment": "c", "direction": [1]}
    rows = []
    for benchmark in ("b1", "b2", "unused"):
        for index in range(80):
            named = benchmark == "b2"
            direction = [1 if rng.random() < 0.5 else -1] if named else rng.integers(-1, 2, 90).tolist()
            rows.append(
                {
                    "case_id": f"{index:03}",
                    "benchmark": benchmark,
                    "dimension": "style" if named else "",
                    "direction": direction,
                    "pairs": [pair] * int(rng.integers(0, 4)),
                    "ugc": [comment] * int(rng.integers(0, 3)),
                    "prompt": "p",
                    "chosen": "c",
                    "rejected": "r",
                    "golden_preference": "g",
                    "rendered": "",
                    **records.NO_STREAM,
                    "profile": "",
                }
            )
    cases = tmp_path / "cases.parquet"
    records.write(pl.DataFrame(rows, schema=records.CASE), cases, records.CASE)
    by_case = {(row["benchmark"], row["case_id"]): row for row in rows}
    own = [by_case[key] for key in zip(frame.benchmark, frame.case_id, strict=True)]
    frame["signals"] = [len(case["pairs"]) + len(case["ugc"]) for case in own]
    groups = frame.groupby(["method", "signals"])
    compared(points("signals", [path], cases=cases), [(k[0], k[1], len(g), g.correct.mean()) for k, g in groups])

    names = pl.read_csv("resources/dimensions.csv")
    found = points("dimension", [path], cases=cases, names=names)
    label = dict(names.iter_rows())
    frame["dimensions"] = [
        [case["dimension"]] if case["dimension"] else [label[i] for i, sign in enumerate(case["direction"]) if sign]
        for case in own
    ]
    groups = frame.explode("dimensions").groupby(["method", "dimensions"])
    labels = {m["name"]: m["label"] for m in METHODS}
    expected = {(labels[k[0]], k[1]): (len(g), round(100 * g.correct.mean(), 4)) for k, g in groups}
    mine = {(row["series"], row["label"]): (row["n"], row["accuracy"]) for row in found.to_dicts()}
    assert mine == {key: (n, pytest.approx(accuracy, abs=1e-3)) for key, (n, accuracy) in expected.items()}
    order = found.unique("x").sort("x")["label"].to_list()
    assert order == [*label.values(), "style"]


def test_accuracy_by_length_equals_pandas(scored, tmp_path):
    path, frame = scored
    rng = np.random.default_rng(9)
    rows = [
        {
            "case_id": case_id,
            "benchmark": benchmark,
            "method": method,
            "reasoning": "",
            "preference": "d",
            "format_ok": True,
            "finish_reason": "stop",
            "prompt_tokens": 1,
            "completion_tokens": int(rng.integers(10, 60)),
        }
        for method, benchmark, case_id in frame[["method", "benchmark", "case_id"]].itertuples(index=False)
    ]
    preferences = tmp_path / "preferences.parquet"
    records.write(pl.DataFrame(rows, schema=records.PREFERENCE), preferences, records.PREFERENCE)
    written = frame.drop(columns=["format_ok", "completion_tokens"])
    joined = written.merge(pd.DataFrame(rows), on=["method", "benchmark", "case_id"])
    expected = []
    for method, own in joined.groupby("method"):
        ordered = own.sort_values(["completion_tokens", "benchmark", "case_id"])
        for fifth in np.array_split(np.arange(len(ordered)), 5):
            part = ordered.iloc[fifth]
            expected.append((method, part.completion_tokens.mean(), len(part), part.correct.mean()))
    compared(points("length", [path], preferences=preferences), expected)


def test_a_legend_stays_inside_its_figure():
    methods = [
        "AlignXplore",
        "Null (no description)",
        "Teacher",
        "A model with a name of many words",
        "Raw signals",
        "B",
    ]
    rows = [("judge", name, x, "", 200, 60.0, 50.0, 70.0) for name in methods for x in (1.0, 2.0)]
    figure = figures.accuracy_panels(pl.DataFrame(rows, schema=figures.POINTS, orient="row"), "length")
    figure.draw_without_rendering()
    extent = figure.legends[0].get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= figure.bbox.width and extent.y0 >= 0
    assert len(figure.legends) == 1 and len(figure.legends[0].get_texts()) == len(methods)
    assert figure.axes[0].get_window_extent().height > 0.5 * figure.bbox.height


@pytest.mark.parametrize("by", sorted(figures.AXES))
def test_figures_name_judges_methods_and_counts(by, tmp_path):
    rows = [
        {
            "panel": panel,
            "series": series,
            "x": x,
            "label": f"dimension {x}",
            "n": 40,
            "accuracy": 60.0 + x,
            "low": 50.0,
        }
        | {"high": 80.0}
        for panel in ("j1", "j2")
        for series in ("Ours & <co>", "Plain")
        for x in (1.0, 2.0, 3.0)
    ]
    figure = figures.accuracy_panels(pl.DataFrame(rows, schema=figures.POINTS), by)
    places = figure.axes
    titles = [place.get_title() for place in places]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    if by == "confidence":
        assert [title.partition(", ECE")[0] for title in titles] == [
            f"{series}\njudge: {panel}, n = 120" for panel in ("j1", "j2") for series in ("Ours & <co>", "Plain")
        ]
        assert figure.get_supxlabel() == figures.AXES[by]
    else:
        assert titles == ["judge: j1", "judge: j2"]
        assert places[0].get_xlabel() == figures.AXES[by]
        ticks = [text.get_text() for text in places[0].get_yticklabels()]
        assert [name.partition(" (n")[0] for name in names] == ["Ours & <co>", "Plain"]
        counted = {"dimension": ticks[0], "signals": names[0], "chunk": names[0]}.get(by)
        assert "(n = 40)" in counted if counted else "(n = 120)" in names[0]
    for name in ("one", "two"):
        figures.save(
            figures.accuracy_panels(pl.DataFrame(rows), by), tmp_path / f"{name}.svg", tmp_path / f"{name}.png"
        )
    for kind in ("svg", "png"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


def test_no_series_covers_another_in_a_calibration_figure():
    rows = [
        (panel, series, 0.525 + step / 20, "", 5 + 30 * step, 60.0, 30.0, 80.0)
        for panel in ("judge", "judge2")
        for series in ("Golden Preference", "A", "B")
        for step in range(10)
    ]
    figure = figures.accuracy_panels(pl.DataFrame(rows, schema=figures.POINTS, orient="row"), "confidence")
    figure.draw_without_rendering()
    assert len(figure.axes) == 6
    for place in figure.axes:
        (dots,) = (one for one in place.collections if isinstance(one, PathCollection))
        assert len(dots.get_offsets()) == 10 and np.all(np.diff(dots.get_sizes()) > 0)
        low, high = place.get_xlim()
        assert low < 50 < 100 < high and high - low < 60, "confidence in percent, from 50 to 100"
    (legend,) = figure.legends
    assert not any(legend.get_window_extent().overlaps(place.get_tightbbox()) for place in figure.axes)
