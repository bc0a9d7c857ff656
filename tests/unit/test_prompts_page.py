"""docs/prompts.md shows every template of ours as it is rendered, with the variables that it has."""

import re
from pathlib import Path

import pytest
import yaml
from alignxplore.engines.tokens import ChatTokenizer
from alignxplore.formats import parse_completion
from alignxplore.judging.verdicts import exact_selection, parse_selection
from alignxplore.prompts import VARIABLES, Prompt, Templates, strip_markers
from alignxplore.workflow.config_checks import check_config
from configs import CONFIG, merged
from snakemake.utils import update_config
from transformers import AutoTokenizer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/prompts.md").read_text(encoding="utf-8")
SHOWN = dict(re.findall(r"^<!-- ([\w/ ]+) -->\n```\n(.*?)\n```$", PAGE, re.DOTALL | re.MULTILINE))
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]

POST = "What shall I cook?"
PAIR = {"prompt": POST, "chosen": "Soup. Here is why it works.", "rejected": "Anything you like!"}
COMMENT = {"prompt": "Is tea healthy?", "comment": "Where is the evidence?"}
CASE = {"pairs": [PAIR], "ugc": [COMMENT]}
KNOWN = "Likes explanations."
DIMENSIONS = ["Knowledge", "Humor"]


def templates(directory: str) -> Templates:
    files = (ROOT / "resources/prompts" / directory).glob("*.jinja")
    return Templates(**{file.stem: file for file in files if file.stem != "conversation"})


def shown(prompt: Prompt) -> str:
    """A prompt as the page shows it: each turn under its role."""
    turns = {"system": prompt.system, "user": prompt.user, "assistant": prompt.prefill}
    return "\n\n".join(f"[{role}]\n{strip_markers(text).strip()}" for role, text in turns.items() if text)


def rendered(tokenizer) -> dict[str, str]:
    """Everything that the page shows."""
    found = {}
    for name, own in {"paper": templates("paper"), "short": templates(".")}.items():
        judged = (POST, KNOWN, PAIR["chosen"], PAIR["rejected"])
        found |= {
            f"{name}/preference": own.preference(CASE),
            f"{name}/preference for the teacher": own.preference(CASE, DIMENSIONS),
            f"{name}/concise": own.concise(CASE),
            f"{name}/update": own.preference(CASE, template="update", past=KNOWN),
            f"{name}/update of nothing": own.preference(CASE, template="update"),
            f"{name}/judge": own.judge(*judged),
            f"{name}/judge that writes": own.judge(*judged, written=True),
            f"{name}/respond": own.respond(POST, KNOWN),
        }
    found["paper/untrained"] = templates("paper").preference(CASE, DIMENSIONS, "untrained")
    found["short/propose_rule"] = own.propose_rule([PAIR])
    found["short/refine_rule"] = own.refine_rule(KNOWN, [PAIR], [PAIR])
    found["short/score_dimension"] = own.score_dimension(PAIR, "likes humor", "dislikes humor")
    # A judge that writes gets the same prompt in the paper's structure, without the beginning of an answer.
    assert found.pop("paper/judge that writes").user == found["paper/judge"].user
    tokenizer.bos_token = "<|endoftext|>"
    chat = ChatTokenizer(tokenizer, str(ROOT / "resources/prompts/paper/conversation.jinja"))
    framed = chat.decode(chat.encode(Prompt("..."))).replace("<|endoftext|>", "[bos]")
    return {**{name: shown(prompt) for name, prompt in found.items()}, "paper/conversation": framed}


@pytest.fixture(scope="module")
def prompts(tiny_model) -> dict[str, str]:
    return rendered(AutoTokenizer.from_pretrained(tiny_model))


def test_the_page_shows_what_is_rendered(prompts):
    assert set(prompts) == set(SHOWN)
    for name, text in prompts.items():
        assert SHOWN[name] == text, name


def test_every_template_of_ours_is_shown():
    files = [file.relative_to(ROOT / "resources/prompts") for file in (ROOT / "resources/prompts").rglob("*.jinja")]
    named = {name.partition(" ")[0].replace("short/", "") for name in SHOWN}
    assert {str(file.with_suffix("")) for file in files} == named


def test_the_variables_of_each_template_are_listed():
    listed = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in ROWS if row[0].strip("`") in VARIABLES}
    assert listed == {name: set(variables) for name, variables in VARIABLES.items()}


def test_what_the_paper_templates_ask_for_is_what_is_read():
    own = templates("paper")
    answered = strip_markers(own.judge(POST, KNOWN, "a", "b", written=True).user)
    (example,) = re.findall(r'^\{"selection".*\}$', answered, re.MULTILINE)
    assert exact_selection(example) == parse_selection(example) == "B"
    asked = own.preference(CASE).user
    assert "<answer> </answer>" in asked and "<answer>" not in own.preference(CASE, None, "untrained").user
    assert parse_completion("<think>r</think> <answer> d </answer>", "stop").format_ok


@pytest.mark.parametrize("example", re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
def test_an_example_goes_over_the_paper(example, tmp_path, monkeypatch):
    """With files of the authors' text where the example names them."""
    monkeypatch.chdir(ROOT)
    config = merged("paper")
    for file in re.findall(r"mine/(\w+)\.jinja", example):
        (tmp_path / f"{file}.jinja").write_text((ROOT / f"resources/prompts/paper/{file}.jinja").read_text())
    update_config(config, yaml.safe_load(example.replace("mine/", f"{tmp_path}/")))
    check_config(config, CONFIG / "schema.yaml")
