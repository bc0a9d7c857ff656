"""How programs are found."""

import os
import subprocess
import sys


def test_programs_of_the_running_environment_come_first():
    code = (
        "import shutil; from alignxplore.cli import prefer_own_programs\n"
        "prefer_own_programs(); prefer_own_programs(); print(shutil.which('python3'))"
    )
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "scripts"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert os.path.dirname(result.stdout.strip()) == os.path.dirname(sys.executable)
