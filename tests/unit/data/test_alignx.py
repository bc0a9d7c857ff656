import json
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
import pytest
from alignx_samples import direction, raw_direction, raw_record
from alignxplore.data.alignx import BadRecord, parse_example, stable_hash
from alignxplore.data.api import read_alignx, scan_alignx
from alignxplore.data.reader import read_piece
from alignxplore.data.sources import plan
from alignxplore.errors import UserError
from alignxplore.records import EXAMPLE, REJECT
from hypothesis import given, settings
from hypothesis import strategies as st

PAIRS, UGC = "Pair-wise Comparative Feedback", "User-Generated Content"


def read(paths):
    return read_alignx([str(path) for path in paths], max_characters=1000)


def write_lines(path, lines):
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), "utf-8")
    return path


def test_a_record_becomes_an_example(tmp_path):
    record = raw_record("é")
    examples, rejects = read([write_lines(tmp_path / "a.jsonl", [record])])
    assert (examples.schema, rejects.schema, rejects.height) == (EXAMPLE, REJECT, 0)
    (row,) = examples.to_dicts()
    signs = direction(d0=1, d1=-1, d2=1, d3=-1, d4=1)
    assert row["direction"] == signs
    assert [row[key] for key in ("prompt", "chosen", "rejected")] == ["post é", "good é", "bad é"]
    assert row["pairs"][1] == {
        "prompt": "p1 é",
        "chosen": "g1 é",
        "rejected": "b1 é",
        "direction": signs,
    }
    assert row["ugc"][0] == {"prompt": "u0 é", "comment": "c0 é", "direction": signs}
    assert len(row["example_id"]) == 16


def test_all_formats_give_the_same_examples(tmp_path):
    raw = [raw_record(str(i)) for i in range(3)]
    lines = write_lines(tmp_path / "a.jsonl", raw)
    (tmp_path / "a.json").write_text("\ufeff \n" + json.dumps(raw, indent=1), "utf-8")
    floats = [{**r, "Preference Direction": [float(v) for v in r["Preference Direction"]]} for r in raw]
    pl.DataFrame(floats, infer_schema_length=None, strict=False).write_parquet(tmp_path / "a.parquet")
    write_lines(tmp_path / "lines.json", raw)
    expected, _ = read([lines])
    assert expected.height == 3
    for name in ("a.json", "a.parquet", "lines.json"):
        examples, rejects = read([tmp_path / name])
        assert rejects.height == 0
        assert examples.equals(expected), name


def test_optional_parts_may_be_missing_or_null(tmp_path):
    bare = {key: raw_record()[key] for key in ("prompt", "chosen", "rejected", "Preference Direction")}
    nulls = raw_record("n", **{PAIRS: None, UGC: None, "Demographic Information": None, "more": 1})
    examples, rejects = read([write_lines(tmp_path / "a.jsonl", [bare, "", nulls])])
    assert rejects.height == 0
    assert examples["pairs"].to_list() == examples["ugc"].to_list() == [[], []]
    assert examples["user_id"].n_unique() == 2


def test_ids_depend_on_content_alone(tmp_path):
    raw = [raw_record("a"), raw_record("a", prompt="another post"), raw_record("b")]
    path = write_lines(tmp_path / "a.jsonl", raw)
    keys = write_lines(tmp_path / "b.jsonl", [dict(reversed(r.items())) for r in reversed(raw)])
    first = read([path])[0]
    assert first.sort("example_id").equals(read([keys])[0].sort("example_id"))
    assert first["example_id"].n_unique() == 3
    same, other = first["user_id"].to_list()[:2], first["user_id"][2]
    assert same[0] == same[1] != other


def values_with(index, value):
    values = raw_direction(direction(d0=1))
    values[index] = value
    return values


def pairs_with(**changes):
    pairs = raw_record()[PAIRS]
    return {PAIRS: [pairs[0], {**pairs[1], **changes}]}


DIRECTION = "Preference Direction"
BAD = [
    ('{"prompt": "cut', "record", "not valid JSON: Unterminated string starting at character 12"),
    ("[" * 100_000, "record", "not valid JSON: nested too deeply"),
    ("12", "record", "is 12, expected an object"),
    ("null", "record", "is null, expected an object"),
    (raw_record(prompt=None), "prompt", "is missing"),
    (raw_record(prompt=["x"]), "prompt", "is a list, expected text"),
    (raw_record(chosen=" \n\u2003"), "chosen", "is empty"),
    (raw_record(rejected=""), "rejected", "is empty"),
    (raw_record(rejected="good a"), "rejected", "equals chosen"),
    (raw_record(chosen="\ud800"), "chosen", "holds a lone surrogate"),
    (raw_record(**{DIRECTION: None}), DIRECTION, "is missing"),
    (raw_record(**{DIRECTION: "0.5"}), DIRECTION, "is text, expected a list"),
    (raw_record(**{DIRECTION: [0.5] * 89}), DIRECTION, "has 89 values, expected 90"),
    (
        raw_record(**{DIRECTION: values_with(7, 0.7)}),
        f"{DIRECTION}[7]",
        "is 0.7, expected 0, 0.5 or 1",
    ),
    (raw_record(**{DIRECTION: values_with(3, True)}), f"{DIRECTION}[3]", "is true, expected"),
    (raw_record(**{DIRECTION: values_with(3, None)}), f"{DIRECTION}[3]", "is null, expected"),
    (raw_record(**{DIRECTION: values_with(89, float("nan"))}), f"{DIRECTION}[89]", "is nan"),
    (raw_record(**{DIRECTION: values_with(0, 10**60)}), f"{DIRECTION}[0]", "is 1000"),
    (raw_record(**{PAIRS: "x"}), PAIRS, "is text, expected a list"),
    (raw_record(**{UGC: [None]}), f"{UGC}[0]", "is null, expected an object"),
    (raw_record(**pairs_with(chosen=None)), f"{PAIRS}[1].chosen", "is missing"),
    (raw_record(**pairs_with(chosen="b1 a")), f"{PAIRS}[1].rejected", "equals chosen"),
    (raw_record(**pairs_with(**{DIRECTION: [1]})), f"{PAIRS}[1].{DIRECTION}", "has 1 values"),
    (raw_record(**{UGC: [{"prompt": "p"}]}), f"{UGC}[0].comment", "is missing"),
    (raw_record(prompt="x" * 1001), "prompt", "has 1001 characters, more than the 1000 that are allowed"),
    (raw_record(**pairs_with(chosen="x" * 1001)), f"{PAIRS}[1].chosen", "has 1001 characters"),
    (raw_record(**{DIRECTION: values_with(3, "0.7")}), f"{DIRECTION}[3]", "is text, expected 0, 0.5 or 1"),
    (raw_record(**{DIRECTION: values_with(3, 10)}), f"{DIRECTION}[3]", "is 10, expected 0, 0.5 or 1"),
    (raw_record(**{DIRECTION: values_with(3, [0.5])}), f"{DIRECTION}[3]", "is a list, expected 0, 0.5 or 1"),
]


@pytest.mark.parametrize(("bad", "field", "reason"), BAD)
def test_a_bad_line_is_a_named_reject(tmp_path, bad, field, reason):
    path = write_lines(tmp_path / "a.jsonl", [raw_record("1"), bad, raw_record("2")])
    examples, rejects = read([path])
    assert examples["prompt"].to_list() == ["post 1", "post 2"]
    ((source, line, found_field, found_reason),) = rejects.rows()
    assert (source, line, found_field) == (str(path), 2, field)
    assert found_reason.startswith(reason)


def test_invalid_utf8_rejects_only_its_line(tmp_path):
    path = tmp_path / "a.jsonl"
    good = json.dumps(raw_record()).encode()
    path.write_bytes(b"\xef\xbb\xbf" + good + b'\n{"prompt": "\xff"}\n\n')
    examples, rejects = read([path])
    assert examples.height == 1
    assert rejects.rows() == [(str(path), 2, "record", "not valid UTF-8 at byte 13")]


def test_duplicates_name_the_first_occurrence(tmp_path):
    first = write_lines(tmp_path / "a.jsonl", [raw_record("x"), raw_record("y")])
    second = tmp_path / "b.json"
    second.write_text(json.dumps([raw_record("z"), raw_record("y")]))
    examples, rejects = read([first, second])
    assert examples["prompt"].to_list() == ["post x", "post y", "post z"]
    assert rejects.rows() == [(str(second), 2, "record", f"duplicate of {first}:2")]


def test_bad_parquet_rows_are_numbered_rejects(tmp_path):
    rows = [raw_record("1"), raw_record("2", chosen=None), raw_record("3")]
    path = tmp_path / "a.parquet"
    pl.DataFrame(rows, strict=False).write_parquet(path)
    examples, rejects = read([path])
    assert examples.height == 2
    assert rejects.rows() == [(str(path), 2, "chosen", "is missing")]


def test_unreadable_files_are_user_errors(tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 cut short")
    (tmp_path / "cut.json").write_text('[{"prompt": "a"')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name, message in {
        "cut.parquet": "cannot be read as Parquet",
        "cut.json": "not valid JSON",
        "deep.json": "nested too deeply",
        "none.jsonl": "No such file",
        "none.parquet": "No such file",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            read([tmp_path / name])
        assert name in str(error.value)


def test_directions_may_be_integers_floats_or_text(tmp_path):
    written = raw_record()[DIRECTION]
    forms = [
        written,
        [float(value) for value in written],
        [f"{value:g}" for value in written],
        [str(float(value)) for value in written],
        [int(value) if value in (0, 1) else value for value in written],
    ]
    raw = [raw_record(str(i), **{DIRECTION: values}) for i, values in enumerate(forms)]
    examples, rejects = read([write_lines(tmp_path / "a.jsonl", raw)])
    assert rejects.height == 0
    assert examples["direction"].to_list() == [direction(d0=1, d1=-1, d2=1, d3=-1, d4=1)] * 5


def test_ten_is_never_read_as_1_0(tmp_path):
    """A parser that drops the points would read `10` as `1.0`, and a neighbour `..` would hide the missing point."""
    ten = raw_record("ten", **{DIRECTION: [*map(float, raw_record()[DIRECTION][:89]), 10]})
    points = raw_record("points", **{DIRECTION: [*map(float, raw_record()[DIRECTION][:89]), ".."]})
    good = raw_record("good", **{DIRECTION: [*map(float, raw_record()[DIRECTION])]})
    examples, rejects = read([write_lines(tmp_path / "a.jsonl", [ten, points, good])])
    assert examples["prompt"].to_list() == ["post good"]
    assert rejects.select("line", "field").rows() == [(1, f"{DIRECTION}[89]"), (2, f"{DIRECTION}[89]")]


@pytest.mark.parametrize(
    "change",
    [
        lambda df: df.with_columns(pl.col("chosen").cast(pl.Categorical)),
        lambda df: df.with_columns(pl.col(DIRECTION).cast(pl.List(pl.Float32))),
        lambda df: df.with_columns(pl.col(DIRECTION).list.eval(pl.element().cast(pl.String))),
        lambda df: df.drop("Demographic Information").with_columns(more=pl.lit(1)),
    ],
)
def test_parquet_of_other_types(tmp_path, change):
    raw = pl.DataFrame([raw_record(str(i)) for i in range(3)], strict=False)
    raw.write_parquet(tmp_path / "a.parquet")
    change(raw).write_parquet(tmp_path / "b.parquet")
    examples, rejects = read([tmp_path / "b.parquet"])
    assert rejects.height == 0
    assert examples.equals(read([tmp_path / "a.parquet"])[0])


def test_parquet_with_wrong_columns_is_all_rejects(tmp_path):
    raw = pl.DataFrame([raw_record(str(i)) for i in range(3)], strict=False)
    raw.drop("chosen").write_parquet(tmp_path / "a.parquet")
    raw.with_columns(prompt=pl.lit(5)).write_parquet(tmp_path / "b.parquet")
    raw.with_columns(pl.lit("none").alias(PAIRS)).write_parquet(tmp_path / "c.parquet")
    for name, field, reason in (
        ("a", "chosen", "is missing"),
        ("b", "prompt", "is 5, expected text"),
        ("c", PAIRS, "is text, expected a list"),
    ):
        examples, rejects = read([tmp_path / f"{name}.parquet"])
        assert examples.height == 0
        assert rejects.drop("source").rows() == [(line, field, reason) for line in (1, 2, 3)]


def test_a_scan_is_lazy_and_bounded(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [raw_record(str(i)) for i in range(20)])
    scan = scan_alignx(str(tmp_path / "*.jsonl"))
    assert scan.collect_schema() == EXAMPLE
    assert scan.filter(pl.col("prompt") == "post 7").select("chosen").collect().rows() == [("good 7",)]
    assert scan.head(3).collect().height == 3
    with pytest.raises(UserError, match="no file matches"):
        scan_alignx(str(path.with_name("*.txt")))


MUTATIONS = st.sampled_from(
    [None, "", " \x1c ", "\u2003", "x", 0, 0.5, "0.5", True, [], {}, 10, -0.0, 1e300, "\ud800", [0.5] * 90]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), MUTATIONS, st.integers(0, 89)), min_size=1, max_size=12), st.booleans())
def test_reading_by_the_block_equals_reading_one_by_one(changes, floats):
    raw = []
    for number, (place, value, index) in enumerate(changes):
        record = raw_record(str(number))
        if floats:
            for item in (record, *record[PAIRS], *record[UGC]):
                item[DIRECTION] = [*map(float, item[DIRECTION])]
        item = (record, record[PAIRS][0], record[UGC][1])[place % 3]
        key = [*item][place % len(item)]
        if isinstance(item[key], list) and place > 5:
            item[key] = [*item[key]]
            item[key][index % len(item[key])] = value
        else:
            item[key] = value
        raw.append(json.dumps(record))
    expected, bad = [], []
    for number, line in enumerate(raw, 1):
        try:
            expected.append(reference_example(number, json.loads(line), 1000))
        except BadRecord as error:
            bad.append((number, error.field, error.reason))
    with tempfile.TemporaryDirectory() as directory:
        path = write_lines(Path(directory) / "a.jsonl", raw)
        (piece,) = plan([str(path)], 1)[0]
        (block,) = read_piece(piece, 1000)
    assert (block.last, block.records) == (len(raw), len(raw))
    assert block.rejects == bad
    assert block.examples.columns == ["line", *EXAMPLE]
    assert block.examples.to_dicts() == [{key: row[key] for key in ("line", *EXAMPLE)} for row in expected]


def reference_example(line, raw, max_characters):
    """The example of a record that is read alone, with ids made in plain Python."""
    row = parse_example(raw, max_characters)
    target = [row[key] for key in ("prompt", "chosen", "rejected")]
    pairs = [pair[key] for pair in row["pairs"] for key in ("prompt", "chosen", "rejected")]
    comments = [comment[key] for comment in row["ugc"] for key in ("prompt", "comment")]
    history = [*pairs, "\x01", *comments]
    ids = {"example_id": [*target, *history], "user_id": history if len(history) > 1 else [*target, *history]}
    return {"line": line, **row, **{name: stable_hash("\0".join(texts)) for name, texts in ids.items()}}


def test_the_data_stage_does_not_import_torch():
    code = (
        "import sys, alignxplore.data.benchmarks, alignxplore.data.split, alignxplore.data.refine;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
