"""docs/config.md: its examples plan over the default, and links from it and config/ lead to headings that exist."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from trees import ROOT, copy_workflow, snakemake

PAGE = (ROOT / "docs/config.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
EXAMPLES = [text for language, text in BLOCKS if language == "yaml"]
COMMANDS = [line for language, text in BLOCKS if not language for line in text.splitlines()]
DRY_RUNS = [line for line in COMMANDS if " -n " in line]


def first_key(example: str) -> str:
    """An example's first line, as its test id."""
    return re.sub(r"\W+", "_", example.split("\n", 1)[0]).strip("_")


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the workflow with the example files that a comment in their first line names."""
    tree = copy_workflow(tmp_path_factory.mktemp("config_page"))
    for example in EXAMPLES:
        if name := re.match(r"# (\w+\.yaml)\n", example):
            (tree / name[1]).write_text(example, encoding="utf-8")
    return tree


@pytest.mark.parametrize("example", EXAMPLES, ids=first_key)
def test_an_example_plans_over_the_default(tree, example):
    path = tree / "example.yaml"
    path.write_text(example, encoding="utf-8")
    result = snakemake(tree, "-n", "--configfile", "config/demo.yaml", str(path))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", DRY_RUNS)
def test_a_command_plans(tree, command):
    program, *arguments = shlex.split(command)
    assert program == ".venv/bin/snakemake"
    result = snakemake(tree, *arguments)
    assert result.returncode == 0, result.stderr


def test_every_command_has_a_dry_run_beside_it():
    assert len(DRY_RUNS) >= 2
    assert {line.replace(" --cores 2", " -n") for line in COMMANDS} == set(DRY_RUNS)


def test_the_page_has_every_section_of_the_base():
    sections = yaml.safe_load((ROOT / "config/base.yaml").read_text(encoding="utf-8"))
    assert [name for name in sections if f"`{name}`" not in PAGE] == []


def links() -> list[tuple[str, str, str]]:
    """Links from comments in config/ and from the page itself: file, page and heading."""
    commented = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "config").glob("*.yaml"))}
    link = r"\b(docs/\w+\.md)(?:#([\w-]+))?"
    found = [(name, *place) for name, text in commented.items() for place in re.findall(link, text)]
    own = re.findall(r"\]\((\w*\.?(?:md)?)(?:#([\w-]+))?\)", PAGE)
    return [*found, *(("config.md", f"docs/{page or 'config.md'}", heading) for page, heading in own)]


@pytest.mark.parametrize(("origin", "page", "heading"), links())
def test_a_link_leads_to_a_heading(origin, page, heading):
    titles = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert not heading or heading in anchors
