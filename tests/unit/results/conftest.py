"""Judgements that several test modules read."""

import pytest
from result_samples import write_judgements


@pytest.fixture
def judgements(tmp_path):
    """Random judgements of three methods by two judges; returns their paths."""
    return write_judgements(tmp_path)
