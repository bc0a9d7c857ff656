import json
from collections import Counter
from pathlib import Path

import pytest
from alignxplore.data.psoups import Signals, read_psoups
from alignxplore.errors import UserError

PAIRS = "Pair-wise Comparative Feedback"
REAL = Path(__file__).parents[4] / "shared" / "data" / "p_soups" / "style.json"
SIGNALS = Signals(4, seed=1)
KIND, COLD = (
    "Generate a response that is friendly and witty.",
    "Generate it in an unfriendly manner.",
)


def record(persona=KIND, prompt="p", **changes):
    pair = {"prompt": "q", "chosen": "c", "rejected": "r"}
    base = {"prompt": prompt, "chosen": f"yes {persona}", "rejected": "no"}
    return {**base, "ground_truth_persona": persona, "profile": "x", PAIRS: [pair] * 4, **changes}


def write(path, records):
    path.write_text(json.dumps(records), "utf-8")
    return path


def test_records_become_cases(tmp_path):
    path = write(tmp_path / "style.json", [record(), record(COLD), record()])
    rows = read_psoups(path, "style", "friendly and", SIGNALS)
    assert [row["direction"] for row in rows] == [[1], [-1], [1]]
    assert [row["golden_preference"] for row in rows] == [KIND, COLD, KIND]
    assert len({row["case_id"] for row in rows}) == 3, "equal records are cases of their own"
    assert rows[1]["pairs"] == [{"prompt": "q", "chosen": "c", "rejected": "r", "direction": [-1]}] * 4
    assert rows[0]["chosen"] == f"yes {KIND}" and rows[0]["ugc"] == []
    again = write(tmp_path / "again.json", [record(COLD), record(prompt="new"), record(), record()])
    assert {row["case_id"] for row in rows} < {row["case_id"] for row in read_psoups(again, "style", "witty", SIGNALS)}


@pytest.mark.parametrize(
    ("records", "positive", "message"),
    [
        ([record(), record(COLD)], "friendly", "'friendly' .*style.positive.* one of two"),
        ([record(), record(COLD)], "Friendly", "one of two personas"),
        ([record(), record()], "witty", "one of two personas"),
        ([record(), record(COLD), record("other")], "witty", "one of two personas"),
        ([record(), record(COLD, chosen=" ")], "witty", "record 2: chosen is empty"),
        ([record(ground_truth_persona=None)], "witty", "record 1: ground_truth_persona is missing"),
        (
            [record(), record(COLD, rejected="yes " + COLD)],
            "witty",
            "record 2: rejected equals chosen",
        ),
        (
            [record(), record(COLD, chosen="\ud800")],
            "witty",
            "record 2: chosen holds a lone surrogate",
        ),
        ([record(), record(COLD, **{PAIRS: []})], "witty", f"record 2: {PAIRS} is missing or empty"),
        (
            [record(), record(COLD, **{PAIRS: [{"prompt": "p"}]})],
            "witty",
            r"record 2: .*\[0\].chosen is missing",
        ),
        ([record(), 3], "witty", "record 2 is 3, expected an object"),
        ({"a": 1}, "witty", "expected a JSON array"),
    ],
)
def test_a_broken_file_is_named(tmp_path, records, positive, message):
    with pytest.raises(UserError, match=f"style.json: .*{message}"):
        read_psoups(write(tmp_path / "style.json", records), "style", positive, SIGNALS)


def test_files_that_are_not_json(tmp_path):
    (tmp_path / "cut.json").write_text('[{"prompt"')
    with pytest.raises(UserError, match="cut.json: not valid JSON"):
        read_psoups(tmp_path / "cut.json", "style", "a", SIGNALS)
    with pytest.raises(UserError, match="none.json: cannot be read"):
        read_psoups(tmp_path / "none.json", "style", "a", SIGNALS)


@pytest.mark.skipif(not REAL.exists(), reason=f"THE PUBLISHED P-SOUPS FILE IS NOT THERE: {REAL}")
def test_the_published_file_has_600_cases():
    rows = read_psoups(REAL, "style", "friendly, witty", SIGNALS)
    assert Counter(row["direction"][0] for row in rows) == {1: 300, -1: 300}
    assert len({row["case_id"] for row in rows}) == 600
    assert len({row["prompt"] for row in rows}) == 112
    assert {len(row["pairs"]) for row in rows} == {4}
