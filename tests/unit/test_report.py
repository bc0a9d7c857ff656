"""Figures and the report page."""

import polars as pl
import pytest
from alignxplore import figures
from alignxplore.report import render
from alignxplore.training.metrics import GRPO_METRICS
from PIL import Image


def metrics(level):
    row = {name: level for name in GRPO_METRICS} | {"step": 0}
    return pl.DataFrame(
        [{**row, "step": step, "reward": level + step / 100} for step in range(30)], schema=GRPO_METRICS
    )


@pytest.mark.parametrize("kind", ["training", "words"])
def test_figures_are_drawn_and_equal_input_gives_equal_bytes(tmp_path, kind):
    for name in ("one", "two"):
        if kind == "training":
            figure = figures.training_curves({"alignxplore": metrics(0.2), "r_gen": metrics(0.1)}, "reward")
        else:
            figure = figures.word_clouds({"Backbone": ["This person: humorous, tidy."] * 3, "Empty": [""]}, seed=1)
        figures.save(figure, tmp_path / f"{name}.svg", tmp_path / f"{name}.png")
    for suffix in ("svg", "png"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert len(image.convert("L").getcolors(1000)) > 10


def test_word_counts_leave_stop_words_out():
    assert figures.word_counts(["The humorous and the tidy", "humorous"]) == {"humorous": 2, "tidy": 1}


def test_page_shows_tables_figures_and_rejects_and_runs_no_user_text(tmp_path):
    (tmp_path / "t.csv").write_text('method,percent\n"<script>alert(1)</script>",71.23456\n')
    (tmp_path / "f.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "funnel.csv").write_text("step,rows,lost\nraw records,12,0\npairs: clear,9,3\n")
    rejects = pl.DataFrame({"source": ["a"] * 2, "line": [1, 2], "field": ["prompt"] * 2, "reason": ["empty"] * 2})
    page = render(
        "resources/report/index.html.jinja",
        {"Table 1: x": tmp_path / "t.csv"},
        {"Figure 2: y": tmp_path / "f.svg"},
        tmp_path / "funnel.csv",
        rejects,
    )
    assert "&lt;script&gt;alert(1)" in page and "<script" not in page
    assert "71.23" in page and "<td>12</td>" in page
    assert "data:image/svg+xml;base64," in page
    assert "<td>prompt</td><td>empty</td><td>2</td>" in page.replace("\n", "")
