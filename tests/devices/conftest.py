"""The tiny model files of the graphs. With a real card, the whole suite runs on it, and nothing is pretended."""
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def without_a_real_card():
    if torch.cuda.is_available():
        pytest.skip("a real card is here: all other tests run on it")


@pytest.fixture(scope="package")
def files(golden):
    """The nodes and the model files that the graphs name. They go with the last test of the folder."""
    import folder_paths
    import nodes
    from devtools.server import Server
    from mditface.tests.devices import graphs
    from mditface.tests.e2e import stand_ins
    from mditface.tests.interactdiffusion import tiny as interactdiffusion
    from mditface.tests.mditface import tiny
    known = dict(nodes.NODE_CLASS_MAPPINGS)
    base = Path(folder_paths.base_path)
    before = set(base.rglob("*"))
    graphs.register_nodes()
    server = Server(base)
    stand_ins.write_small_files(server, golden)
    tiny.write(stand_ins.folder(server, "mdit") / "tiny.safetensors")
    server.save_weights("interactdiffusion", "plugin", interactdiffusion.plugin())
    yield
    for path in sorted(set(base.rglob("*")) - before, reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    nodes.NODE_CLASS_MAPPINGS.clear()
    nodes.NODE_CLASS_MAPPINGS.update(known)
