"""Models are asked only about cases that a result shows."""

import copy

import pytest
from alignxplore.workflow.config import completed
from alignxplore.workflow.shown import described, judged
from configs import merged


@pytest.fixture(scope="module")
def config():
    return completed(merged())


def test_a_judge_decides_what_a_table_or_figure_shows(config):
    found = judged(config)
    table2 = {"alignx_test", "psoups_expertise", "psoups_informativeness", "psoups_style"}
    assert found["judge", "no_rl"] == table2
    assert found["judge", "r_gen"] == table2  # Table 5 pools P-SOUPS
    assert {"alignx_test_ugc", "alignx_test_reverse", "psoups_style_reverse"} < found["judge", "alignxplore"]
    assert found["judge2", "alignxplore"] == {"alignx_test"}
    assert ("judge2", "no_rl") not in found


def test_an_entry_limits_what_is_shown(config):
    limited = copy.deepcopy(config)
    limited["methods"]["teacher"]["benchmarks"] = ["alignx_test"]
    limited["judges"]["judge"]["benchmarks"] = ["alignx_test", "psoups_style"]
    found = judged(limited)
    assert found["judge", "teacher"] == {"alignx_test"}
    assert found["judge", "no_rl"] == {"alignx_test", "psoups_style"}


@pytest.mark.parametrize(
    ("key", "value", "gained"),
    [
        ("tables", {"t": {"kind": "win_rates", "title": "T"}}, {"alignx_test", *"ab"}),
        ("figures", {"f": {"kind": "words", "title": "F", "benchmark": "c", "methods": ["m"]}}, {"c"}),
        ("case_study", {"benchmark": "c", "judge": "j", "methods": ["m"], "cases": 1}, {"c"}),
        ("tables", {"t": {"kind": "judges", "title": "T", "judges": ["j"], "benchmarks": ["a", "c"]}}, {"a", "c"}),
    ],
)
def test_a_method_describes_what_any_result_needs(key, value, gained):
    config = {
        "benchmarks": dict.fromkeys("abc"),
        "judges": {"j": {}},
        "methods": {"m": {"kind": "model", "tables": ["t"]}},
        "online": {"groups": {"x": ["alignx_test"], "y": ["a", "b"]}},
        "tables": {},
        key: value,
    }
    assert described(config) == {"m": gained}
