"""The Slurm profile fits the rules: short jobs are grouped, and every job gets more memory when it is retried."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROFILE = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
RULES = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
PARTS = re.split(r"^ *(?:use rule \w+ as|rule) (\w+)", RULES, flags=re.MULTILINE)
BODIES = dict(zip(PARTS[1::2], PARTS[2::2], strict=True))


def test_groups_name_existing_rules():
    assert set(PROFILE["groups"]) <= set(BODIES)
    assert set(PROFILE["group-components"]) <= set(PROFILE["groups"].values())
    assert PROFILE["slurm-array-jobs"] in set(BODIES) - set(PROFILE["groups"])


def test_short_jobs_are_grouped():
    short = {name for name in BODIES if re.match("table_|figure_|benchmark_", name)}
    assert short and short <= set(PROFILE["groups"])


def test_every_rule_asks_for_memory_that_grows():
    own = {name: body for name, body in BODIES.items() if not body.startswith(" with:")}  # others inherit it
    assert [name for name, body in own.items() if not re.search(r"\*\*needs\(\d+, \d+", body)] == []
    assert not re.search(r"mem_mb=", RULES)


def test_trainings_are_asked_to_stop_while_a_step_can_still_end():
    trainings = [name for name, body in BODIES.items() if "launch=TRAINING" in body]
    assert trainings == ["sft", "grpo"]
    for name in trainings:
        assert "--signal=TERM@600" in PROFILE["set-resources"][name]["slurm_extra"]


def test_all_shards_of_the_papers_data_fit_in_the_queue():
    """The executor waits forever for shards that do not fit."""
    config = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    assert PROFILE["jobs"] >= 2 * config["data"]["alignx"]["shards"]
