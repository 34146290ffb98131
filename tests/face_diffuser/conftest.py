"""Tests of Face-diffuser run as the host runs nodes."""
import pytest


@pytest.fixture(scope="module", autouse=True)
def inference_mode(as_the_host_runs_nodes):
    """For every module of this folder."""
