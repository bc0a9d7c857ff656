"""config/paper.yaml cannot run in tests, but its training settings and paper labels can be checked."""

import csv

import pytest
from alignxplore.training.settings import check_settings
from alignxplore.workflow.config import table_methods
from configs import merged
from trl import GRPOConfig, SFTConfig

CONFIG = merged("paper")


@pytest.mark.parametrize(("stage", "kind"), [("sft", SFTConfig), ("grpo", GRPOConfig)])
def test_training_settings_are_known(stage, kind):
    check_settings(CONFIG["training"][stage], kind)


def test_a_step_has_128_prompts_of_4_rollouts():
    grpo = CONFIG["training"]["grpo"]
    rollouts = 8 * grpo["per_device_train_batch_size"] * grpo["gradient_accumulation_steps"]
    assert (rollouts // grpo["num_generations"], grpo["num_generations"]) == (128, 4)


def test_models_that_think_first_are_judges_that_write():
    """The chat templates of QwQ and R1 open the reasoning, so no selection can be read after the prompt."""
    thinking = {"teacher", "judge2", "judge3", "r1_671b", "backbone"}
    judges = CONFIG["judges"]
    reading = {name for name, entry in judges.items() if "sampling" not in entry}
    assert not thinking & {judges[name]["model"] for name in reading}
    assert not thinking & {m["model"] for m in CONFIG["methods"].values() if m["kind"] == "pba"}
    # Only probabilities that were read tell how sure a judge is.
    confidence = [figure["judges"] for figure in CONFIG["figures"].values() if figure.get("by") == "confidence"]
    assert confidence and all(reading.issuperset(names) for names in confidence)


def test_every_published_figure_is_named_as_in_the_resource():
    with open(CONFIG["published"], encoding="utf-8", newline="") as file:
        published = {(row["table"], row["method"], row["column"]) for row in csv.DictReader(file)}
    for name in ("table2", "table4", "table5"):
        methods = [CONFIG["methods"][method] for method in table_methods(CONFIG, name)]
        labels = [method.get("paper", method["label"]) for method in methods]
        columns = [column["paper"] for column in CONFIG["tables"][name]["columns"].values() if "paper" in column]
        missing = {(name, label, column) for label in labels for column in columns} - published
        assert not missing
