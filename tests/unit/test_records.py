"""Record contracts: round trips, equal bytes, and errors that name file and field."""

import os

import polars as pl
import pytest
from alignx_samples import random_examples
from alignxplore import records
from alignxplore.errors import UserError

REJECT = pl.DataFrame([("a.jsonl", 3, "prompt", "is empty")], schema=records.REJECT, orient="row")


def test_round_trip_keeps_nested_values(tmp_path):
    examples = random_examples(50, seed=1)
    records.write(examples, tmp_path / "new folder" / "e.parquet", records.EXAMPLE)
    assert records.read(tmp_path / "new folder" / "e.parquet", records.EXAMPLE).equals(examples)
    assert os.listdir(tmp_path / "new folder") == ["e.parquet"]


def test_equal_tables_give_equal_bytes(tmp_path):
    whole = random_examples(300, seed=2)
    parts = pl.concat([whole[:100], whole[100:170], whole[170:]], rechunk=False)
    shuffled = whole.select(reversed(whole.columns))
    for name, table in {"whole": whole, "parts": parts, "shuffled": shuffled}.items():
        records.write(table, tmp_path / name, records.EXAMPLE)
    bytes_ = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(bytes_) == 1


def test_empty_and_wider_columns_are_cast(tmp_path):
    case = {
        "case_id": "c", "benchmark": "b", "dimension": "style", "direction": [1],
        "pairs": [{"prompt": "p", "chosen": "g", "rejected": "b", "direction": [-1]}], "ugc": [],
        "prompt": "p", "chosen": "g", "rejected": "b", "golden_preference": "kind", "rendered": "", "profile": "",
        **records.NO_STREAM,
    }  # fmt: skip
    records.write(pl.DataFrame([case]), tmp_path / "c.parquet", records.CASE)
    read = records.read(tmp_path / "c.parquet", records.CASE)
    assert read.schema == records.CASE
    assert read.to_dicts() == [case]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (REJECT.drop("line"), "x.parquet: field 'line' is missing"),
        (REJECT.with_columns(pl.lit(1).alias("more")), "x.parquet: unknown field 'more'"),
        (
            REJECT.with_columns(line=pl.lit("3")),
            "x.parquet: field 'line' is String, expected Int64",
        ),
        (REJECT.with_columns(line=pl.lit(3.5)), "field 'line' is Float64, expected Int64"),
        (
            REJECT.with_columns(field=pl.lit(None, pl.String)),
            "x.parquet: field 'field' is null in 1 of 1 rows",
        ),
    ],
)
def test_a_broken_contract_names_file_and_field(tmp_path, table, message):
    with pytest.raises(UserError, match="x.parquet") as error:
        records.write(table, tmp_path / "x.parquet", records.REJECT)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())
    table.write_parquet(tmp_path / "x.parquet")
    with pytest.raises(UserError) as error:
        records.read(tmp_path / "x.parquet", records.REJECT)
    assert message in str(error.value)


def test_a_value_that_does_not_fit_its_field_is_an_error(tmp_path):
    table = pl.DataFrame({"example_id": ["e"], "dimensions": [["a"]]})
    schema = pl.Schema({"example_id": pl.String(), "dimensions": records.DIRECTION})
    with pytest.raises(UserError, match="dimensions"):
        records.write(table, tmp_path / "x.parquet", schema)
    wide = pl.DataFrame({"n": [200]})
    with pytest.raises(UserError, match="does not fit"):
        records.write(wide, tmp_path / "x.parquet", pl.Schema({"n": pl.Int8()}))


def test_an_unreadable_file_is_a_user_error(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    for name in ("x.parquet", "missing.parquet"):
        with pytest.raises(UserError, match=f"{name}: cannot be read as Parquet"):
            records.read(tmp_path / name, records.REJECT)
