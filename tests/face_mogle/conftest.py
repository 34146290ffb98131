"""For every module of this folder: the host's inference mode; a tiny FLUX, and Face-MoGLE for it from files."""
import pytest


@pytest.fixture(scope="module", autouse=True)
def inference_mode(as_the_host_runs_nodes):
    """For every module of this folder."""


@pytest.fixture(scope="session")
def base():
    from mditface.tests.adapter import bases
    return bases.load(bases.published("flux"))


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Paths of the LoRA and the gate."""
    from mditface.tests.face_mogle import tiny
    return tiny.write(tmp_path_factory.mktemp("face_mogle"))


@pytest.fixture(scope="session")
def adapter(files):
    from mditface.tests.face_mogle import tiny
    return tiny.load(files)


@pytest.fixture(scope="session")
def model(base, adapter):
    from mditface.mdit.mditface.adapter.reader import apply_adapter
    return apply_adapter(base, adapter)


@pytest.fixture(scope="session")
def texts():
    """(positive, negative) without a mask."""
    from mditface.tests.adapter.bases import text
    return text(0), text(1)
