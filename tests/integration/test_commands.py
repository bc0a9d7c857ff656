"""`python -m alignxplore`, called as users call it."""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import alignxplore.__main__ as commands
import pytest
from alignxplore import engines, signals
from alignxplore.engines import Completion, Sampling
from alignxplore.engines.journal import CALL, Journal
from alignxplore.errors import UserError
from alignxplore.formats import ANSWER_END
from alignxplore.prompts import strip_markers
from alignxplore.workflow.provenance import sidecar

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
TEXT = {"capture_output": True, "text": True}


@pytest.fixture
def run(tmp_path):
    def run(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "alignxplore", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
        return subprocess.run(command, cwd=tmp_path, env=environment, input=text, capture_output=True, text=True)

    return run


PAIR = {"prompt": "Any advice?", "chosen": "A quick joke.", "rejected": "A passport."}
COMMENT = {"prompt": "travel", "comment": "Answer in a few words"}


def ran(result) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_preferences_of_one_user(run, tiny_model, tmp_path):
    (tmp_path / "signals.json").write_text(json.dumps([PAIR, COMMENT]))
    command = ["infer", "--model", str(tiny_model), "--max-new-tokens", "12", "--json"]
    found = json.loads(ran(run(*command, "signals.json")))
    assert set(found) == {"reasoning", "preference", "format_ok", "finish_reason"}
    same = json.dumps({"pairs": [PAIR], "ugc": [COMMENT]})
    assert json.loads(ran(run(*command, "-", text=same))) == found
    shown = ran(run(*command[:-1], "signals.json"))
    assert shown == "\n\n".join(filter(None, (found["reasoning"], found["preference"]))) + "\n"
    with_mark = "\ufeff" + same
    (tmp_path / "marked.json").write_text(with_mark, encoding="utf-8")
    assert ran(run(*command[:-1], "marked.json")) == ran(run(*command[:-1], "-", text=with_mark)) == shown


@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_a_prompt_is_answered_without_noise_or_a_home_directory(tiny_model, tmp_path, home):
    (tmp_path / "signals.json").write_text(json.dumps([PAIR]))
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "HF_HOME")}
    environment |= {"PYTHONPATH": str(SCRIPTS)} | ({"HOME": home} if home else {})
    command = [sys.executable, "-m", "alignxplore", "infer", "--model", str(tiny_model), "--max-new-tokens", "4"]
    result = subprocess.run([*command, "signals.json"], cwd=tmp_path, env=environment, **TEXT)
    assert result.returncode == 0, result.stderr
    assert not re.search(r"Traceback|it/s|%\|", result.stderr)


class Parrot:
    """A backend that always gives the same answer, and records what it was asked."""

    def __init__(self, text: str, finish_reason: str):
        self.completion = Completion(text, finish_reason, 9, 12)
        self.asked: list = []

    def generate(self, prompts, seeds, sampling, done=()):
        self.asked.append((prompts, sampling))
        yield list(enumerate([self.completion] * len(prompts)))


@pytest.fixture
def says(tmp_path, monkeypatch, capsys):
    """Runs `infer` with a model that answers `text`; returns stdout, stderr and the model."""

    def says(text: str, finish_reason: str, *options: str):
        parrot = Parrot(text, finish_reason)
        monkeypatch.setattr(engines, "start", lambda entry: parrot)
        (tmp_path / "signals.json").write_text(json.dumps([PAIR]))
        monkeypatch.setattr(
            sys, "argv", ["alignxplore", "infer", "--model", str(tmp_path), *options, str(tmp_path / "signals.json")]
        )
        commands.main()
        return *capsys.readouterr(), parrot

    return says


GOOD = "<think>r</think><answer>d</answer>"


@pytest.mark.parametrize(
    ("text", "finish_reason", "options", "shown", "warning"),
    [
        (GOOD, "stop", (), "r\n\nd\n", None),
        ("likes jokes", "stop", (), "likes jokes\n", "not in the format"),
        (GOOD, "length", ("--max-new-tokens", "12"), "r\n\nd\n", "cut off at 12 tokens: raise --max-new-tokens"),
        (GOOD, "length", ("--max-new-tokens", "13"), "r\n\nd\n", "cut off at 12 tokens: the model's context is full"),
        ("likes jokes", "stop", ("--concise",), "likes jokes\n", None),
        (" ", "stop", ("--concise",), "\n", "the answer is empty"),
        ("likes jokes", "length", ("--concise", "--max-new-tokens", "12"), "likes jokes\n", "cut off at 12 tokens"),
    ],
)
def test_infer_warns_of_an_invalid_answer(says, text, finish_reason, options, shown, warning):
    out, err, parrot = says(text, finish_reason, *options)
    assert out == shown
    assert (warning in err) if warning else ("WARNING" not in err)
    (((prompt,), _),) = parrot.asked
    assert ("<think>" in prompt.user) == ("--concise" not in options)
    out, err, _ = says(text, finish_reason, "--json", *options)
    assert json.loads(out)["finish_reason"] == finish_reason
    assert json.loads(out)["format_ok"] == (warning is None)
    assert (warning in err) if warning else ("WARNING" not in err)


def test_sampling_options_default_to_the_papers(says):
    ((_, sampling),) = says(GOOD, "stop")[2].asked
    assert sampling == Sampling(0.9, 0.95, 10, 2048, 1, (ANSWER_END,))
    options = ["--temperature", "0", "--top-p", "0.5", "--top-k", "0", "--max-new-tokens", "7", "--seed", "3"]
    ((_, sampling),) = says(GOOD, "stop", *options)[2].asked
    assert sampling == Sampling(0.0, 0.5, 0, 7, 3, (ANSWER_END,))


@pytest.fixture
def updates(tmp_path, monkeypatch, capsys):
    """Runs `infer --state user.json` on signals with a model that answers `text`; returns stdout, stderr, the model."""

    def updates(text: str, found: list, *options: str, finish_reason: str = "stop", model: str = "one"):
        parrot = Parrot(text, finish_reason)
        monkeypatch.setattr(engines, "start", lambda entry: parrot)
        (tmp_path / "new.json").write_text(json.dumps(found))
        (tmp_path / model).mkdir(exist_ok=True)
        (tmp_path / model / "config.json").write_text(model)
        arguments = ["infer", "--model", str(tmp_path / model), "--state", str(tmp_path / "user.json"), *options]
        monkeypatch.setattr(sys, "argv", ["alignxplore", *arguments, str(tmp_path / "new.json")])
        commands.main()
        return *capsys.readouterr(), parrot

    return updates


def pairs(*names: str) -> list[dict]:
    return [{**PAIR, "prompt": name} for name in names]


def said(text: str) -> str:
    return f"<think>r</think><answer>{text}</answer>"


def asked(parrot: Parrot) -> list[str]:
    return [strip_markers(prompt.user) for prompts, _ in parrot.asked for prompt in prompts]


def test_a_state_is_made_and_brought_up_to_date(updates, tmp_path):
    out, err, parrot = updates(said("Likes long walks."), [*pairs("a"), COMMENT])
    assert out == "Likes long walks.\n" and "WARNING" not in err
    (prompt,) = asked(parrot)
    assert "Known so far: nothing." in prompt and "Post: a" in prompt and COMMENT["comment"] in prompt
    out, err, parrot = updates(said("Likes quiet walks."), pairs("b"))
    (prompt,) = asked(parrot)
    assert "Known so far: Likes long walks." in prompt and "Post: b" in prompt and "Post: a" not in prompt
    assert out == "Likes quiet walks.\n\nChanged by 1 new signals, 3 in all:\nLikes [-long-] {+quiet+} walks.\n"
    state = json.loads((tmp_path / "user.json").read_text())
    assert (state["version"], state["description"], state["signals"]) == (1, "Likes quiet walks.", 3)
    assert len(set(state["seen"])) == 3 and state["model"] == str(tmp_path / "one")


def test_a_state_as_json(updates):
    updates(said("Likes long walks."), pairs("a"))
    out, _, _ = updates(said("Likes walks, and tea."), pairs("b", "c"), "--json")
    assert json.loads(out) == {
        "preference": "Likes walks, and tea.", "signals": 3, "new": 2, "added": [", and tea"], "dropped": ["long"],
    }  # fmt: skip


def test_signals_that_were_sent_before_are_left_out(updates, tmp_path):
    updates(said("d1"), pairs("a", "b"))
    before = (tmp_path / "user.json").read_bytes()
    out, err, parrot = updates(said("d2"), pairs("b", "a"))
    assert out == "d1\n" and parrot.asked == [] and (tmp_path / "user.json").read_bytes() == before
    assert "2 of 2 signals were read before; leaving them out" in err
    out, err, parrot = updates(said("d2"), pairs("b", "c", "c"))
    (prompt,) = asked(parrot)
    assert "Post: c" in prompt and prompt.count("Post:") == 1 and "2 of 3 signals were read before" in err


def test_more_signals_than_a_prompt_should_hold_are_read_in_chunks(updates, tmp_path):
    _, _, parrot = updates(said("d"), pairs(*"abcde"), "--chunk", "2")
    assert [prompt.count("Post:") for prompt in asked(parrot)] == [2, 2, 1]
    assert [f"Known so far: {past}" in text for past, text in zip(("nothing.", "d", "d"), asked(parrot), strict=True)]
    assert json.loads((tmp_path / "user.json").read_text())["signals"] == 5


@pytest.mark.parametrize(
    ("text", "finish_reason", "message"),
    [
        (
            said("d2"),
            "length",
            "a chunk of 2 signals could not be read; they and those after them count as new: the answer was cut off",
        ),
        ("d2", "stop", "count as new: the answer is not in the format"),
        ("", "refused", "count as new: the model refused the prompt"),
    ],
)
def test_an_update_that_fails_leaves_the_state_as_it_was(updates, tmp_path, capsys, text, finish_reason, message):
    updates(said("d1"), pairs("a"))
    before = (tmp_path / "user.json").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        updates(text, pairs("b", "c"), finish_reason=finish_reason)
    assert stopped.value.code == 1 and (tmp_path / "user.json").read_bytes() == before
    assert message in capsys.readouterr().err
    assert updates(said("d3"), pairs("b", "c"))[0].startswith("d3\n")


def test_another_model_goes_on_with_a_warning(updates, tmp_path):
    updates(said("d1"), pairs("a"))
    _, err, _ = updates(said("d2"), pairs("b"), model="two")
    assert f"written by {tmp_path / 'one'}; now updated by another model, {tmp_path / 'two'}" in err
    assert json.loads((tmp_path / "user.json").read_text())["model"] == str(tmp_path / "two")
    assert "another model" not in updates(said("d3"), pairs("c"), model="two")[1]


def test_a_state_of_a_real_model(ending_model, tmp_path, monkeypatch, capsys):
    path, found = tmp_path / "deep/u.json", tmp_path / "new.json"
    options = ["--model", str(ending_model), "--concise", "--max-new-tokens", "200", "--state", str(path)]
    monkeypatch.setattr(sys, "argv", ["alignxplore", "infer", *options, "--json", str(found)])
    for new in ([PAIR], [PAIR, COMMENT]):
        found.write_text(json.dumps(new))
        commands.main()
        shown, state = json.loads(capsys.readouterr().out), json.loads(path.read_text())
        assert shown["preference"] == state["description"] != ""
        assert (shown["signals"], shown["new"], state["signals"]) == (len(new), 1, len(new))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--temperature", "-1", "-1 is not a number >= 0"),
        ("--temperature", "nan", "nan is not a number >= 0"),
        ("--temperature", "inf", "inf is not a number >= 0"),
        ("--top-p", "0", "0 is not a number in (0, 1]"),
        ("--top-p", "1.5", "1.5 is not a number in (0, 1]"),
        ("--top-k", "-1", "-1 is not an integer >= 0"),
        ("--chunk", "0", "0 is not an integer >= 1"),
        ("--top-k", "1.5", "1.5 is not an integer >= 0"),
        ("--max-new-tokens", "0", "0 is not an integer >= 1"),
        ("--max-new-tokens", "9" * 400, "9" * 400 + " is not an integer >= 1"),
    ],
)
def test_sampling_out_of_range_is_refused(capsys, option, value, message):
    with pytest.raises(SystemExit) as stopped:
        commands.parser().parse_args(["infer", "--model", "m", option, value, "-"])
    assert stopped.value.code == 2
    assert f"argument {option}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ([], "no signals found"),
        (5, "no signals found"),
        ({"pairs": [], "ugc": []}, "no signals found"),
        ({"pairs": 5}, "'pairs' must be a list"),
        ({"pairs": {"prompt": "p"}}, "'pairs' must be a list"),
        ({"pairs": [PAIR], "ugc": "text"}, "'ugc' must be a list"),
        ({"pairs": [PAIR], "comments": []}, "unknown field 'comments'; expected pairs or ugc"),
        ([PAIR, {**PAIR, "chosen": " "}], "item 2: 'chosen' must be a non-empty string"),
        ([COMMENT, {**PAIR, "chosen": 3}, PAIR], "item 2: 'chosen' must be a non-empty string"),
        ([COMMENT, "x"], "item 2: must be an object with prompt, chosen, rejected"),
        ([PAIR, {**PAIR, "comment": "c"}], "item 2: unknown field 'comment'; pairs have prompt, chosen, rejected"),
        ([{**COMMENT, "author": "a"}], "item 1: unknown field 'author'; ugc have prompt, comment"),
        ({"ugc": [COMMENT, {"prompt": "p"}]}, "ugc 2: 'comment' must be a non-empty string"),
        ({"pairs": [PAIR, {**PAIR, "comment": "c"}]}, "pairs 2: unknown field 'comment'"),
        ([{**PAIR, "rejected": "\ud800"}], "item 1: 'rejected' holds a lone surrogate"),
    ],
)
def test_bad_signals_are_named(value, message):
    with pytest.raises(UserError) as refused:
        signals.read_signals(value if isinstance(value, str) else json.dumps(value), "signals.json")
    assert str(refused.value).startswith(f"signals.json: {message}")


def test_signals_of_either_form_keep_their_order():
    second = {**PAIR, "prompt": "Other?"}
    expected = {"pairs": [PAIR, second], "ugc": [COMMENT, COMMENT]}
    assert signals.read_signals(json.dumps([COMMENT, PAIR, second, COMMENT]), "-") == expected
    assert signals.read_signals(json.dumps(expected), "-") == expected
    assert signals.read_signals(json.dumps({"pairs": [PAIR]}), "-") == {"pairs": [PAIR], "ugc": []}


def test_invalid_signals_end_in_one_line(run):
    for text in ("[", json.dumps([{**PAIR, "prompt": "\ud800"}])):
        failed = run("infer", "--model", "nowhere", "-", text=text)
        assert failed.returncode == 1 and "ERROR -: " in failed.stderr and "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nodir", "nodir is neither a directory nor a hub id (OWNER/NAME)"),
        ("a/b/c", "a/b/c is neither a directory nor a hub id (OWNER/NAME)"),
        ("./nowhere", "no such directory: ./nowhere"),
        ('{"engine": "vllm", "path": "nodir"}', "nodir is neither a directory nor a hub id"),
        ('{"engine": "transformers"}', "top level: 'path' is a required property"),
        ('{"engine": "llama", "path": "a/b"}', "engine: 'llama' is not one of"),
        ('{"engine": "transformers", "path": 5}', "path: 5 is not of type 'string'"),
        ('{"engine": "transformers", "path": "a/b", "run": {"batch_token": 5}}', "did you mean 'batch_tokens'?"),
        ('{"engine": "openai", "path": "gpt-4", "key_env": "KEY"}', "key_env: unknown key"),
        (
            '{"engine": "transformers", "path": "a/b", "base_url": "x"}',
            "base_url: does not apply to an entry of this kind",
        ),
        ('{"engine": ', "not valid JSON"),
    ],
)
def test_an_invalid_model_is_refused_before_loading(monkeypatch, model, message):
    monkeypatch.setattr(engines, "load", lambda entry: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match="^--model") as refused:
        commands._engine(argparse.Namespace(model=model))
    assert message in str(refused.value)


SERVED = '{"engine": "openai", "path": "gpt-4", "run": {"key_env": "OPENAI_API_KEY"}}'


@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-7B-Instruct", '{"engine": "openai", "path": "gpt-4"}', SERVED])
def test_hub_ids_and_served_models_need_no_directory(monkeypatch, model):
    monkeypatch.setattr(engines, "load", lambda entry: entry["path"])
    assert commands._engine(argparse.Namespace(model=model)) in ("Qwen/Qwen2.5-7B-Instruct", "gpt-4")


def test_two_responses_under_a_preference(run, tiny_model):
    command = ["judge", "--model", str(tiny_model), "--json", "likes humor", "travel"]
    found = json.loads(ran(run(*command, "a quick joke", "a passport")))
    p = found["p_first"]
    assert found["selected"] == ("first" if p > 0.5 else "second")
    assert json.loads(ran(run(*command, "the same", "the same"))) == {"selected": "tie", "p_first": 0.5}
    swapped = json.loads(ran(run(*command, "a passport", "a quick joke")))["p_first"]
    assert 0 < p < 1 and p == pytest.approx(1 - swapped)
    command.remove("--json")
    assert ran(run(*command, "a quick joke", "a passport")).split()[0] == ("first" if p > 0.5 else "second")
    assert ran(run(*command, "the same", "the same")) == "tie (50.0%)\n"
    failed = run(*command, "a quick joke", "\udcff")
    assert failed.returncode == 1 and "second holds a lone surrogate" in failed.stderr


def test_journal_stats_and_prune(run, tmp_path):
    nothing = run("journal", "stats")
    assert nothing.returncode == 1 and "journal: there is no journal here" in nothing.stderr
    assert "Traceback" not in nothing.stderr
    journal = Journal(tmp_path / "journal")
    call = {"model": "m", "kind": "generate", "hits": 3, "new": 1234, "seconds": 2.5, "hit_tokens": 5, "new_tokens": 7}
    journal.add([("1" * 32, {"model": "m", "finish_reason": "stop"}), ("2" * 32, {"model": "n", "logprobs": [0.5]})])
    journal.add([(CALL, {"call": {**call, "saved_dollars": 0.25, "paid_dollars": 1.5}})])
    del journal
    table = run("journal", "stats").stdout
    row = next(line for line in table.splitlines() if "generate" in line)
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "m", "generate", "1", "1", "1,234", "3", "7", "5", "1.50", "0.25", "2.50", "0.00",
    ]  # fmt: skip
    assert run("journal", "prune", "--keep", "m").stdout == "2 records kept, 1 dropped\n"
    assert run("journal", "prune", "--days", "0").stdout == "0 records kept, 2 dropped\n"


@pytest.fixture
def tree(tmp_path) -> Path:
    """A working directory that runs this workflow."""
    for name in ("config", "resources", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_plan_merges_configuration_files(run, tree):
    (tree / "shards.yaml").write_text("data: {alignx: {shards: 3}}\n")
    text = ran(run("plan", "--configfile", "config/demo.yaml", "shards.yaml", "--", "data/refined.parquet"))
    assert "5 of 5 jobs would run" in text and re.search(r"^refine +3 +unknown", text, re.MULTILINE)
    failed = run("plan", "--configfile", "missing.yaml")
    assert failed.returncode == 1 and "Snakemake cannot plan the workflow" in failed.stderr
    assert "missing.yaml" in failed.stderr and "Traceback" not in failed.stderr


def test_plan_names_old_and_new_values(run, tree):
    refined = "data/refined.parquet"
    before = json.loads(
        ran(subprocess.run([sys.executable, SCRIPTS / "plan_jobs.py", "--", refined], cwd=tree, **TEXT))
    )
    (job,) = [job for job in before["jobs"] if job["rule"] == "gather_refined"]
    record = {"rule": job["rule"], "params": job["params"], "inputs": {}, "account": [], "seconds": 1.0, "outputs": {}}
    (tree / "data").mkdir()
    sidecar(tree / refined).write_text(json.dumps(record))
    (tree / "share.yaml").write_text("data: {max_reject_share: 0.5}\n")
    text = ran(run("plan", "--configfile", "config/demo.yaml", "share.yaml", "--", refined))
    assert "max_reject_share: 0.05 -> 0.5  (gather_refined x1)" in text


def test_plan_takes_values_as_snakemake_does(run, tree):
    refined = "data/refined.parquet"
    text = ran(run("plan", "--config", "data={alignx: {shards: 3}}", "seed=2", "--", refined))
    assert "5 of 5 jobs would run" in text and re.search(r"^refine +3 ", text, re.MULTILINE)
    wrong = run("plan", "--config", "data={alignx: {shards: many}}", "--", refined)
    assert wrong.returncode == 1 and "data.alignx.shards: 'many' is not of type 'integer'" in wrong.stderr
    wrong = run("plan", "--config", "config/demo.yaml", "--", refined)
    assert wrong.returncode == 1 and "name=value" in wrong.stderr and "Traceback" not in wrong.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["plan", "--configf", "config/demo.yaml"],
        ["infer", "--mod", "x", "y.json"],
        ["journal", "stats", "--dir", "journal"],
    ],
)
def test_options_are_not_abbreviated(run, command):
    wrong = run(*command)
    assert wrong.returncode == 2 and "usage:" in wrong.stderr


def test_a_model_that_is_not_there_is_one_line_and_soon_without_a_network(tmp_path):
    (tmp_path / "signals.json").write_text(json.dumps([PAIR]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"  # bound but not listening: refuses connections
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), "HF_ENDPOINT": nobody, "HF_HOME": str(tmp_path)}
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, "-m", "alignxplore", "infer", "--model", "nobody/nothing", "signals.json"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, **TEXT, timeout=40)  # six retries take 48 s
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "ERROR model nobody/nothing cannot be loaded" in line and nobody in line
