"""Rules and fixtures for every test.

* The pack is the package `mditface`, as a host loads it under a name of its own choosing: write
  `from mditface.mdit.labelmap import ...` and `from mditface.nodes import ...`. The host's modules (`comfy`,
  `folder_paths`, `nodes`) are importable, too. `import mdit` works as well, but its classes are not those of
  `mditface.mdit`: do not mix the two.
* Without an accelerator everything runs on the CPU. The host's base folder is a temporary one.
* Run through `python dev.py test` or `python dev.py run -- pytest ...`, which set COMFYUI_PATH.
"""
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parents[1]
GOLDEN = ROOT / "tests" / "golden"
COSTS = pytest.StashKey()  # of the run, by folder of tests
BASE = Path(tempfile.mkdtemp(prefix="mditface-tests-"))
sys.path.append(str(ROOT))  # here, for a folder's conftest that pytest reads before it is configured


def pytest_configure(config):
    if "COMFYUI_PATH" not in os.environ:
        pytest.exit("run `python dev.py test` or `python dev.py run -- pytest ...`", returncode=2)
    from devtools.costs import Costs
    config.stash[COSTS] = Costs()
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        from devtools.host import load_pack  # takes seconds, which a process that only starts workers has no use for
        load_pack(BASE)


def pytest_collection_finish(session):
    session.config.stash[COSTS].book("start and collection")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """The last test of a file books what the file took: before its browser closes, which loses that, and after."""
    last = nextitem is None or nextitem.path != item.path
    costs, folder = item.config.stash[COSTS], item.path.parent.name
    if last:
        costs.book(folder)
    done = yield
    if last:
        costs.book(folder)
    return done


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["costs"] = dict(session.config.stash[COSTS])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash[COSTS].update(getattr(node, "workeroutput", {}).get("costs", {}))  # none of a worker that crashed


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(str(terminalreporter.config.stash[COSTS]))


def pytest_unconfigure(config):
    shutil.rmtree(BASE, ignore_errors=True)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden data, with one sub-folder a system; see golden_set.py."""
    return Path(os.environ.get("MDIT_GOLDEN", GOLDEN))


@pytest.fixture(scope="session")
def own_golden() -> Path:
    """The repository's own golden data, for tests that only need small weights."""
    return GOLDEN


@pytest.fixture(scope="module")
def as_the_host_runs_nodes():
    """The inference mode in which the host runs nodes. A module takes it with
    `pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")`, a folder with a fixture of its conftest."""
    import torch
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_host_state():
    """After a module the host knows no loaded models, also none on devices that it has not, and no folder's files."""
    yield
    if "comfy.model_management" in sys.modules:
        sys.modules["comfy.model_management"].current_loaded_models.clear()
    if "folder_paths" in sys.modules:
        sys.modules["folder_paths"].filename_list_cache.clear()
