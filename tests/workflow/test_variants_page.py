"""The my.yaml of docs/training.md plans the jobs that the page shows."""

import re
from pathlib import Path

import pytest
from trees import copy_workflow, snakemake

PAGE = Path(__file__).parents[2] / "docs/training.md"


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return copy_workflow(tmp_path_factory.mktemp("tree"))


def planned(tree: Path, *arguments: str) -> dict[str, int]:
    """The number of planned jobs of each rule."""
    result = snakemake(tree, "-n", "--configfile", "config/demo.yaml", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return counts((result.stdout + result.stderr).split("Job stats:")[1])


def counts(stats: str) -> dict[str, int]:
    """The counts in a table of job stats, up to its total."""
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", stats.split("\ntotal")[0], re.MULTILINE)}


def test_the_example_of_lora_trains_and_judges_adapters(tree):
    section = re.search(r"^## LoRA\n(.*?)^## ", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
    (example,) = re.findall(r"^```yaml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    (tree / "my.yaml").write_text(example, encoding="utf-8")
    target = planned(tree, "my.yaml", "--", "results/adapters.csv")
    assert (target["sft"], target["grpo"], target["judgements"], target["table_accuracy"]) == (2, 2, 2, 1)


def test_variants_add_the_jobs_that_the_page_shows(tree):
    section = re.search(r"^## Variants\n(.*?)^## ", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
    (example,) = re.findall(r"^```yaml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    (tree / "my.yaml").write_text(example, encoding="utf-8")
    shown = counts(section[section.index("\njob ") :])
    assert shown == {"grpo": 3, "preferences_model": 3, "judgements": 3, "table_accuracy": 1}

    default, more = planned(tree), planned(tree, "my.yaml")
    assert {name: count - default.get(name, 0) for name, count in more.items() if count != default.get(name)} == shown
    assert not set(default) - set(more)
    assert planned(tree, "my.yaml", "--", "results/generations.csv")["table_accuracy"] == 1
