"""For every module of this folder: the host's inference mode, and its FLUX with the same time embedding everywhere."""
import pytest


@pytest.fixture(scope="module", autouse=True)
def inference_mode(as_the_host_runs_nodes):
    """For every module of this folder."""
