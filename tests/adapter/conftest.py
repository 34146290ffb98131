"""Fixtures of the adapter's tests: each host family with an adapter of our own format, and FLUX with EasyControl's."""
import pytest

FAMILIES = ("sd3", "sd35", "flux", "flux2", "chroma", "qwen-image", "z-image")


@pytest.fixture(scope="module", autouse=True)
def inference_mode(as_the_host_runs_nodes):
    """For every module of this folder."""


@pytest.fixture(autouse=True)
def kernel(request, monkeypatch):
    """The host's attention function: not what it takes on a CPU, but what it takes where people run it."""
    from mditface.tests.shared import attention_functions
    attention_functions.use(getattr(request, "param", "attention_pytorch"), monkeypatch)


@pytest.fixture(scope="session")
def bases():
    from mditface.tests.adapter import bases
    return {family: bases.load(bases.published(family), family) for family in FAMILIES}


@pytest.fixture(scope="session")
def cases(bases, tmp_path_factory):
    from mditface.tests.adapter.bases import case, easycontrol_case
    folder = tmp_path_factory.mktemp("adapters")
    return {family: case(family, base, folder) for family, base in bases.items()} | {
        "easycontrol": easycontrol_case(bases["flux"], folder)}


@pytest.fixture(params=FAMILIES)
def own(request, cases):
    """An adapter of our own format on each family."""
    return cases[request.param]


@pytest.fixture(params=(*FAMILIES, "easycontrol"))
def case(request, cases):
    return cases[request.param]


@pytest.fixture
def block_patches(case):
    """For tests of what rides on patches of blocks, and of ControlNets, which the host has for the same models."""
    if not case.has_block_patches:
        pytest.skip("the host's loop calls no patches of blocks")


@pytest.fixture(scope="session")
def texts():
    """(positive, negative) without a mask, of different lengths."""
    from mditface.tests.adapter.bases import text
    return text(0), text(1)
