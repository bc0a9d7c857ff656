"""Finished runs of the default. Set SEEDS_DIR to keep them: the directory that tests/slow/seeds.py fills."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import seeds

SEEDS = (1, 2, 3)


@pytest.fixture(scope="session")
def directory(tmp_path_factory) -> Path:
    return Path(os.environ.get("SEEDS_DIR") or tmp_path_factory.mktemp("seeds"))


@pytest.fixture(scope="session")
def tree(directory) -> Path:
    """A finished run of the default."""
    return seeds.run_seed(directory, SEEDS[0])


@pytest.fixture(scope="session")
def trees(tree, directory) -> list[Path]:
    """One finished run per seed."""
    return [tree, *(seeds.run_seed(directory, seed) for seed in SEEDS[1:])]
