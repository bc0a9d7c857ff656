"""The journal finds what was written and ignores torn lines."""

import time

import duckdb
import pytest
from alignxplore.engines.journal import CALL, Journal, account, prune
from alignxplore.errors import UserError


def key(number: int) -> str:
    return f"{number + 1:032x}"


def record(number: int) -> dict:
    return {"model": "m", "text": f'täxt "{number}"\n', "finish_reason": "stop", "prompt_tokens": 0.1 * number}


def test_records_are_found_by_this_and_later_processes(tmp_path):
    journal = Journal(tmp_path / "deep/journal")
    assert journal.get([key(1)]) == {}
    journal.add([(key(n), record(n)) for n in range(3)])
    journal.add([(key(n), record(n)) for n in range(3, 2000)])
    for again in (journal, Journal(tmp_path / "deep/journal")):
        assert again.get([key(1999), key(0), key(5000)]) == {key(0): record(0), key(1999): record(1999)}


def test_without_a_directory_records_stay_in_memory():
    journal = Journal()
    journal.add([(key(1), record(1))])
    assert journal.get([key(1)]) == {key(1): record(1)}


def test_each_process_appends_to_its_own_file(tmp_path):
    first, second = Journal(tmp_path), Journal(tmp_path)
    for number in range(0, 100, 2):
        first.add([(key(number), record(number))])
        second.add([(key(number + 1), record(number + 1))])
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    assert Journal(tmp_path).get(map(key, range(100))) == {key(n): record(n) for n in range(100)}


@pytest.mark.parametrize("lost", range(1, 150, 7))
def test_a_torn_last_line_is_dropped(tmp_path, lost):
    Journal(tmp_path).add([(key(1), record(1)), (key(2), record(2))])
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-lost])
    found = Journal(tmp_path).get([key(1), key(2)])
    assert key(2) not in found
    assert found.get(key(1), record(1)) == record(1)
    assert key(1) in found or lost > 120


def test_a_line_with_a_changed_character_is_ignored(tmp_path):
    Journal(tmp_path).add([(key(1), record(1)), (key(2), record(2))])
    (file,) = tmp_path.glob("*.jsonl")
    whole = file.read_bytes()
    for place in range(whole.index(b"\n")):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert Journal(tmp_path).get([key(1)]) in ({}, {key(1): record(1)})
        assert Journal(tmp_path).get([key(2)]) == {key(2): record(2)} or whole[place] ^ 1 == 10
    assert b"\x00" not in whole


def test_lines_that_are_not_records_are_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n\n" + b"x" * 500 + b"\n{}\n" + b"\x00" * 300 + b"\n")
    Journal(tmp_path).add([(key(1), record(1))])
    assert Journal(tmp_path).get([key(1)]) == {key(1): record(1)}


def test_lines_longer_than_a_block_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("alignxplore.engines.journal._READ_BYTES", 100)
    Journal(tmp_path).add([(key(n), record(n) | {"text": "x" * (n * 37)}) for n in range(20)])
    assert len(Journal(tmp_path).get(map(key, range(20)))) == 20


def test_duckdb_reads_it(tmp_path):
    Journal(tmp_path).add([(key(n), record(n)) for n in range(5)])
    columns = "{key: 'VARCHAR', sum: 'VARCHAR', record: 'JSON'}"
    found = duckdb.execute(
        f"SELECT sum((record->>'prompt_tokens')::DOUBLE) FROM read_json('{tmp_path}/*.jsonl', columns = {columns})"
    )
    assert found.fetchone() == (1.0,)


def call(**values) -> tuple[str, dict]:
    usual = dict.fromkeys(("hits", "new", "hit_tokens", "new_tokens"), 0)
    usual |= dict.fromkeys(("seconds", "saved_dollars", "paid_dollars"), 0.0)
    return CALL, {"call": {"model": "m", "kind": "generate", **usual, **values}}


def test_the_account_counts_entries_hits_tokens_and_money(tmp_path):
    journal = Journal(tmp_path)
    journal.add([(key(1), record(1)), (key(2), record(2)), (key(3), {"model": "m", "plan": [0]})])
    journal.add(
        [call(new=2, new_tokens=30, paid_dollars=0.5, loading=3.0), call(hits=2, hit_tokens=30, saved_dollars=0.5)]
    )
    journal.add([call(model="other", new=7, new_tokens=9)])
    table = account(tmp_path)
    assert table.filter(model="m").to_dicts() == [
        {
            "model": "m",
            "kind": "generate",
            "entries": 2,
            "calls": 2,
            "new": 2,
            "hits": 2,
            "new_tokens": 30,
            "saved_tokens": 30,
            "paid_dollars": 0.5,
            "saved_dollars": 0.5,
            "seconds": 0.0,
            "loading": 3.0,
        }
    ]
    assert table["new"].sum() == 9
    with pytest.raises(UserError, match="no journal"):
        account(tmp_path / "none")


def test_prune_merges_files_and_drops_unwanted_records(tmp_path):
    for model in ("m", "old"):
        journal = Journal(tmp_path)
        journal.add([(key(n), {"model": model, "text": str(n)}) for n in range(3 * (model == "old"), 5)])
        del journal
    (tmp_path / "torn.jsonl").write_text('{"key":"')
    busy = Journal(tmp_path)
    busy.add([(key(9), record(9))])
    assert prune(tmp_path) == (5, 3)  # two keys are in both files, and one line is torn
    assert len(list(tmp_path.glob("*.jsonl"))) == 2  # the busy process keeps its own file
    busy.add([(key(10), record(10))])
    assert len(Journal(tmp_path).get(map(key, range(11)))) == 7
    del busy
    before = Journal(tmp_path).get(map(key, range(11)))
    assert prune(tmp_path, keep=["m"])[1] in (0, 2)
    assert Journal(tmp_path).get(before) == {k: r for k, r in before.items() if r["model"] == "m"}
    assert prune(tmp_path, newer_than=time.time() + 10)[0] == 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="typo: there is no journal here"):
        prune(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_a_full_disk_is_named(tmp_path):
    journal = Journal(tmp_path)
    journal._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    with pytest.raises(UserError, match="journal .*: cannot be written: No space left"):
        journal.add([(key(1), record(1))])
