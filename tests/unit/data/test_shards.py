"""Gathered shards give the same result, however many there are."""

import json
from pathlib import Path

import polars as pl
import pytest
from alignx_samples import clear_record, random_examples, raw_direction
from alignxplore import records
from alignxplore.data.refine import Rules
from alignxplore.data.shards import FILES, gather, refine_shard
from alignxplore.data.sources import plan
from alignxplore.errors import UserError
from test_refine import reference

RULES = Rules(min_dimensions=5, history=4)


def raw_of(example):
    """An EXAMPLE row as a raw record."""

    def item(row):
        return {
            **{k: v for k, v in row.items() if k != "direction"},
            "Preference Direction": raw_direction(row["direction"]),
        }

    target = item({key: example[key] for key in ("prompt", "chosen", "rejected", "direction")})
    return {
        **target,
        "User-Generated Content": [item(row) for row in example["ugc"]],
        "Pair-wise Comparative Feedback": [item(row) for row in example["pairs"]],
    }


def good(example):
    texts = [example["chosen"], example["rejected"], *(p[k] for p in example["pairs"] for k in ("chosen", "rejected"))]
    return all(text.strip() for text in [*texts, *(c["comment"] for c in example["ugc"])])


def run(paths, shards, directory, max_reject_share=1.0):
    outputs = []
    for index, pieces in enumerate(plan([str(path) for path in paths], shards)):
        outputs.append({name: str(directory / f"{index}/{name}.parquet") for name in FILES})
        refine_shard(pieces, RULES, 1000, outputs[-1])
    names = {name: str(directory / name) for name in ("refined.parquet", "rejects.parquet", "funnel.csv")}
    gather(outputs, max_reject_share, *names.values(), str(directory / "kept.parquet"))
    return names


@pytest.fixture
def raw_files(tmp_path):
    examples = random_examples(400, seed=3)
    raw = [raw_of(row) for row in examples.to_dicts()]
    half = len(raw) // 2
    lines = [json.dumps(record) for record in raw[:half]]
    lines.insert(50, "{")
    lines.insert(120, "")
    lines.append(json.dumps(raw[7]))
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    floats = json.loads(json.dumps([*raw[half:], raw[5]]), parse_int=float)
    pl.DataFrame(floats, infer_schema_length=None, strict=False).write_parquet(
        tmp_path / "b.parquet", row_group_size=40
    )
    return [tmp_path / "a.jsonl", tmp_path / "b.parquet"], examples.to_dicts()


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_the_refined_set_equals_the_slow_reference(raw_files, tmp_path, shards):
    paths, examples = raw_files
    out = run(paths, shards, tmp_path / "out")
    usable = [row for row in examples if good(row)]
    expected, _ = reference(usable, RULES.min_dimensions, RULES.history)
    found = records.read(out["refined.parquet"], records.REFINED).to_dicts()
    names = [name for name in records.REFINED if name not in ("example_id", "user_id")]
    assert [[row[name] for name in names] for row in found] == [[row[name] for name in names] for row in expected]
    assert len({row["example_id"] for row in found}) == len({row["prompt"] for row in found})

    rejects = records.read(out["rejects.parquet"], records.REJECT)
    assert rejects.height == len(examples) - len(usable) + 3
    first, second = map(str, paths)
    assert (
        first,
        51,
        "record",
        "not valid JSON: Expecting property name enclosed in double quotes at character 2",
    ) in rejects.rows()
    copies = {(first, 203, f"duplicate of {first}:8"), (second, 201, f"duplicate of {first}:6")}
    assert copies <= set(rejects.select("source", "line", "reason").rows())
    assert rejects.equals(rejects.with_row_index("i").sort(pl.col("source") == second, "line").drop("i"))

    table = pl.read_csv(out["funnel.csv"])
    losses = {step: lost for step, _, lost in table.rows()}
    assert losses["raw records"] == 0 and min(losses.values()) == 0
    for form in ("pairs", "ugc"):
        assert (
            table["rows"][1] - sum(lost for step, lost in losses.items() if step.startswith(form))
            == table.filter(pl.col("step").str.starts_with(form))["rows"].last()
        )
    funnel = dict(table.select("step", "rows").rows())
    assert funnel["raw records"] == len(examples) + 3
    kept = [sum(row["form"] == form for row in expected) for form in ("pairs", "ugc")]
    assert [funnel[f"{form}: no earlier example has the same target"] for form in ("pairs", "ugc")] == kept


def test_the_number_of_shards_does_not_matter(raw_files, tmp_path):
    contents = set()
    for shards in (1, 3, 4):
        out = run(raw_files[0], shards, tmp_path / f"out-{shards}")
        tables = [pl.read_parquet(out[name]) for name in ("refined.parquet", "rejects.parquet")]
        contents.add((*(table.write_json() for table in tables), Path(out["funnel.csv"]).read_text()))
    assert len(contents) == 1


def test_near_identical_targets_are_kept_once(tmp_path):
    other_history = clear_record("b")
    same = {key: clear_record("a")[key].upper() + " !!" for key in ("prompt", "chosen", "rejected")}
    raw = [clear_record("a"), {**other_history, **same}, clear_record("c")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in raw))
    out = run([tmp_path / "a.jsonl"], 2, tmp_path / "out")
    assert pl.read_parquet(out["refined.parquet"])["prompt"].to_list() == ["post a", "post c"]
    funnel = dict(pl.read_csv(out["funnel.csv"]).select("step", "rows").rows())
    assert funnel["pairs: at least 5 shared dimensions"] == 3
    assert funnel["pairs: no earlier example has the same target"] == 2


def test_too_many_rejects_stop_the_run_and_stay_readable(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "".join([json.dumps(clear_record("a")) + "\n", "{\n", json.dumps(clear_record("b")) + "\n"])
    )
    run([tmp_path / "a.jsonl"], 1, tmp_path / "fine", max_reject_share=0.34)
    with pytest.raises(UserError) as error:
        run([tmp_path / "a.jsonl"], 1, tmp_path / "out", max_reject_share=0.33)
    message = str(error.value)
    assert "1 of 3 raw records were rejected" in message and "a.jsonl:2: record: not valid JSON" in message
    assert not (tmp_path / "out/refined.parquet").exists()
    assert pl.read_parquet(tmp_path / "out/kept.parquet").height == 1


def test_files_without_records_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match="data.alignx.sources: the files hold no records"):
        run([tmp_path / "a.jsonl"], 2, tmp_path / "out")
