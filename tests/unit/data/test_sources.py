"""Raw files of every format, whole and in shards."""

import gzip
import json
import random
import sys

import polars as pl
import pyarrow as pa
import pytest
from alignxplore.data import sources
from alignxplore.data.locations import HubFile, local_files
from alignxplore.data.sources import plan, read_json, read_parquet
from alignxplore.errors import UserError


def lines_of(pieces):
    """(number in the piece, record) of every line."""
    return [
        [(first + i, line) for first, block in read_json(piece) for i, line in enumerate(block)] for piece in pieces
    ]


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("ending", ["\n", ""])
def test_every_line_is_read_by_one_shard(tmp_path, shards, ending):
    rng = random.Random(shards)
    texts = {}
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        lines = [f'{{"{name}": {i}, "x": "{"y" * rng.randrange(60)}"}}' for i in range(30)] + ["", "{}"]
        (tmp_path / name).write_text("\n".join(lines) + ending)
        texts[str(tmp_path / name)] = [line.encode() for line in lines]
    pieces = plan(list(texts), shards)
    assert len(pieces) == shards
    found: dict[str, list[bytes]] = {path: [] for path in texts}
    for shard in pieces:
        for piece, lines in zip(shard, lines_of(shard), strict=True):
            assert [number for number, _ in lines] == list(range(1, len(lines) + 1))
            found[piece.path] += [line.rstrip(b"\n") for _, line in lines]
    assert found == texts
    if shards == 2:
        sizes = [sum(piece.stop - piece.start for piece in shard) for shard in pieces]
        assert abs(sizes[0] - sizes[1]) <= 1


def test_compressed_files_and_arrays_read_alike(tmp_path):
    records = [{"a": i, "b": 'é \\ " ] ,'} for i in range(20)]
    plain = "".join(json.dumps(r) + "\n" for r in records).encode()
    files = {
        "a.jsonl": plain,
        "a.jsonl.gz": gzip.compress(plain),
        "a.json": json.dumps(records, ensure_ascii=False, indent=2).encode(),
        "b.json": b"\xef\xbb\xbf \n" + json.dumps(records).encode() + b"\n ",
        "a.json.gz": gzip.compress(json.dumps(records).encode()),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pa.output_stream(str(tmp_path / "a.jsonl.zst"), compression="zstd") as file:
        file.write(plain)
    for name in (*files, "a.jsonl.zst"):
        pieces = [piece for shard in plan([str(tmp_path / name)], 3) for piece in shard]
        found = [json.loads(line) for lines in lines_of(pieces) for _, line in lines]
        assert found == records, name


def test_an_array_is_read_a_little_at_a_time(tmp_path):
    records = [{"number": i, "text": "x" * 700_000} for i in range(8)] + [1, 23, "a", None]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (piece,) = plan([str(tmp_path / "a.json")], 1)[0]
    assert [json.loads(line) for _, block in read_json(piece) for line in block] == records


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a"', "not valid JSON after record 1"),
        ('[{"a": 1}', "not valid JSON after record 1: the array is cut short"),
        ('[{"a": 1} {"a": 2}]', "after record 1: a comma is missing"),
        ('[{"a": 1}] x', "after record 1: there is more after the array"),
        ("[" * 1_000_000, "nested too deeply"),
        ("[tru]", "not valid JSON: Expecting value"),
    ],
)
def test_a_broken_array_is_one_clear_error(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    (piece,) = plan([str(tmp_path / "a.json")], 1)[0]
    with pytest.raises(UserError, match=f"a.json: .*{message}"):
        list(read_json(piece))


@pytest.mark.skipif(sys.platform != "linux", reason="measures Linux's resident memory")
def test_a_file_of_brackets_is_refused_without_reading_it_whole(tmp_path):
    path = tmp_path / "deep.json"
    with path.open("wb") as file:
        file.truncate(0)
        for _ in range(200):
            file.write(b"[" * (1 << 20))
    (piece,) = plan([str(path)], 1)[0]
    with pytest.raises(UserError, match="nested too deeply"):
        list(read_json(piece))


def test_a_line_without_end_is_skipped_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LONGEST_RECORD", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x" * 1000 + b'\n{"a": 2}\n' + b"y" * 250)
    (piece,) = plan([str(path)], 1)[0]
    assert lines_of([piece]) == [[(1, b'{"a": 1}\n'), (2, None), (3, b'{"a": 2}\n'), (4, None)]]


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_parquet_is_cut_between_row_groups(tmp_path, shards):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"a": range(1000)}).write_parquet(path, row_group_size=100)
    pieces = [piece for shard in plan([str(path)], shards) for piece in shard]
    assert len(pieces) == shards
    parts = [[frame for _, frame in read_parquet(piece)] for piece in pieces]
    assert pl.concat([frame for part in parts for frame in part])["a"].to_list() == list(range(1000))
    for piece in pieces:
        first = 1
        for number, frame in read_parquet(piece):
            assert number == first
            first += frame.height


def test_a_damaged_row_group_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"a": [f"{i} {i * i}" for i in range(20_000)]}).write_parquet(path, row_group_size=5000)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = b"\x00" * 2000
    path.write_bytes(content)
    (piece,) = plan([str(path)], 1)[0]
    with pytest.raises(UserError, match="a.parquet: its row groups 1 to 4 cannot be read as Parquet"):
        list(read_parquet(piece))


def test_hub_sources_pin_a_revision():
    assert local_files(["hf://owner/name@v1", "hf://owner/name@v1/sub/a.json"]) == [
        "data/raw/hub/owner/name@v1/train.parquet",
        "data/raw/hub/owner/name@v1/sub/a.json",
    ]
    assert HubFile.parse("hf://owner/name@v1/sub/a.json") == HubFile("owner/name", "v1", "sub/a.json")
    for address in ("hf://owner/name", "hf://name@v1", "hf://owner/name/a.json"):
        with pytest.raises(UserError, match="OWNER/DATASET@REVISION"):
            local_files([address])


def test_globs_are_sorted_and_files_named_once(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).touch()
    paths = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    assert local_files([str(tmp_path / "*.jsonl"), paths[0]]) == paths
    assert plan(paths, 2) == [[], []]
