"""Given splits, over all forms."""

import json

import polars as pl
import pytest
from alignx_samples import direction, raw_direction, raw_record
from alignxplore import records
from alignxplore.data.api import read_alignx
from alignxplore.data.forms import FORMS, given_split
from alignxplore.data.split import read_split, summary
from alignxplore.errors import UserError
from form_samples import PAIRS, PERSONA, PUBLISHED_STREAM, RECORDS, SHOWN, varied, write

COUNT = 3
"""Records of a form in a file."""
STEPS = {"streams": 2}
"""Rows that the shown record of a form becomes, if not one."""


def read(paths, directory, form=None, max_reject_share=0.0, max_characters=1000, posts=(0, 1), chunk=None):
    """The split and its rejects."""
    out, rejects, kept = (str(directory / f"{name}.parquet") for name in ("split", "rejects", "kept"))
    given_split(paths, form, max_characters, max_reject_share, out, rejects, kept, "data.splits.x", posts, chunk)
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
    rows = COUNT * STEPS.get(form, 1)
    assert split.height == rows and rejects.is_empty() and split["example_id"].n_unique() == rows


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


def test_a_stream_is_one_example_per_step_with_all_signals_until_then(tmp_path):
    split, _ = read([write(tmp_path / "a.jsonl", [SHOWN["streams"], SHOWN["streams"]])], tmp_path)
    first, second, third, _ = split.to_dicts()
    targets = [step["target"] for step in SHOWN["streams"]["steps"]]
    assert [row["prompt"] for row in (first, second)] == [target["query"] for target in targets]
    assert [row["rejected"] for row in (first, second)] == [target["rejected"] for target in targets]
    assert (first["chunks"], second["chunks"]) == ([1], [1, 1])
    assert first["pairs"] == second["pairs"] and len(first["pairs"]) == 1
    assert first["ugc"] == [] and [item["comment"] for item in second["ugc"]] == ["Paddington 2."]
    assert first["stream"] == second["stream"] != third["stream"]
    assert {row["user_id"] for row in (first, second)} == {"u17"}
    assert {row["golden_preference"] for row in (first, second)} == {"Likes short answers."}


def test_the_signals_of_published_streams_are_read_from_their_prompts(tmp_path):
    three = json.loads(json.dumps(PUBLISHED_STREAM))
    signal = "\n\n{}. *Post:*\n{} 1. A\n\nlist\n\n*Chosen:*\n1. yes\n\n*Rejected:*\nno"
    three[0]["history"][1]["value"] = "Past: kind" + "".join(signal.format(n, "p" * n) for n in range(1, 13))
    split, _ = read([write(tmp_path / "a.json", [PUBLISHED_STREAM, three], "json")], tmp_path)
    first, second, _, long = split.to_dicts()
    assert [row["prompt"] for row in (first, second)] == ["Is tea healthy?", "What is a comet?"]
    film = {"prompt": "A film for tonight?", "chosen": "Paddington 2.", "rejected": "We should discuss genres."}
    assert second["pairs"] == [*first["pairs"], {**film, "direction": []}]
    assert first["pairs"][0]["rejected"] == "First of all, which egg?"
    assert {row["rendered"] for row in (first, second)} == {""}
    assert first["stream"] == second["stream"] and first["user_id"] == second["user_id"]
    assert long["chunks"] == [1, 12] and long["pairs"][12]["prompt"] == "p" * 12 + " 1. A\n\nlist"


def test_a_published_stream_whose_prompt_hides_its_signals_is_rejected(tmp_path):
    for value in ("Past: kind. They like tea.", "2. *Post:*\nq\n*Chosen:*\nc\n*Rejected:*\nr"):
        hidden = json.loads(json.dumps(PUBLISHED_STREAM))
        hidden[0]["history"][1]["value"] = value
        path = write(tmp_path / "a.json", [PUBLISHED_STREAM, hidden], "json")
        split, rejects = read([path], tmp_path, max_reject_share=0.5)
        assert split.height == 2 and rejects["field"].to_list() == ["[0].history[1].value"]
        assert "no prompt with another description of the earlier ones can be made" in rejects["reason"][0]


@pytest.mark.parametrize("form", ["pairs", "test", "alignx", "psoups"])
def test_records_with_a_chunk_become_streams(form, tmp_path):
    path = write(tmp_path / "a.json", [varied(form, 1), varied(form, 2)], "json")
    whole, _ = read([path], tmp_path)
    split, _ = read([path], tmp_path, chunk=1)
    assert split.height == sum(whole["pairs"].list.len() + whole["ugc"].list.len())
    for record in whole.to_dicts():
        steps = split.filter(pl.col("stream") == record["example_id"]).to_dicts()
        signals = record["pairs"] + record["ugc"]
        for number, step in enumerate(steps, 1):
            assert step["pairs"] + step["ugc"] == signals[:number] and step["chunks"] == [1] * number
            following = record["pairs"][number : number + 1] or [record]
            assert all(step[key] == following[0][key] for key in ("prompt", "chosen", "rejected", "direction"))
        assert {step["user_id"] for step in steps} == {record["user_id"]}
        assert len({step["example_id"] for step in steps}) == len(steps)
        assert {**steps[-1], "example_id": record["example_id"], **records.NO_STREAM} == record


def test_what_cannot_be_cut_into_chunks(tmp_path):
    for form in ("streams", "rl", "cold_start"):
        path = write(tmp_path / "a.json", [RECORDS[form]], "json")
        with pytest.raises(UserError, match=f"data.splits.x.chunk: does not apply to the form '{form}'"):
            read([path], tmp_path, chunk=2)
    silent = raw_record("a", **{PAIRS: [], "User-Generated Content": None})
    _, rejects = read([write(tmp_path / "b.json", [silent], "json")], tmp_path, max_reject_share=1.0, chunk=2)
    assert rejects["reason"].to_list() == ["has no signals"]


def test_the_steps_of_a_stream_are_one_user(tmp_path):
    parts = {}
    for name, numbers in (("one", (1, 2)), ("two", (3,))):
        raws = [{key: value for key, value in varied("pairs", n).items() if key != "user"} for n in numbers]
        for raw, number in zip(raws, numbers, strict=True):
            raw["history"] = [{**item, "query": f"{item['query']} {number}"} for item in raw["history"]]
        parts[name], _ = read([write(tmp_path / f"{name}.jsonl", raws)], tmp_path, chunk=1)
    counts = summary(parts, drawn=("one", "two"))
    assert counts["examples"].to_list() == [4, 2] and counts["users"].to_list() == [2, 1]
    shares = summary({"one": parts["one"], "again": parts["one"][1:2]}, drawn=())["shares"].to_list()
    assert shares[0] == "again: 1 user, 1 target post, 2 history pairs"


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
    assert twice["example_id"][0] == once["example_id"][0]
    assert twice["example_id"].n_unique() == twice.height == 2 * once.height


def without(record, key):
    return {name: value for name, value in record.items() if name != key}


def with_step(number, **changes):
    """The shown stream with a step changed."""
    steps = [*SHOWN["streams"]["steps"]]
    steps[number] = {**steps[number], **changes}
    return {**SHOWN["streams"], "steps": steps}


SIGNAL = {"query": "q", "chosen": "c"}
BROKEN = [
    ("pairs", {**SHOWN["pairs"], "history": []}, "history", "is missing or empty"),
    ("pairs", {**SHOWN["pairs"], "history": [{**SIGNAL, "rejected": "c"}]}, "history[0].rejected", "equals chosen"),
    ("pairs", {**SHOWN["pairs"], "history": [{"chosen": "c"}]}, "history[0].query", "is missing"),
    ("pairs", varied("pairs", 1, rejected=None), "target.rejected", "is missing"),
    ("pairs", {**SHOWN["pairs"], "golden": 3}, "golden", "is 3, expected text"),
    ("pairs", without(SHOWN["pairs"], "target"), "target", "is null, expected an object"),
    ("streams", {**SHOWN["streams"], "steps": []}, "steps", "is missing or empty"),
    ("streams", with_step(1, history=None), "steps[1].history", "is missing or empty"),
    ("streams", with_step(1, history=[{**SIGNAL, "rejected": "c"}]), "steps[1].history[0].rejected", "equals chosen"),
    ("streams", with_step(0, target=None), "steps[0].target", "is null, expected an object"),
    ("streams", varied("streams", 1, rejected=None), "steps[1].target.rejected", "is missing"),
    (
        "streams",
        {**SHOWN["streams"], "steps": SHOWN["streams"]["steps"][::-1]},
        "steps",
        "has a pair after a comment; a stream has its pairs first",
    ),
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
    assert split.height == 2 * STEPS.get(form, 1)
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
    if form in STEPS:  # a stream goes where its last target does
        first, second = (set(part[key][1::2]) for part in parts)
    assert first and second and not first & second
    assert sum(part.height for part in parts) == whole.height == 60 * STEPS.get(form, 1)


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
