"""Configurations that would give a wrong or empty result are refused with the name of the wrong key."""

import json
import re
from pathlib import Path

import pytest
from alignxplore.errors import UserError
from alignxplore.workflow import launcher
from alignxplore.workflow.config import completed, held_out_file, resolved, typed, unpinned_models
from alignxplore.workflow.config_checks import check_config
from alignxplore.workflow.config_paths import DEMO_FILES, DEMO_STREAMS, PATHS, located, values_at
from alignxplore.workflow.launcher import sharding
from configs import merged
from snakemake.utils import update_config

CONFIG = Path(__file__).parents[3] / "config"
FRAME = str(CONFIG.parent / "resources/prompts/paper/conversation.jinja")
ZERO3 = "accelerate launch --config_file=config/accelerate/zero3.yaml"


def column(config: dict, name: str) -> dict:
    return config["tables"]["table4"]["columns"][name]


def shown(config: dict, table: str, methods: list[str]) -> None:
    """Make these methods the rows of a table."""
    for name, entry in config["methods"].items():
        entry["tables"] = [t for t in entry["tables"] if t != table] + ([table] if name in methods else [])


@pytest.mark.parametrize(
    "names",
    [
        ["demo"],
        ["paper"],
        ["paper", "paper/streaming"],
        ["evaluate", "smollm2"],
        ["evaluate", "smollm2", "smollm2/demo_files"],
        ["one_gpu"],
        ["one_gpu", "one_gpu/eight_cards"],
    ],
)
def test_our_own_are_accepted(names):
    check_config(merged(*names), CONFIG / "schema.yaml")


MINE = {
    "data": {"psoups": {"style": {"path": "style.json", "positive": "funny"}}},
    "benchmarks": {"style": {"psoups": "style", "limit": 30}},
    "models": {
        "model": {"engine": "openai", "path": "m", "base_url": "http://127.0.0.1:8080/v1"},
        "judge": {"engine": "openai", "path": "m", "base_url": "http://127.0.0.1:8080/v1", "tokenizer": "m"},
    },
}


def test_an_evaluation_needs_models_and_benchmarks_alone(tmp_path):
    config = merged("evaluate")
    with pytest.raises(UserError) as refused:
        check_config(config, CONFIG / "schema.yaml")
    assert "benchmarks" in str(refused.value) and "'model'" in str(refused.value)
    path = tmp_path / "style.json"
    path.write_text("[]")
    update_config(config, {**MINE, "data": {"psoups": {"style": {"path": str(path), "positive": "funny"}}}})
    check_config(config, CONFIG / "schema.yaml")
    columns = completed(config)["tables"]["accuracy"]["columns"]
    assert columns == {
        "style, judge": {"judge": "judge", "benchmarks": ["style"]},
        "style, gen": {"judge": "gen", "benchmarks": ["style"]},
    }


def test_names_with_dots_have_files(tmp_path):
    config = merged()
    config["models"]["qwen2.5"] = {**config["models"]["instruct"], "chat_template": FRAME}
    config["gguf"] = {"qwen2.5": {"file": FRAME, "dtype": "float32"}}
    config["data"]["splits"]["mine.v2"] = {"source": "absent.jsonl"}
    with pytest.raises(UserError, match=r"data\.splits\.mine\.v2\.source: there is no file 'absent\.jsonl'"):
        check_config(located(config, CONFIG.parent), CONFIG / "schema.yaml")


def test_what_a_run_makes_is_not_taken_from_a_run_in_the_workflows_directory(tmp_path, monkeypatch):
    config = merged()
    config["training"]["variants"]["tuned"] = {"stage": "sft", "from": "backbone", "data": "data/splits/cold.parquet"}
    made = [path for _, path in values_at(config, PATHS) if path.startswith(("data/", "results/"))]
    assert {"data/splits/cold.parquet", *DEMO_FILES.values(), *DEMO_STREAMS.values()} <= {*made}
    workflow, here = tmp_path / "workflow", tmp_path / "here"
    for path in [*made, "resources/demo/lexicon.csv"]:
        (workflow / path).parent.mkdir(parents=True, exist_ok=True)
        (workflow / path).touch()
    here.mkdir()
    monkeypatch.chdir(here)
    found = located(config, workflow)
    assert [path for _, path in values_at(found, PATHS) if path.startswith(("data/", "results/"))] == made
    assert found["demo"]["lexicon"] == str(workflow / "resources/demo/lexicon.csv")


def test_a_launch_command_names_files_of_the_workflow_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workflow = CONFIG.parent
    config = {"training": {"launch": f"{ZERO3} --num_processes 2"}}
    command = located(config, workflow)["training"]["launch"]
    assert sharding(command) == (3, False)
    assert launcher.files(command) == [
        str(workflow / name) for name in ("config/accelerate/zero3.yaml", "config/deepspeed/zero3.json")
    ]
    (tmp_path / "config/deepspeed").mkdir(parents=True)
    (tmp_path / "config/deepspeed/zero3.json").write_text('{"zero_optimization": {"stage": 1}}')
    assert sharding(located(config, workflow)["training"]["launch"]) == (1, False)


def test_what_a_model_is_does_not_belong_to_its_training():
    config = merged()
    config["training"]["sft"]["chat_template"] = FRAME
    config["training"]["variants"]["r_gen"]["settings"] = {"stop": ["User:"]}
    with pytest.raises(UserError) as refused:
        check_config(config, CONFIG / "schema.yaml")
    for key in ("training.sft.chat_template", "training.variants.r_gen.settings.stop"):
        assert f"{key}: belongs to the entry of the model" in str(refused.value)


@pytest.mark.parametrize("split", ["rl", "given"])
def test_golden_preferences_of_any_examples_are_learned(split):
    config = merged()
    config["data"]["splits"]["given"] = {"source": str(CONFIG / "base.yaml"), "form": "psoups"}
    config["training"]["variants"]["no_rl"] |= {"reasoning": False, "data": f"data/splits/{split}.parquet"}
    check_config(config, CONFIG / "schema.yaml")
    del config["prompts"]["concise"], config["demo"]
    with pytest.raises(UserError, match=r"training\.variants\.no_rl needs the key 'prompts\.concise'"):
        check_config(config, CONFIG / "schema.yaml")


@pytest.mark.parametrize("launch", ["accelerate launch --num_processes x", "accelerate launch --config_file BROKEN"])
def test_a_launch_command_that_cannot_be_read_is_named(tmp_path, launch):
    (broken := tmp_path / "broken.yaml").write_text("{")
    config = merged()
    config["training"]["launch"] = launch.replace("BROKEN", str(broken))
    with pytest.raises(UserError, match="training.launch"):
        check_config(config, CONFIG / "schema.yaml")


def test_a_served_judge_of_given_texts_needs_a_tokenizer():
    config = merged()
    config["models"]["instruct"] = {"engine": "openai", "path": "served"}
    with pytest.raises(
        UserError, match=r"judges\.gen\.model: a chat endpoint cannot score.*models\.instruct a tokeniz"
    ):
        check_config(config, CONFIG / "schema.yaml")


def test_every_mistake_is_in_one_message():
    config = merged()
    config["sead"] = 1
    config["evaluation"]["temperature"] = "hot"
    config["methods"]["teacher"]["model"] = "teecher"
    config["prompts"]["judge"] = "nowhere.jinja"
    config["tables"]["table3"]["kind"] = "win_rate"
    with pytest.raises(UserError) as refused:
        check_config(config, CONFIG / "schema.yaml")
    lines = str(refused.value).splitlines()
    assert lines[0] == "config: 5 mistakes" and len(lines) == 6
    for part in (
        "sead: unknown key; did you mean 'seed'?",
        "evaluation.temperature: 'hot' is not of type 'number'",
        "methods.teacher.model: no such name 'teecher'; did you mean 'teacher'?",
        "prompts.judge: there is no file 'nowhere.jinja'",
        "tables.table3.kind: 'win_rate' is not one of",
    ):
        assert sum(part in line for line in lines) == 1, part


PATHS_OF_DEMO = {
    "prompts.judge": lambda c, path: c["prompts"].update(judge=path),
    "published": lambda c, path: c.update(published=path),
    "data.alignx.sources.0": lambda c, path: c["data"]["alignx"].update(sources=[path]),
    "data.splits.given.source": lambda c, path: c["data"]["splits"].update(given={"source": path}),
    "data.splits.given.source.0": lambda c, path: c["data"]["splits"].update(given={"source": [path]}),
    "data.psoups.style.path": lambda c, path: c["data"]["psoups"]["style"].update(path=path),
    "data.wording": lambda c, path: c["data"].update(wording=path),
    "demo.lexicon": lambda c, path: c["demo"].update(lexicon=path),
    "gguf.m.file": lambda c, path: c.update(gguf={"m": {"file": path, "dtype": "float32"}}),
    "gguf.m.chat_template": lambda c, path: c.update(
        gguf={"m": {"package": "p", "file": "f", "dtype": "float32", "chat_template": path}}
    ),
    "models.judge.chat_template": lambda c, path: c["models"]["judge"].update(chat_template=path),
    "training.held_out": lambda c, path: c["training"].update(held_out=path),
    "training.variants.alignxplore.held_out": lambda c, path: c["training"]["variants"]["alignxplore"].update(
        held_out=path
    ),
    "training.variants.no_rl.data": lambda c, path: c["training"]["variants"]["no_rl"].update(data=path),
}


@pytest.mark.parametrize("key", PATHS_OF_DEMO)
def test_a_file_that_does_not_exist_is_named_with_its_key(key):
    config = merged()
    PATHS_OF_DEMO[key](config, "resources/promts/judge.jinja")
    with pytest.raises(UserError, match=f"config: {key}: there is no file 'resources/promts/judge.jinja'"):
        check_config(config, CONFIG / "schema.yaml")


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c["data"]["splits"].update(rest={"rest_of": "rl", "size": 3}), "rest.rest_of: 'held_out' already gets"),
    (lambda c: c["data"]["splits"]["held_out"].update(rest_of="r"), "held_out.rest_of: no such name 'r'"),
    (lambda c: c["data"]["splits"].update(m={"rest_of": "held_out", "size": 3}), "'held_out' is not drawn by a share"),
    (lambda c: c["data"]["splits"]["held_out"].update(share=3), "data.splits.held_out.share: does not apply"),
    (lambda c: c["training"]["variants"]["r_gen"].update(held_out="rl"), "r_gen: .*rl.parquet. cannot be held out"),
    (lambda c: c["training"]["variants"]["r_gen"].update(held_out="cold"), "or a model it starts from, learns it"),
    (lambda c: c["training"]["variants"]["r_gen"].update(held_out="long_training"), "held_out needs other examples"),
    (lambda c: c["training"]["variants"]["alignxplore"].update(data="data/splits/long_training.parquet"),
     "set held_out: false"),
    (lambda c: c["training"]["variants"]["no_rl"].update(held_out="held_out"), "no_rl.held_out: does not apply"),
    (lambda c: c["training"]["variants"]["r_gen"].update(held_out=True), "r_gen.held_out: "),
])  # fmt: skip
def test_held_out_examples_and_the_rest_of_a_split_are_checked(change, message):
    config = merged()
    change(config)
    with pytest.raises(UserError, match=message):
        check_config(config, CONFIG / "schema.yaml")


def test_a_variant_may_do_without_evaluation():
    config = merged()
    config["training"]["held_out"] = "held_out"
    config["training"]["variants"]["r_gen"]["held_out"] = False
    check_config(config, CONFIG / "schema.yaml")
    files = {name: held_out_file(config, name) for name in config["training"]["variants"]}
    split = "data/splits/held_out.parquet"
    assert files == {"no_rl": None, "updates": None, "alignxplore": split, "no_cold_start": split, "r_gen": None}


def test_every_key_of_a_path_is_tried():
    kinds = {re.sub(r"\.(judge|0|style|m|no_rl|alignxplore|given)(\.|$)", r".*\2", key) for key in PATHS_OF_DEMO}
    assert kinds == set(PATHS)


@pytest.mark.parametrize(("text", "message"), [
    ("Post: {{ postt | user }} {{ preference }}", "no variable postt; the template judge has post, preference, resp"),
    ("Post: {{ post | usr }}", "No filter named 'usr'"),
    ("{% if post %}", "line 1: Unexpected end of template"),
])  # fmt: skip
def test_a_template_that_cannot_be_rendered_is_named_before_any_job(tmp_path, text, message):
    config = merged()
    (tmp_path / "judge.jinja").write_text(text)
    config["prompts"]["judge"] = str(tmp_path / "judge.jinja")
    with pytest.raises(UserError, match=f"(?s)config: prompts.judge: .*judge.jinja.*{message}"):
        check_config(config, CONFIG / "schema.yaml")


@pytest.mark.parametrize(("text", "message"), [
    ("User: {{ messages[0].content }}{{ messages[0].content }}", "does not write the user's message exactly once"),
    ("{% for m in messages %}", "cannot be used: .*Unexpected end of template"),
])  # fmt: skip
def test_a_chat_template_that_cannot_be_rendered_is_named_before_any_job(tmp_path, text, message):
    config = merged()
    (tmp_path / "frame.jinja").write_text(text)
    config["models"]["judge"]["chat_template"] = str(tmp_path / "frame.jinja")
    with pytest.raises(UserError, match=f"(?s)config: models.judge: chat template .*frame.jinja {message}"):
        check_config(config, CONFIG / "schema.yaml")


def test_a_server_takes_no_chat_template_file():
    config = merged()
    config["models"]["judge"] = {"engine": "openai", "path": "m", "chat_template": FRAME}
    with pytest.raises(UserError, match="models.judge.chat_template: a server renders.*--chat-template"):
        check_config(config, CONFIG / "schema.yaml")


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c["methods"]["teacher"].update(prompt="untraind"), "methods.teacher.prompt: no such name 'untraind'"),
    (lambda c: c["methods"]["teacher"].update(prompt="judge"), "methods.teacher.prompt: no such name 'judge'"),
    (lambda c: c["cold_start"].update(prompt="propose_rule"), "cold_start.prompt: no such name 'propose_rule'"),
    (
        lambda c: c["cold_start"].update(streaming={"split": "cold", "prompt": "judge"}),
        "cold_start.streaming.prompt: no such name 'judge'",
    ),
    (lambda c: c["prompts"].update(jugde="resources/prompts/judge.jinja"), "prompts.jugde: no such name.*'judge'"),
    (lambda c: c["prompts"].update(untrained="resources/prompts/judge.jinja"), "prompts.untrained: .*no variable post"),
    (lambda c: c["prompts"].update({"not-a-name": FRAME}), "prompts.*not-a-name"),
    (lambda c: c["methods"]["pba"].update(answer="text"), "methods.pba.answer"),
])  # fmt: skip
def test_a_template_by_name_must_be_one_that_asks_for_a_description(change, message):
    config = merged()
    config["prompts"]["untrained"] = "resources/prompts/preference.jinja"
    config["methods"]["teacher"].update(prompt="untrained", answer="text")
    config["cold_start"].update(prompt="untrained", answer="text", dimensions="target")
    check_config(config, CONFIG / "schema.yaml")
    change(config)
    with pytest.raises(UserError, match=message):
        check_config(config, CONFIG / "schema.yaml")


@pytest.mark.parametrize(("carry", "message"), [
    ({}, "a method with streaming asks it, so it must show {{ past | user }}"),
    ({"carry": True}, "a method with streaming asks it, so it must show {{ past | user }}"),
    ({"carry": False}, ""),
])  # fmt: skip
def test_a_template_that_updates_descriptions_must_show_the_past(carry, message, tmp_path):
    config = merged()
    (own := tmp_path / "own.jinja").write_text("Known: {{ past | user }}. New: {{ pairs | length }}")
    config["methods"]["teacher"].update(streaming={"chunk": 4, **carry}, prompt="untrained")
    config["prompts"]["untrained"] = str(own)
    assert mistakes(config) == ""
    own.write_text("New: {{ pairs | length }}")
    assert message in mistakes(config) and bool(message) == bool(mistakes(config))


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c["methods"]["teacher"]["streaming"].pop("chunk"), "methods.teacher.streaming.*chunk"),
    (lambda c: c["methods"]["teacher"]["streaming"].update(chunk=0), "methods.teacher.streaming.chunk"),
    (lambda c: c["methods"]["pba"].update(streaming={"chunk": 4}), "methods.pba.streaming"),
    (lambda c: c["prompts"].pop("update"), "methods.teacher needs the key 'prompts.update'"),
])  # fmt: skip
def test_streaming_needs_a_chunk_a_model_and_a_template(change, message):
    config = merged()
    config["methods"]["teacher"].update(streaming={"chunk": 4})
    assert mistakes(config) == ""
    change(config)
    assert re.search(message, mistakes(config))


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c["tables"]["streams"].pop("benchmarks"), "tables.streams: 'benchmarks' is a required property"),
    (lambda c: c["tables"]["streams"].update(benchmarks=["alignx_test"]), "'alignx_test' are no steps of streams"),
    (lambda c: c["tables"]["streams"].update(columns={}), "tables.streams.columns: does not apply"),
    (lambda c: c["tables"]["streams"].update(benchmarks=["x"]), "tables.streams.benchmarks: no such name 'x'"),
    (lambda c: c["tables"]["streams"].update(judges=["judges"]), "tables.streams.judges: no such name 'judges'"),
    (lambda c: c["methods"]["long_golden"]["tables"].remove("streams"), "tables.streams: too few methods name it"),
    (lambda c: c["methods"]["vpl"]["tables"].append("streams"), "tables.streams: method 'vpl' writes no descriptions"),
    (lambda c: c["tables"]["streams"].update(benchmarks=["psoups_style"], judges=["judge2"]),
     "judges.judge2.benchmarks, needed by tables.streams: no such name 'psoups_style'"),
])  # fmt: skip
def test_a_table_of_streams_needs_benchmarks_and_methods_that_describe(change, message):
    config = merged()
    config["tables"]["streams"] = {
        "kind": "streaming",
        "title": "S",
        "benchmarks": ["long_stream"],
        "judges": ["judge"],
    }
    config["methods"]["long_golden"]["tables"].append("streams")
    assert mistakes(config) == ""
    change(config)
    assert message in mistakes(config)


def test_a_judge_by_the_published_protocol_needs_sampling():
    config = merged()
    config["judges"]["judge2"] = {"kind": "published", "model": "judge2", "benchmarks": ["alignx_test"]}
    with pytest.raises(UserError, match="judges.judge2: .*sampling"):
        check_config(config, CONFIG / "schema.yaml")
    config["judges"]["judge2"]["sampling"] = {"temperature": 1, "top_p": 1, "top_k": 0, "max_new_tokens": 128}
    config["figures"]["calibration"]["judges"] = ["judge"]
    check_config(config, CONFIG / "schema.yaml")


def test_a_model_with_a_chat_template_can_be_trained():
    config = merged()
    config["models"]["backbone"]["chat_template"] = FRAME
    check_config(config, CONFIG / "schema.yaml")


def test_equal_settings_stand_in_equal_order():
    config, turned = merged(), merged()
    turned["evaluation"] = dict(reversed(turned["evaluation"].items()))
    columns = turned["tables"]["table2"]["columns"]
    columns["alignx_test"] = dict(reversed(columns["alignx_test"].items()))
    assert repr(turned) != repr(config) and repr(resolved(turned)) == repr(resolved(config))
    assert resolved(config) == config
    for names in (("methods",), ("data", "splits"), ("tables", "table2", "columns")):
        before, after = config, resolved(config)
        for name in names:
            before, after = before[name], after[name]
        assert list(before) == list(after), "the order of these is shown, or means something"


def test_null_removes_an_entry_except_from_what_is_passed_on():
    config = merged()
    config["tables"]["table5"] = config["online"] = config["tables"]["table2"]["columns"]["psoups_style"] = None
    config["training"]["sft"]["max_length"] = config["models"]["judge"]["request"] = None
    found = resolved(config)
    assert "table5" not in found["tables"] and "online" not in found
    assert "psoups_style" not in found["tables"]["table2"]["columns"]
    assert found["training"]["sft"]["max_length"] is None and "request" not in found["models"]["judge"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["tables"]["table2"]["columns"]["alignx_test"]["benchmarks"].append("alignx_test"),
            "non-unique elements",
        ),
        (lambda c: c["methods"]["null"]["benchmarks"].append("alignx_test"), "non-unique elements"),
        (
            lambda c: c["online"]["groups"].update(more=["psoups_style", "alignx_test"]),
            "online.groups.more: 'psoups_style' is already in 'psoups'",
        ),
        (
            lambda c: c["judges"]["gen"].update(sampling=c["evaluation"]),
            "judges.gen.sampling: does not apply to an entry of this kind",
        ),
        (lambda c: c["judges"]["judge"].update(length_normalised=True), "judges.judge"),
        (
            lambda c: c["figures"].update(table2=c["figures"]["figure3"]),
            "tables.table2: another result has this name",
        ),
        (
            lambda c: c["tables"].update(case_study=c["tables"]["table1"]),
            "case_study: another result has this name",
        ),
        (
            lambda c: shown(c, "table3", ["alignxplore"]),
            "tables.table3: too few methods name it in their `tables`: alignxplore",
        ),
        (
            lambda c: c["methods"]["vpl"]["tables"].append("judges"),
            "tables.judges: method 'vpl' writes no descriptions",
        ),
        (
            lambda c: column(c, "psoups reversed").update(change_from="alignx_test, judge"),
            "change_from: 'alignx_test, judge' has other cases: alignx_test",
        ),
        (lambda c: c["figures"]["figure2"]["variants"].append("no_rl"), "'no_rl' is not a GRPO variant"),
        (
            lambda c: c["figures"]["lengths"]["methods"].append("pba"),
            "figures.lengths.methods: 'pba' writes no completion, so it has no length",
        ),
        (
            lambda c: c["methods"]["backbone"].update(label="AlignXplore"),
            "duplicate label 'AlignXplore'; labels must be unique",
        ),
        (
            lambda c: c["methods"]["lminductreason"].pop("benchmarks"),
            "methods.lminductreason.benchmarks: 'alignx_test_ugc' has no pairs to infer from",
        ),
        (
            lambda c: c["methods"]["instruct"].update(paper="Qwen2.5-7B-Instuct"),
            "methods.instruct.paper: no such name 'Qwen2.5-7B-Instuct'; did you mean 'Qwen2.5-7B-Instruct'?",
        ),
        (
            lambda c: column(c, "alignx_test reversed").update(paper="acc_jud/alignx_test_reversed"),
            "paper: no such name 'acc_jud/alignx_test_reversed'; did you mean 'acc_jud/alignx_test_reverse'?",
        ),
        (
            lambda c: c["methods"].update({None: c["methods"].pop("null")}),
            "methods: null is not of type 'string': write it in quotes",
        ),
        (
            lambda c: c["methods"].update({7: c["methods"]["null"]}),
            "methods: 7 is not of type 'string': write it in quotes",
        ),
        (
            lambda c: c["training"]["variants"].update({False: {}}),
            "training.variants: false is not of type 'string': write it in quotes",
        ),
        (lambda c: c["demo"]["models"].update({1: {}}), "demo.models: 1 is not of type 'string': write it in quotes"),
        (
            lambda c: c["models"].update({8: c["models"]["judge"]}),
            "models: 8 is not of type 'string': write it in quotes",
        ),
        (lambda c: c["data"]["psoups"].update({"": c["data"]["psoups"]["style"]}), "data.psoups: "),
        (
            lambda c: c["online"]["groups"].update({2.5: ["alignx_test"]}),
            "online.groups: 2.5 is not of type 'string': write it in quotes",
        ),
        (
            lambda c: c["figures"]["figure3"]["methods"].insert(0, None),
            "figures.figure3.methods.0: null is not of type 'string'",
        ),
        (
            lambda c: c["judges"].update({"../x": c["judges"]["judge"]}),
            "judges: '../x' does not match",
        ),
        (
            lambda c: c["training"].update(launch="acelerate launch"),
            "training.launch: there is no program 'acelerate'; did you mean 'accelerate'?",
        ),
        (lambda c: c["training"].update(launch="nowhere/run"), "there is no program 'nowhere/run'; install it"),
        (lambda c: c["training"].update(launch=""), "training.launch: "),
        (lambda c: c["training"].update(launch="  "), "training.launch: names no program: write python"),
        (
            lambda c: c["training"].update(launch='python "x'),
            "training.launch: cannot be split into words (No closing quotation)",
        ),
        (
            lambda c: c["training"].update(launch="accelerate launch --config_file no.yaml"),
            "training.launch: there is no file 'no.yaml', which --config_file names",
        ),
        (
            lambda c: c["training"].update(launch="accelerate launch --config_file=no.json --debug"),
            "training.launch: there is no file 'no.json', which --config_file names",
        ),
        (
            lambda c: c["training"]["sft"].update(dtype="bfloat16", bf16=True),
            "training.sft.dtype: small steps vanish in bfloat16 weights (variant no_rl); leave it float32 and set bf16",
        ),
        (
            lambda c: c["training"]["variants"]["r_gen"].update(settings={"dtype": "float16", "fp16": True}),
            "training.variants.r_gen.settings.dtype: small steps vanish in float16 weights",
        ),
        (
            lambda c: (c["training"].update(launch=ZERO3), c["training"]["grpo"].update(dtype="auto")),
            "training.grpo.dtype: small steps vanish in auto weights",
        ),
        (
            lambda c: (c["training"].update(launch=ZERO3), c["training"]["sft"].update(lora={"r": 8, "quantize": 4})),
            "training.launch: ZeRO-3 cannot shard the quantised weights of variant no_rl",
        ),
        (
            lambda c: c["training"]["variants"].update(r_gen={"stage": "grpo", "from": "served", "judge": "gen"}),
            "training.variants.r_gen.from: 'served' is served (engine 'openai') and cannot be trained",
        ),
        (lambda c: c.update(seed=2**32), "seed: 4294967296 is greater than the maximum of 4294967295"),
        (lambda c: c["data"].update(seed=2**32), "data.seed: 4294967296 is greater"),
        (lambda c: c["demo"].update(seed=2**32), "demo.seed: 4294967296 is greater"),
        (lambda c: c["evaluation"].update(temperature=float("nan")), "evaluation.temperature: must be a finite number"),
        (
            lambda c: c["judges"]["judge"].update(sampling={**c["evaluation"], "temperature": float("inf")}),
            "judges.judge.sampling.temperature: must be a finite number, not inf",
        ),
        (
            lambda c: c["training"]["variants"]["no_rl"].update({"from": "alignxplore"}),
            "training.variants.no_rl: is made from itself: training.variants.no_rl, which needs"
            " training.variants.alignxplore, which needs training.variants.no_rl;",
        ),
        (lambda c: c["judges"]["judge"].update(model="no_rl"), "is made from itself: "),
        (
            lambda c: c["cold_start"].update(teacher="no_rl"),
            "is made from itself: cold_start, which needs training.variants.no_rl, which needs cold_start;",
        ),
        (
            lambda c: c["demo"]["models"]["base"].update(base="teacher"),
            "demo.models.teacher: is made from itself: demo.models.teacher, which needs demo.models.base, which needs",
        ),
        (
            lambda c: c["demo"]["models"]["base"].update(base="base"),
            "demo.models.base: is made from itself: demo.models.base, which needs demo.models.base;",
        ),
        (lambda c: c["models"]["judge"].update(path=""), "models.judge.path: "),
        (lambda c: c["models"]["judge"].update(path="~/models/x"), "models.judge.path: ~ is not expanded"),
        (
            lambda c: c["models"]["judge"].update(path="my/own/model"),
            "models.judge.path: there is no directory 'my/own/model', and no rule makes it; a model of the hub is NAME",
        ),
        (lambda c: c["models"]["judge"].update(path="README.md"), "there is no directory 'README.md'"),
        (lambda c: c["models"]["judge"].update(path="models/demo/jugde"), "there is no directory 'models/demo/jugde'"),
        (
            lambda c: c["models"]["judge"].update(path="models/demo/judge/"),
            "models.judge.path: write 'models/demo/judge' instead of 'models/demo/judge/'",
        ),
        (
            lambda c: c["models"]["judge"].update(path="./models/demo/judge"),
            "models.judge.path: write 'models/demo/judge' instead of './models/demo/judge'",
        ),
        (lambda c: c.update(journal=""), "journal: "),
        (lambda c: c.update(journal="README.md"), "journal: 'README.md' is a file; name a directory"),
        (lambda c: c.update(journal="README.md/answers"), "journal: 'README.md' is a file"),
        (
            lambda c: c["benchmarks"].update(turned={"reverse_of": "alignx_test_ugc"}),
            "benchmarks.turned.reverse_of: 'alignx_test_ugc' has comments, which cannot be reversed",
        ),
        (
            lambda c: c["benchmarks"]["alignx_test_2"].update(signals=4),
            "benchmarks.alignx_test_2.signals: must be fewer than the 4 of every case (data.refine.history), not 4",
        ),
        *(
            (lambda c, entry=entry: c["benchmarks"].update(flow={"chunk": 2, **entry}), f"benchmarks.flow.{message}")
            for entry, message in (
                ({"streamed_of": "alignx_test", "chunk": 5}, "chunk: must be at most the 4 signals of every case"),
                ({"streamed_of": "alignx_tset"}, "streamed_of: no such name 'alignx_tset'"),
                ({"streamed_of": "alignx_test_reverse"}, "streamed_of: 'alignx_test_reverse' is itself made from"),
                (
                    {"streamed_of": "alignx_test", "drift": {"at": 3, "dimensions": 1}},
                    "drift.at: is chunk 3, but every case has 2",
                ),
                (
                    {"streamed_of": "alignx_test_ugc", "drift": {"at": 2, "dimensions": 1}},
                    "drift: 'alignx_test_ugc' has comments, which cannot drift",
                ),
                (
                    {"streamed_of": "alignx_test", "chunk": 4, "noise": {"share": 1, "place": "after"}},
                    "noise.place: 'after' needs a second chunk, but every case has 1",
                ),
            )
        ),
        (
            lambda c: (
                c["data"].pop("wording"),
                c["benchmarks"].update(
                    flow={"streamed_of": "alignx_test", "chunk": 2, "drift": {"at": 2, "dimensions": 1}}
                ),
            ),
            "benchmarks.flow needs the key 'data.wording'",
        ),
        (
            lambda c: c["benchmarks"].update(flow={"streamed_of": "alignx_test"}),
            "benchmarks.flow: 'chunk' is a dependency of 'streamed_of'",
        ),
        (
            lambda c: c["benchmarks"].update(flow={"split": "test", "noise": {"share": 1, "place": "after"}}),
            "benchmarks.flow: 'streamed_of' is a dependency of 'noise'",
        ),
        (lambda c: c["tables"]["table2"].update(compare_with="teecher"), "tables.table2.compare_with: no such name"),
        (lambda c: c["tables"]["table2"].update(compare_with="r_gen"), "tables.table2.compare_with: no such name"),
        (lambda c: c["methods"]["golden"]["tables"].append("table9"), "methods.golden.tables: no such name 'table9'"),
        (lambda c: c["methods"]["golden"]["tables"].append("table1"), "'table1' lists benchmarks, not methods"),
        (lambda c: c["methods"]["pba"]["tables"].append("validity"), "'validity' lists judges, not methods"),
        (lambda c: c["methods"]["shuffled"].update(kind="liked"), "tables.validity: needs a method of kind 'shuffled'"),
        (
            lambda c: c["tables"]["validity"].update(benchmarks=["psoups_style"]),
            "tables.validity.judges: 'judge2' judges none of the table's benchmarks",
        ),
        (
            lambda c: c["tables"]["validity"]["benchmarks"].append("alignx_test_ugc"),
            "methods.opposite.benchmarks, needed by tables.validity: no such name 'alignx_test_ugc'",
        ),
        (lambda c: c["tables"]["table3"].update(compare_with="golden"), "tables.table3.compare_with: does not apply"),
        (lambda c: c["methods"]["pba"].update(sampling=c["evaluation"]), "methods.pba.sampling: does not apply"),
        (lambda c: c["models"]["judge"].update(run={"retries": 2}), "models.judge.run.retries: does not apply"),
        (lambda c: c["training"].update(run={"learning_rate": 1}), "training.run.learning_rate: unknown key"),
        (lambda c: c.update(published="nowhere.csv"), "published: there is no file 'nowhere.csv'"),
        (lambda c: c.update(published="resources/demo/lexicon.csv"), "lexicon.csv: missing column column, method"),
    ],
)
def test_what_would_mislead_is_refused(change, message):
    config = merged()
    config["models"]["served"] = {"engine": "openai", "path": "served"}
    change(config)
    with pytest.raises(UserError, match="^config: ") as told:
        check_config(config, CONFIG / "schema.yaml")
    assert any(message in line for line in str(told.value).splitlines())


@pytest.mark.parametrize(
    ("engine", "key", "value", "message"),
    [
        ("openai", "key_env", "hidden-1", "must be the name of an environment variable"),
        ("openai", "key_env", 12345678, "must be the name of an environment variable"),
        ("openai", "base_url", "https://me:hidden-1@host/v1", "without user, password or query"),
        ("openai", "base_url", "https://hidden-1@host", "without user, password or query"),
        ("openai", "base_url", "https://host/v1?key=hidden-1", "without user, password or query"),
        ("openai", "base_url", "host/v1#hidden-1", "without user, password or query"),
        ("vllm", "base_url", "https://me:hidden-1@host/v1", "does not apply to an entry of this kind"),
    ],
)
def test_what_may_be_a_secret_is_not_told(engine, key, value, message):
    config = merged()
    config["models"]["served"] = {
        "engine": engine,
        "path": "served",
        **({"run": {key: value}} if key == "key_env" else {key: value}),
    }
    with pytest.raises(UserError, match=rf"models.served.(run.)?{key}: ") as told:
        check_config(config, CONFIG / "schema.yaml")
    assert message in str(told.value)
    assert "hidden" not in str(told.value) and "1234" not in str(told.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["models"].update(served={"engine": "openai", "path": "/srv/x", "base_url": "http://[::1]:8000/v1"}),
        lambda c: (c["training"].update(launch=ZERO3), c["training"]["sft"].update(dtype="bfloat16", bf16=True)),
        lambda c: c["training"]["sft"].update(dtype="bfloat16", bf16=True, deepspeed="zero3.json"),
        lambda c: c["training"]["sft"].update(bf16=True),
        lambda c: c["training"].update(launch="deepspeed --num_gpus 8"),
        lambda c: c["models"]["instruct"].update(path="gpt2"),
        lambda c: c["models"]["instruct"].update(path="resources"),
        lambda c: c["benchmarks"].update(few={"truncation_of": "psoups_style", "signals": 9}),
        lambda c: c.update(seed=2**32 - 1, journal="new/place"),
    ],
)
def test_what_a_run_can_use_is_accepted(change):
    config = merged()
    change(config)
    check_config(config, CONFIG / "schema.yaml")


def on_given(form: str | None, *kinds: str) -> dict:
    """An evaluation on a split of this form alone, by methods of these kinds."""
    config = merged("evaluate")
    update_config(config, MINE)
    config["data"] = {
        "splits": {"mine": {"source": "README.md", **({"form": form} if form else {})}},
        "max_characters": 10,
        "max_reject_share": 0,
    }
    config["benchmarks"] = {"mine": {"split": "mine"}}
    config["tables"].pop("validity")
    thresholds = {"kind": "pba", "upper": 0.6, "lower": 0.4}
    own = {
        "pba": {**thresholds, "model": "model"},
        "annotated": {**thresholds, "scores": "annotations"},
        "streamed": {"kind": "model", "model": "model", "reasoning": True, "streaming": {"chunk": 4}},
    }
    config["methods"] = {
        kind: {"label": kind, "kind": kind, "tables": ["accuracy"], **own.get(kind, {})} for kind in kinds
    }
    return config


def test_annotations_take_the_place_of_a_model():
    config = merged()
    config["methods"]["pba"].update(scores="annotations")
    assert "methods.pba.model: does not apply to an entry of this kind" in mistakes(config)
    config["methods"]["pba"].pop("model")
    assert mistakes(config) == ""
    config["methods"]["pba"].pop("scores")
    assert "methods.pba: 'model' is a required property" in mistakes(config)


def mistakes(config: dict) -> str:
    """What is wrong with a configuration; empty if nothing is."""
    try:
        check_config(config, CONFIG / "schema.yaml")
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("form", "lacks", "message"),
    [
        ("streams", ["opposite"], "methods.opposite.benchmarks: 'mine' has no directions (form 'streams')"),
        ("pairs", ["opposite"], "methods.opposite.benchmarks: 'mine' has no directions (form 'pairs')"),
        ("psoups", ["opposite"], "methods.opposite.benchmarks: 'mine' has no directions (form 'psoups')"),
        ("rl", ["opposite"], "methods.opposite.benchmarks: 'mine' has no directions (form 'rl')"),
        ("rl", ["golden"], "methods.golden.benchmarks: 'mine' has no golden preferences (form 'rl')"),
        ("rl", ["shuffled"], "methods.shuffled.benchmarks: 'mine' has no golden preferences (form 'rl')"),
        ("rl", ["signals"], "methods.signals.benchmarks: 'mine' has a rendered prompt instead of signals (form 'rl')"),
        (
            "rl",
            ["streamed"],
            "methods.streamed.benchmarks: 'mine' has a rendered prompt instead of signals (form 'rl')",
        ),
        ("rl", ["liked"], "methods.liked.benchmarks: 'mine' has a rendered prompt instead of signals (form 'rl')"),
        ("alignx", ["golden"], "methods.golden needs the key 'data.wording'"),
        ("alignx", ["opposite"], "methods.opposite needs the key 'data.wording'"),
        ("pairs", ["annotated"], "methods.annotated.benchmarks: 'mine' has no annotated signals (form 'pairs')"),
        ("alignx", ["annotated"], "methods.annotated needs the key 'data.wording'"),
        ("test", ["pba"], "methods.pba needs the key 'data.wording'"),
        ("cold_start", ["none"], "benchmarks.mine: the split has demonstrations (form 'cold_start')"),
    ],
)
def test_what_a_given_split_lacks_is_told_where_its_form_is_named(form, lacks, message):
    assert message in mistakes(on_given(form, *lacks))


@pytest.mark.parametrize(
    ("form", "kinds"),
    [
        ("pairs", ("none", "signals", "liked", "golden", "shuffled")),
        ("psoups", ("none", "signals", "liked", "golden", "shuffled")),
        ("test", ("none", "signals", "golden", "opposite", "shuffled")),
        ("rl", ("none",)),
        ("alignx", ("none", "signals", "liked")),
        (None, ("none", "signals", "liked", "golden", "opposite", "shuffled")),
    ],
)
def test_methods_that_need_no_directions_need_no_wording_and_no_raw_alignx(form, kinds):
    assert mistakes(on_given(form, *kinds)) == ""


def given(c: dict, name: str, form: str) -> None:
    c["data"]["splits"][name] = {"source": "README.md", "form": form}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: given(c, "cold", "pairs"),
            "cold_start: data.splits.cold has no directions (form 'pairs'), from which the teacher's key dimensions",
        ),
        (
            lambda c: (given(c, "mine", "pairs"), c["cold_start"].update(streaming={"split": "mine"})),
            "cold_start.streaming.split: data.splits.mine has no directions (form 'pairs')",
        ),
        (
            lambda c: c["cold_start"]["streaming"].update(teacher="techer"),
            "cold_start.streaming.teacher: no such name 'techer'",
        ),
        (
            lambda c: c["cold_start"].update(streaming={"split": "colt"}),
            "cold_start.streaming.split: no such name 'colt'",
        ),
        (
            lambda c: c["cold_start"].pop("streaming"),
            "training.variants.updates needs the key 'cold_start.streaming'",
        ),
        (
            lambda c: (
                c["prompts"].pop("update"),
                given(c, "mine", "cold_start"),
                c["training"]["variants"]["no_rl"].update(data="data/splits/mine.parquet"),
            ),
            "training.variants.no_rl needs the key 'prompts.update'",
        ),
        (
            lambda c: (c["prompts"].pop("update"), c["cold_start"].update(streaming={"split": "cold"})),
            "cold_start.streaming needs the key 'prompts.update'",
        ),
        (
            lambda c: given(c, "rl", "cold_start"),
            "training.variants.alignxplore.data: needs examples, but data.splits.rl has form 'cold_start'",
        ),
        (lambda c: given(c, "rl", "rl"), "methods.vpl: data.splits.rl has no pairs to learn from (form 'rl')"),
        (
            lambda c: (
                given(c, "mine", "rl"),
                c["training"]["variants"]["no_rl"].update(data="data/splits/mine.parquet"),
            ),
            "no_rl.data: needs demonstrations (form 'cold_start'), but data.splits.mine has form 'rl'",
        ),
        (
            lambda c: c["training"]["variants"]["no_rl"].update(data="data/splits/cold.parquet"),
            "training.variants.no_rl.data: needs demonstrations, but data.splits.cold has examples",
        ),
        (
            lambda c: (
                given(c, "mine", "pairs"),
                c["benchmarks"].update(alignx_test={"split": "mine"}),
                c["figures"]["dimensions"].update(benchmarks=["alignx_test"]),
            ),
            "figures.dimensions.by: none of its benchmarks has directions",
        ),
        (
            lambda c: (
                given(c, "mine", "pairs"),
                c["benchmarks"].update(mine={"split": "mine"}, turned={"reverse_of": "mine"}),
            ),
            "methods.golden.benchmarks: 'turned' has no golden preferences (form 'pairs')",
        ),
        (
            lambda c: (given(c, "mine", "rl"), c["benchmarks"].update(alignx_test={"split": "mine"})),
            "benchmarks.alignx_test_reverse.reverse_of: 'alignx_test' has a rendered prompt instead of signals",
        ),
        (
            lambda c: (
                given(c, "mine", "pairs"),
                c["benchmarks"].update(
                    mine={"split": "mine"},
                    flow={"streamed_of": "mine", "chunk": 2, "drift": {"at": 2, "dimensions": 1}},
                ),
            ),
            "benchmarks.flow.drift: 'mine' has no directions (form 'pairs'), so none can flip",
        ),
        (
            lambda c: (
                given(c, "mine", "rl"),
                c["benchmarks"].update(mine={"split": "mine"}, flow={"streamed_of": "mine", "chunk": 2}),
            ),
            "benchmarks.flow.streamed_of: 'mine' has a rendered prompt instead of signals",
        ),
        (
            lambda c: (
                given(c, "mine", "streams"),
                c["benchmarks"].update(mine={"split": "mine"}, flow={"streamed_of": "mine", "chunk": 2}),
            ),
            "benchmarks.flow.streamed_of: 'mine' has the steps of streams already",
        ),
        (
            lambda c: (
                given(c, "mine", "pairs"),
                c["data"]["splits"]["mine"].update(chunk=2),
                c["benchmarks"].update(mine={"split": "mine"}, few={"truncation_of": "mine", "signals": 1}),
            ),
            "benchmarks.few.truncation_of: 'mine' has the steps of streams already",
        ),
        (
            lambda c: (given(c, "mine", "rl"), c["data"]["splits"]["mine"].update(chunk=2)),
            "data.splits.mine.chunk: does not apply to the form 'rl', whose signals are a rendered prompt",
        ),
        (
            lambda c: c["data"]["splits"]["test"].update(chunk=2),
            "data.splits.test.chunk: does not apply to an entry of this kind",
        ),
        (lambda c: c["data"].pop("alignx"), "data.splits.cold needs the key 'data.alignx.sources'"),
        (
            lambda c: c["data"]["splits"]["test"].update(source="README.md"),
            "data.splits.test.share: does not apply to an entry of this kind",
        ),
        (
            lambda c: c["data"]["splits"].update(mine={"form": "pairs"}),
            "data.splits.mine: 'size' is a required property",
        ),
    ],
)
def test_what_given_splits_do_not_have_is_told_before_any_job(change, message):
    config = merged()
    change(config)
    assert message in mistakes(config)


def test_models_of_the_hub_at_no_revision_are_named(tmp_path):
    lora = {"peft_type": "LORA", "base_model_name_or_path": "owner/base", "revision": None}
    (tmp_path / "adapter_config.json").write_text(json.dumps(lora))
    (tmp_path / "adapter_model.safetensors").touch()
    models = {
        "made": {"engine": "transformers", "path": "models/demo/judge"},
        "there": {"engine": "vllm", "path": "resources"},
        "served": {"engine": "openai", "path": "gpt"},
        "pinned": {"engine": "vllm", "path": "owner/model", "revision": "abc"},
        "hub": {"engine": "vllm", "path": "owner/model"},
        "adapter": {"engine": "vllm", "path": str(tmp_path)},
    }
    assert unpinned_models({"models": models}) == ["hub", "adapter"]


def test_text_of_the_command_line_becomes_numbers_booleans_and_null():
    given = {"a": "5", "b": {"c": "0.5", "d": ["true", "1", "x"]}, "e": "null", "f": 3}
    assert typed(given) == {"a": 5, "b": {"c": 0.5, "d": [True, 1, "x"]}, "e": None, "f": 3}
    for text in ("models/m", "2025-01-01", "[open", "- a", "@"):
        assert typed({"a": text}) == {"a": text}
