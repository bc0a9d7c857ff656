"""The table and figure of streams against pandas on the same Parquet files."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import stream_samples
from alignxplore.errors import UserError
from alignxplore.results import figures, queries
from alignxplore.results.tables import RECOVERED, STREAMING_CELLS, STREAMING_NOTE, streaming_cells, write_cells

SQL = "scripts/sql"
COLUMNS = [{"name": name, "judge": "jud", "benchmarks": [name]} for name in ("drifting", "steady")]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return stream_samples.write(tmp_path_factory.mktemp("streams"))


def found_in(paths):
    relations = {
        "methods": queries.methods_relation(stream_samples.METHODS),
        "columns": queries.columns_relation(COLUMNS),
        "updating": queries.updating_relation(["updated"]),
        "drifts": queries.drifts_relation({"drifting": stream_samples.DRIFT + 1}),
    }
    return queries.query(f"{SQL}/streaming.sql", paths, relations)


@pytest.fixture(scope="module")
def cells(paths):
    return streaming_cells(found_in(paths), 500, 1)


@pytest.fixture(scope="module")
def verdicts(paths) -> pd.DataFrame:
    judged = pd.concat(map(pd.read_parquet, paths["judgements"]))
    cases = pd.concat(map(pd.read_parquet, paths["cases"]))
    frame = judged.merge(cases[["case_id", "benchmark", "stream", "chunks"]], on=["case_id", "benchmark"])
    labels = {method["name"]: method["label"] for method in stream_samples.METHODS}
    return frame[frame.stream != ""].assign(chunk=frame.chunks.str.len(), label=frame.method.map(labels))


def test_accuracy_after_each_chunk_equals_pandas(cells, verdicts):
    expected = verdicts.groupby(["label", "benchmark", "chunk"])
    assert cells.schema == STREAMING_CELLS
    assert cells.height == len(expected) == 3 * 2 * stream_samples.CHUNKS
    for row in cells.to_dicts():
        own = expected.get_group((row["method"], row["benchmark"], row["chunk"]))
        assert row["n"] == len(own) == stream_samples.USERS
        assert row["column"] == f"{row['benchmark']}, chunk {row['chunk']}"
        assert row["percent"] == pytest.approx(100 * own.correct.mean(), abs=0.01)
        # Every two users share a target, so their streams are drawn together.
        by_target = own.groupby("target").correct.mean()
        half = 196 * by_target.std() / np.sqrt(len(by_target))
        assert row["high"] - row["low"] == pytest.approx(2 * half, abs=6)


def test_an_update_has_the_tokens_of_its_own_step(cells):
    tokens = {
        method: own.filter(benchmark="steady").select("tokens_read", "tokens_written").rows()
        for (method,), own in cells.group_by("method", maintain_order=True)
    }
    assert tokens == {
        "Updated": [(100, 7), (101, 7), (102, 7), (103, 7)],
        "Whole history": [(40, 7), (80, 14), (120, 21), (160, 28)],
        "Liked": [(None, None)] * 4,
    }


def test_recovery_is_counted_from_the_drift(cells):
    assert set(cells.filter(benchmark="steady")["since_drift"]) == {None}
    for (method,), own in cells.filter(benchmark="drifting").group_by("method"):
        assert own["since_drift"].to_list() == [-1, 0, 1, 2]
        before, *after = own["percent"].to_list()[1:]
        back = [since for since, now in enumerate(after, 1) if now >= before - RECOVERED]
        assert own["recovery"].to_list() == [None, back[0] if back else None, None, None], method


@pytest.mark.parametrize(
    ("percents", "recovery"), [([80, 80, 30, 75, 80], 2), ([80, 80, 30, 74.9, 74], None), ([50, 60, 55, 0, 0], 1)]
)
def test_recovery_is_the_first_chunk_within_five_points(percents, recovery):
    rows = [
        {"method": "m", "column": "c", "judge": "j", "benchmark": "b", "chunk": chunk, "n": 2, "percent": percent,
         "outcomes": [1.0, 0.0], "targets": ["a", "b"], "tokens_read": None, "tokens_written": None,
         "since_drift": chunk - 2}
        for chunk, percent in enumerate(map(float, percents), 1)
    ]  # fmt: skip
    assert streaming_cells(pl.DataFrame(rows), 50, 1)["recovery"].to_list()[1] == recovery


def test_the_page_shows_accuracy_and_tokens(paths, cells, tmp_path):
    write_cells(found_in(paths), cells, "Streams", STREAMING_NOTE, tmp_path / "a.csv", tmp_path / "a.md")
    page = (tmp_path / "a.md").read_text()
    head = next(line for line in page.splitlines() if line.startswith("| method"))
    assert head.startswith("| method | drifting, chunk 1 | drifting, chunk 2") and head.count("|") == 10
    row = next(line for line in page.splitlines() if line.startswith("| Updated"))
    assert row.count("<br>(100 + 7 tokens)") == 2
    assert pl.read_csv(tmp_path / "a.csv").columns == list(STREAMING_CELLS)


def test_benchmarks_without_streams_are_refused(paths, tmp_path):
    frame = pl.read_parquet(paths["cases"]).filter(pl.col("stream") == "")
    frame.write_parquet(tmp_path / "cases.parquet")
    with pytest.raises(UserError, match="no case of these benchmarks is a step of a stream"):
        streaming_cells(found_in({**paths, "cases": [str(tmp_path / "cases.parquet")]}), 50, 1)


def test_accuracy_by_chunk_equals_pandas(paths, verdicts):
    relations = {
        "methods": queries.methods_relation(stream_samples.METHODS),
        "columns": queries.columns_relation([{"name": "j", "judge": "jud", "benchmarks": ["steady"]}]),
    }
    files = {name: paths[name] for name in ("judgements", "cases")}
    points = figures.accuracy_points(queries.query(f"{SQL}/accuracy_by_chunk.sql", files, relations))
    own = verdicts[verdicts.benchmark == "steady"]
    expected = own.groupby(["label", "chunk"]).correct.mean()
    assert len(points) == len(expected) == 3 * stream_samples.CHUNKS
    for row in points.to_dicts():
        assert row["accuracy"] == pytest.approx(100 * expected[row["series"], row["x"]], abs=1e-3)
    figure = figures.accuracy_panels(points, "chunk")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "chunks read"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        f"{method['label']} (n = {stream_samples.USERS})" for method in stream_samples.METHODS
    ]
