"""Given splits, over all forms."""

import json

import pytest
from alignx_samples import direction, raw_direction, raw_record
from alignxplore import records
from alignxplore.data.api import read_alignx
from alignxplore.data.forms import FORMS, given_split
from alignxplore.data.split import read_split, summary
from alignxplore.errors import UserError
from form_samples import PAIRS, PERSONA, RECORDS, SHOWN, varied, write

COUNT = 3
"""Records of a form in a file."""


def read(paths, directory, form=None, max_reject_share=0.0, max_characters=1000, posts=(0, 1)):
    """The split and its rejects."""
    out, rejects, kept = (str(directory / f"{name}.parquet") for name in ("split", "rejects", "kept"))
    given_split(paths, form, max_characters, max_reject_share, out, rejects, kept, "data.splits.x", posts)
    return read_split(out), records.read(rejects, records.REJECT)


def test_every_form_is_tried():
    assert set(RECORDS) == set(FORMS)


KINDS = [(form, kind) for form in FORMS for kind in ("json", "jsonl", "parquet") if form != "rl" or kind == "json"]
"""The records of `rl` are lists: Parquet has no such rows, and a file of such lines would begin like an array."""


@pytest.mark.parametrize(("form", "kind"), KINDS)
def test_every_form_is_detected_and_read_alike_in_every_kind_of_file(form, kind, tmp_path):
    raws = [varied(form, number) for number in range(COUNT)]
    split, rejects = read([write(tmp_path / f"a.{kind}", raws, kind)], tmp_path)
    named, _ = read([write(tmp_path / "b.json", raws, "json")], tmp_path, form)
    assert split.equals(named) and split.schema == FORMS[form].schema
    assert split.height == COUNT and rejects.is_empty() and split["example_id"].n_unique() == COUNT


def test_pairs_have_their_user_their_comments_and_their_golden_preference(tmp_path):
    anonymous = {key: value for key, value in varied("pairs", 1).items() if key not in ("user", "golden")}
    renamed = {**varied("pairs", 2, id=3), "userid": 17, "ground_truth_persona": "kind"}
    del renamed["user"], renamed["golden"]
    split, _ = read([write(tmp_path / "a.jsonl", [RECORDS["pairs"], anonymous, renamed])], tmp_path)
    first, second, third = split.to_dicts()
    assert first["pairs"] == [
        {"prompt": "How do I boil an egg?", "chosen": "Seven minutes.", "rejected": "First of all, which egg?",
         "direction": []}
    ]  # fmt: skip
    assert first["ugc"] == [{"prompt": "A film for tonight?", "comment": "Paddington 2.", "direction": []}]
    assert (first["prompt"], first["chosen"]) == ("Is tea healthy?", "Mostly, yes.")
    assert first["rejected"] == "People have long asked that."
    assert (first["user_id"], first["golden_preference"], first["rendered"]) == ("u17", "Likes short answers.", "")
    assert len(second["user_id"]) == 16 and second["golden_preference"] == ""
    assert (third["user_id"], third["golden_preference"]) == ("17", "kind")


def test_a_rendered_prompt_is_kept_word_for_word(tmp_path):
    (row,) = read([write(tmp_path / "a.json", [RECORDS["rl"]], "json")], tmp_path)[0].to_dicts()
    turn = RECORDS["rl"][0]
    assert row["rendered"] == turn["value"] and (row["pairs"], row["ugc"], row["direction"]) == ([], [], [])
    assert (row["prompt"], row["chosen"], row["rejected"]) == (turn["task"], turn["chosen"], turn["rejected"])


def test_users_of_rendered_prompts_are_told_apart_by_them(tmp_path):
    raws = [varied("rl", 1), varied("rl", 2), varied("rl", 2, value="another history")]
    split, _ = read([write(tmp_path / "a.json", raws, "json")], tmp_path)
    assert split["example_id"].n_unique() == 3
    assert split["user_id"][0] == split["user_id"][1] != split["user_id"][2]


def test_demonstrations_of_one_prompt_are_numbered(tmp_path):
    raws = [RECORDS["cold_start"], {**RECORDS["cold_start"], "response": "another"}, varied("cold_start", 1)]
    split, _ = read([write(tmp_path / "a.jsonl", raws)], tmp_path)
    assert split["completion"].to_list() == [raw["response"] for raw in raws]
    assert split["rendered"].to_list() == [raw["prompt"] for raw in raws]
    assert split["generation"].to_list() == [0, 1, 0] and split["example_id"][0] == split["example_id"][1]


@pytest.mark.parametrize("answer", ["A", "b", "Response A", "response B", "responseA", "RESPONSE_B ", "ResponseB"])
def test_an_answer_says_which_response_was_chosen(answer, tmp_path):
    raw = {**RECORDS["test"], "answer": answer}
    (row,) = read([write(tmp_path / "a.jsonl", [raw])], tmp_path)[0].to_dicts()
    right, other = ("A", "B") if answer.strip().lower()[-1] == "a" else ("B", "A")
    assert (row["chosen"], row["rejected"]) == (raw[f"response{right}"], raw[f"response{other}"])


def test_a_test_record_may_have_directions(tmp_path):
    signs = direction(d3=1)
    values = {"Preference Direction": raw_direction(signs)}
    raw = {**RECORDS["test"], **values, PAIRS: [{**RECORDS["test"][PAIRS][0], **values}]}
    (row,) = read([write(tmp_path / "a.jsonl", [raw])], tmp_path)[0].to_dicts()
    assert row["direction"] == row["pairs"][0]["direction"] == signs


def test_raw_alignx_is_read_as_it_is_read_for_refinement(tmp_path):
    path = write(tmp_path / "a.jsonl", [raw_record("1"), raw_record("2")])
    assert read([path], tmp_path)[0].equals(read_alignx(path)[0])


def test_a_persona_is_the_golden_preference(tmp_path):
    (row,) = read([write(tmp_path / "a.json", [RECORDS["psoups"]], "json")], tmp_path)[0].to_dicts()
    assert row["golden_preference"] == PERSONA["ground_truth_persona"]


@pytest.mark.parametrize("form", [form for form in FORMS if form != "cold_start"])
def test_records_with_the_same_texts_stay_and_differ_in_their_ids(form, tmp_path):
    once, _ = read([write(tmp_path / "a.json", [RECORDS[form]], "json")], tmp_path)
    twice, _ = read([str(tmp_path / "a.json"), write(tmp_path / "b.json", [RECORDS[form]], "json")], tmp_path)
    assert twice["example_id"][0] == once["example_id"][0] != twice["example_id"][1]


def without(record, key):
    return {name: value for name, value in record.items() if name != key}


SIGNAL = {"query": "q", "chosen": "c"}
BROKEN = [
    ("pairs", {**SHOWN["pairs"], "history": []}, "history", "is missing or empty"),
    ("pairs", {**SHOWN["pairs"], "history": [{**SIGNAL, "rejected": "c"}]}, "history[0].rejected", "equals chosen"),
    ("pairs", {**SHOWN["pairs"], "history": [{"chosen": "c"}]}, "history[0].query", "is missing"),
    ("pairs", varied("pairs", 1, rejected=None), "target.rejected", "is missing"),
    ("pairs", {**SHOWN["pairs"], "golden": 3}, "golden", "is 3, expected text"),
    ("pairs", without(SHOWN["pairs"], "target"), "target", "is null, expected an object"),
    ("rl", [], "record", "is not a list of two turns"),
    ("rl", varied("rl", 1, value=""), "[0].value", "is empty"),
    ("rl", varied("rl", 1, rejected="Mostly, yes."), "[0].rejected", "equals chosen"),
    ("cold_start", {"prompt": "p"}, "response", "is missing"),
    ("cold_start", {"prompt": "x" * 1001, "response": "r"}, "prompt", "has 1001 characters, more than the 1000"),
    ("test", {**SHOWN["test"], "answer": "C"}, "answer", "is 'C', expected A or B"),
    ("test", {**SHOWN["test"], "responseB": SHOWN["test"]["responseA"]}, "responseB", "equals responseA"),
    ("test", without(SHOWN["test"], PAIRS), PAIRS, "is missing or empty"),
    ("test", {**SHOWN["test"], "Preference Direction": [1]}, "Preference Direction", "has 1 values, expected 90"),
    ("alignx", without(raw_record("a"), "Preference Direction"), "Preference Direction", "is missing"),
    ("psoups", {**PERSONA, PAIRS: None}, PAIRS, "is missing or empty"),
    *((form, "text", "record", "") for form in FORMS),
]


@pytest.mark.parametrize(("form", "broken", "field", "reason"), BROKEN)
def test_a_broken_record_costs_itself_and_too_many_stop_the_run(form, broken, field, reason, tmp_path):
    path = write(tmp_path / "a.json", [varied(form, 1), broken, varied(form, 2)], "json")
    split, rejects = read([path], tmp_path, max_reject_share=0.34)
    assert split.height == 2
    ((source, line, at, why),) = rejects.rows()
    assert (source, line, at) == (path, 2, field) and why.startswith(reason)
    with pytest.raises(UserError) as stopped:
        read([path], tmp_path, max_reject_share=0.33)
    assert "data.splits.x.source: 1 of 3 raw records were rejected" in str(stopped.value)
    assert f"the first is {path}:2: {field}: {why}; all are in" in str(stopped.value)
    assert records.read(tmp_path / "kept.parquet", records.REJECT).equals(rejects)


def test_a_line_that_is_no_json_is_a_reject(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": \n\n' + json.dumps(SHOWN["pairs"]) + "\n")
    split, rejects = read([str(path)], tmp_path, max_reject_share=0.5)
    assert split.height == 1 and rejects["line"].to_list() == [1]
    assert rejects["reason"][0].startswith("not valid JSON")


@pytest.mark.parametrize("form", FORMS)
def test_ranges_of_posts_divide_a_file_by_its_posts(form, tmp_path):
    file = write(tmp_path / "a.json", [varied(form, number % 20) for number in range(60)], "json")
    whole = read([file], tmp_path)[0]
    parts = [read([file], tmp_path, posts=bounds)[0] for bounds in ((0, 0.4), (0.4, 1))]
    key = "rendered" if form == "cold_start" else "prompt"
    first, second = (set(part[key]) for part in parts)
    assert first and second and not first & second
    assert sum(part.height for part in parts) == whole.height == 60


def test_an_unknown_form_names_the_keys_and_the_forms(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": "A"}])
    with pytest.raises(UserError) as refused:
        read([path], tmp_path)
    assert str(refused.value).startswith(f"data.splits.x.source: the records of {path} have no known form")
    assert "'question', 'answer'" in str(refused.value) and "cold_start" in str(refused.value)


def test_a_file_without_records_is_named_by_its_key(tmp_path):
    with pytest.raises(UserError, match="data.splits.x.source: the files hold no records"):
        read([write(tmp_path / "a.json", [], "json")], tmp_path, "pairs")


def test_what_given_splits_share_is_counted_and_drawn_ones_still_stop(tmp_path, caplog):
    parts = {}
    for name, form, numbers in (("rl", "pairs", (1, 2)), ("test", "pairs", (2, 3)), ("cold", "cold_start", (4,))):
        raws = [varied(form, number) for number in numbers]
        parts[name], _ = read([write(tmp_path / f"{name}.jsonl", raws)], tmp_path)
    counts = summary(parts, drawn=("rl",))
    assert dict(counts.select("set", "shares").iter_rows()) == {
        "rl": "test: 1 user, 1 target post, 2 history pairs",
        "test": "rl: 1 user, 1 target post, 2 history pairs",
        "cold": "",
    }
    assert "'rl' and 'test' share 1 user, 1 target post, 2 history pairs; the first user: 'u17'" in caplog.text
    assert counts["examples"].to_list() == [2, 2, 1] and counts["preferred"].to_list() == [0, 0, 0]
    with pytest.raises(UserError, match="the splits 'rl' and 'test' share a user: 'u17'"):
        summary(parts, drawn=("rl", "test"))


def test_demonstrations_are_compared_by_their_prompt(tmp_path):
    demonstrations, _ = read([write(tmp_path / "c.jsonl", [RECORDS["cold_start"]])], tmp_path)
    prompt = RECORDS["cold_start"]["prompt"]
    examples, _ = read([write(tmp_path / "r.json", [varied("rl", 1, value=prompt)], "json")], tmp_path)
    shares = summary({"cold": demonstrations, "rl": examples}, drawn=())["shares"].to_list()
    assert shares == ["rl: 1 user, 1 rendered prompt", "cold: 1 user, 1 rendered prompt"]
