"""Fixtures of the trainer's tests. They import the pack inside: pytest reads this file before the host is set up."""
import pytest


@pytest.fixture
def in_training():
    from mditface.tests.training.tiny_targets import trainer_state
    with trainer_state():
        yield


@pytest.fixture
def paths(tmp_path):
    """Paths of a run. No target of these tests reads `data`: they are given their samples."""
    from mditface.tests.training.tiny_targets import run_paths
    return run_paths(tmp_path, data=tmp_path)
