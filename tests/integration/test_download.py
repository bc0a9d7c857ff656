"""An unreachable hub ends in one clear error. Downloads themselves are not tested."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("file", ["", "/a.json"])
def test_unreachable_dataset_is_named(tmp_path, file):
    code = (
        "from alignxplore.data.locations import download\n"
        f"download('hf://nobody/nothing@main{file}', {str(tmp_path / 'sub' / 'x.parquet')!r})"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": "scripts"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert f"UserError: hf://nobody/nothing@main{file}: " in result.stderr
    assert not (tmp_path / "sub" / "x.parquet").exists()
