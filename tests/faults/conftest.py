"""Small undisturbed runs: the tests disturb copies of them and compare the results."""

from pathlib import Path

import pytest
from faulty_server import Server
from random_models import random_qwen2
from workshop import DATA, SPOKEN, TABLE, copied, demonstration, prepare, snakemake


@pytest.fixture(scope="session")
def teacher():
    """The served teacher."""
    with Server(reply=demonstration, key="none") as server:
        yield server


@pytest.fixture(scope="session")
def empty(teacher, tmp_path_factory) -> Path:
    """The directory of a run that has not started."""
    base = tmp_path_factory.mktemp("faults")
    random_qwen2(base / "tiny", SPOKEN, hidden=64, spread=0.1)
    return prepare(base / "empty", base / "tiny", teacher.url)


@pytest.fixture(scope="session")
def data_stage(empty) -> Path:
    """The directory of a run whose data stage is complete."""
    work = copied(empty, empty.with_name("data_stage"))
    result = snakemake(work, *DATA)
    assert result.returncode == 0, result.stderr
    return work


@pytest.fixture(scope="session")
def undisturbed(data_stage) -> Path:
    """The directory of a complete run."""
    work = copied(data_stage, data_stage.with_name("undisturbed"))
    result = snakemake(work, TABLE)
    assert result.returncode == 0, result.stderr
    return work
