"""Every MODEL, CLIP and VAE of the pack's loaders can be loaded again by the host."""
import pytest
import torch
from mditface.mdit.interactdiffusion.weights import load_interactdiffusion

from mditface.mdit.mditface import host as mditface
from mditface.mdit.mmface import host as mmface
from mditface.mdit.mmface.text import load_clip
from mditface.mdit.pt_dit import host as pt_dit
from mditface.mdit.pt_dit.vae import load_vae
from mditface.tests.interactdiffusion import published
from mditface.tests.mditface import tiny as tiny_mdit
from mditface.tests.mditface.runs import hooked, masked, run
from mditface.tests.mmface import tiny as tiny_mmface
from mditface.tests.pt_dit import tiny as tiny_pt_dit
from mditface.tests.shared.reloading import check_copies, dynamic_memory  # noqa: F401
from mditface.tests.shared.saving import save

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes", "dynamic_memory")


@pytest.fixture
def mdit(tmp_path):
    return mditface.load_mdit(tiny_mdit.write(tmp_path / "tiny.safetensors"))


@pytest.mark.parametrize("part", ["model", "clip", "vae"])
def test_parts_of_an_mdit_file(mdit, part):
    check_copies(getattr(mdit, part))


def test_a_saved_text_encoder_alone(tmp_path, mdit):
    check_copies(mditface.load_mdit(save("CLIPSave", tmp_path, clip=mdit.clip)).clip)


def test_hooks_on_a_model_with_dynamic_memory(mdit):
    """The host samples on a copy without dynamic memory."""
    texts = tiny_mdit.conditioning(mdit.clip, "man"), tiny_mdit.conditioning(mdit.clip, "")
    out, report = run(mdit.model, hooked(masked(texts[0], tiny_mdit.mask()), 0.7), texts[1])
    assert report.passes == 1 and out.isfinite().all()


def test_pt_dit(tmp_path):
    check_copies(pt_dit.load_pt_dit(tiny_pt_dit.write(tmp_path / "tiny.safetensors"), torch.float32))


def test_mmface(tmp_path):
    check_copies(mmface.load_mmface(tiny_mmface.write(tmp_path / "tiny.safetensors"), torch.float32, "flow"))


def test_the_text_encoder_of_mmface(tmp_path):
    check_copies(load_clip(tiny_mmface.write_text(tmp_path / "model.safetensors")))


def test_the_vae_of_pt_dit(golden):
    check_copies(load_vae(str(golden / "pt-dit" / "vae_model.safetensors")))


def test_a_complete_checkpoint_of_interactdiffusion(tmp_path):
    torch.save(published.complete(), tmp_path / "complete.pth")
    loaded = load_interactdiffusion(str(tmp_path / "complete.pth"))
    for part in loaded:
        check_copies(part, absent="text_projection")
