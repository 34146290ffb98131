"""Fixtures of the core's tests: a tiny random model, loaded the way the pack's node loads it."""
import pytest


@pytest.fixture(scope="module", autouse=True)
def inference_mode(as_the_host_runs_nodes):
    """For every module of this folder."""


@pytest.fixture(scope="session")
def loaded(tmp_path_factory):
    from mditface.mdit.mditface import host
    from mditface.tests.mditface import tiny
    return host.load_mdit(tiny.write(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture
def texts(loaded):
    """(positive, negative) without a mask."""
    from mditface.tests.mditface import tiny
    return tiny.conditioning(loaded.clip, "young woman, blond hair"), tiny.conditioning(loaded.clip, "")
