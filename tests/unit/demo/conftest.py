from pathlib import Path

import pytest
from alignxplore.demo.tasks import open_tasks

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def tasks():
    prompts = {
        f"{name}_prompt": str(ROOT / f"resources/prompts/{name}.jinja")
        for name in ("preference", "concise", "update", "judge", "respond")
    }
    inputs = {
        **prompts,
        "lexicon": str(ROOT / "resources/demo/lexicon.csv"),
        "names": str(ROOT / "resources/dimensions.csv"),
    }
    return open_tasks(inputs, [3, 15, 23, 31, 39, 47, 60, 65], "test")
