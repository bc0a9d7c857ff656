"""The profile knows the rules: what is short is grouped, and every job may have more memory at its next attempt."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROFILE = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
RULES = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
NAMES = re.findall(r"^ *rule (\w+):", RULES, re.MULTILINE)


def test_groups_are_of_rules_that_there_are():
    assert set(PROFILE["groups"]) <= set(NAMES)
    assert set(PROFILE["group-components"]) <= set(PROFILE["groups"].values())
    assert PROFILE["slurm-array-jobs"] in set(NAMES) - set(PROFILE["groups"])


def test_short_jobs_are_grouped():
    short = {name for name in NAMES if re.match("table_|figure_|benchmark_", name)}
    assert short and short <= set(PROFILE["groups"])


def test_every_rule_asks_for_memory_that_grows():
    assert len(re.findall(r"mem_mb=memory\(\d+", RULES)) == len(NAMES) == len(re.findall(r"mem_mb=", RULES))


def test_all_shards_of_the_papers_data_fit_into_the_queue_beside_others():
    """The executor would wait for ever for those that do not."""
    config = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    assert PROFILE["jobs"] >= 2 * config["data"]["alignx"]["shards"]
