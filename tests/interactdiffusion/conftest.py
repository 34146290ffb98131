"""The tiny model and weights of InteractDiffusion's tests."""
import pytest


@pytest.fixture(scope="module", autouse=True)
def inference_mode(as_the_host_runs_nodes):
    """For every module of this folder."""


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    from mditface.tests.interactdiffusion import tiny
    return tiny.load(tmp_path_factory.mktemp("weights")).weights


@pytest.fixture(scope="session")
def base():
    from mditface.tests.interactdiffusion import tiny
    return tiny.base()
