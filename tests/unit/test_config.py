"""Configurations that would give a wrong or empty result are refused, by the key that is wrong."""

from pathlib import Path

import pytest
import yaml
from alignxplore.config import check_config, check_published, ordered
from alignxplore.errors import UserError

CONFIG = Path(__file__).parents[2] / "config"


def column(config: dict, name: str) -> dict:
    return next(column for column in config["tables"]["table4"]["columns"] if column["name"] == name)


@pytest.mark.parametrize("name", ["config", "paper", "smollm2"])
def test_our_own_are_accepted(name):
    config = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
    check_config(config, CONFIG / "schema.yaml")
    check_published(config)


def test_equal_settings_stand_in_equal_order():
    text = (CONFIG / "config.yaml").read_text()
    config, turned = yaml.safe_load(text), yaml.safe_load(text)
    turned["evaluation"] = dict(reversed(turned["evaluation"].items()))
    column = turned["tables"]["table2"]["columns"][0]
    turned["tables"]["table2"]["columns"][0] = dict(reversed(column.items()))
    assert repr(turned) != repr(config) and repr(ordered(turned)) == repr(ordered(config))
    assert ordered(config) == config
    assert list(ordered(config)["methods"]) == list(config["methods"]), "the order of rows is shown"
    assert list(ordered(config)["data"]["splits"]) == list(config["data"]["splits"]), "a user belongs to the last"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["tables"]["table2"]["columns"][0]["benchmarks"].append("alignx_test"), "non-unique elements"),
        (lambda c: c["methods"]["null"]["benchmarks"].append("alignx_test"), "non-unique elements"),
        (
            lambda c: c["online"]["groups"].update(more=["psoups_style", "alignx_test"]),
            "online.groups.more: 'psoups_style' is in 'psoups' already",
        ),
        (lambda c: c["judges"]["gen"].update(sampling=c["evaluation"]), "judges.gen"),
        (lambda c: c["judges"]["judge"].update(length_normalised=True), "judges.judge"),
        (
            lambda c: c["figures"].update(table2=c["figures"]["figure3"]),
            "figures.table2: there is another result of this name",
        ),
        (
            lambda c: c["tables"].update(case_study=c["tables"]["table1"]),
            "case_study: there is another result of this name",
        ),
        (lambda c: c["tables"]["table3"].update(methods=["alignxplore"]), "tables.table3.methods"),
        (
            lambda c: c["tables"]["judges"]["methods"].append("vpl"),
            "tables.judges.methods: 'vpl' describes no preferences",
        ),
        (
            lambda c: column(c, "psoups reversed").update(change_from="alignx_test, judge"),
            "change_from: 'alignx_test, judge' has other cases: alignx_test",
        ),
        (lambda c: c["figures"]["figure2"]["variants"].append("no_rl"), "'no_rl' is no reinforcement learning"),
        (
            lambda c: c["figures"]["lengths"]["methods"].append("pba"),
            "figures.lengths.methods: 'pba' writes no completion that has a length",
        ),
        (
            lambda c: c["methods"]["backbone"].update(label="AlignXplore"),
            "methods: label 'AlignXplore' is there twice",
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
        (lambda c: c.update(published="nowhere.csv"), "No such file or directory: 'nowhere.csv'"),
        (lambda c: c.update(published="resources/demo/lexicon.csv"), "lexicon.csv: has no column column, method"),
    ],
)
def test_what_would_mislead_is_refused(change, message):
    # Anchors of the file must not let a change of one entry change another.
    config = yaml.safe_load(yaml.dump(yaml.safe_load((CONFIG / "config.yaml").read_text()), Dumper=Unshared))
    change(config)
    with pytest.raises(UserError, match="^config: ") as told:
        check_config(config, CONFIG / "schema.yaml")
        check_published(config)
    assert message in str(told.value)


class Unshared(yaml.SafeDumper):
    """Writes what stands in several places in each of them."""

    def ignore_aliases(self, data: object) -> bool:
        return True
