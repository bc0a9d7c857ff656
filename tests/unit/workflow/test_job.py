"""How jobs find programs and the library."""

import os
import subprocess
import sys


def test_programs_of_the_running_environment_come_first():
    code = (
        "import shutil; from alignxplore.workflow.job import prefer_own_programs\n"
        "prefer_own_programs(); prefer_own_programs(); print(shutil.which('python3'))"
    )
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "scripts"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert os.path.dirname(result.stdout.strip()) == os.path.dirname(sys.executable)


def test_the_library_of_the_tree_comes_before_the_installed_one(tmp_path):
    (tmp_path / "alignxplore").mkdir()
    (tmp_path / "alignxplore/__init__.py").write_text("")
    code = (
        "import os, pathlib, subprocess, sys; from alignxplore.workflow.job import prefer_own_library\n"
        f"prefer_own_library(pathlib.Path({str(tmp_path)!r}))\n"
        "subprocess.run([sys.executable, '-c', 'import alignxplore; print(alignxplore.__file__)'], check=True)"
    )
    environment = {"PYTHONPATH": "scripts"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(tmp_path / "alignxplore/__init__.py")


def test_a_warning_of_the_hub_client_is_printed_once():
    code = (
        "import logging; from alignxplore.workflow.job import configure_logging; configure_logging()\n"
        "import alignxplore.engines.weights; logging.getLogger('huggingface_hub.utils').warning('Retrying')"
    )
    environment = {**os.environ, "PYTHONPATH": "scripts"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stderr.count("Retrying") == 1 and " WARNING Retrying" in result.stderr
