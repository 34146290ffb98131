"""Weights that the host casts into one buffer: no two of them may be in use at once."""
import pytest
import torch

import comfy.model_management
from mditface.mdit.pt_dit import host
from mditface.tests.devices.host import pretend_cards
from mditface.tests.pt_dit import tiny
from mditface.tests.pt_dit.test_host import sample

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("casts") / "tiny.safetensors")


@pytest.mark.parametrize("streams", [0, 1, 2])
@pytest.mark.parametrize("size", [(1, 4, 16, 16), (2, 4, 24, 32)], ids=["few tokens", "matrices are chained"])
def test_pt_dit_with_offloaded_weights(file, streams, size):
    expected = sample(host.load_pt_dit(file, torch.float32), size=size)
    with pretend_cards(novram=True, streams=streams, force_fp32=True):
        model = host.load_pt_dit(file, torch.float32)
        found = sample(model, size=size)
        assert bool(comfy.model_management.STREAM_CAST_BUFFERS) == (streams > 0)
        assert model.model.diffusion_model.transformer_blocks[0].linear_2.weight.device.type == "cpu"
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-4)
