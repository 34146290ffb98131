"""What the host's nodes save of PT-DiT loads again by the loaders of PT-DiT, or is refused before it is written."""

import pytest
import torch
from safetensors.torch import load_file

import comfy.sd
from comfy_extras import nodes_model_merging as merging
from mditface.mdit.pt_dit import host
from mditface.mdit.pt_dit.vae import load_vae
from mditface.tests.pt_dit import tiny
from mditface.tests.pt_dit.test_host import sample
from mditface.tests.shared.saving import save

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """With windows that only its JSON tells."""
    return host.load_pt_dit(tiny.write(tmp_path_factory.mktemp("pt-dit") / "tiny.safetensors"), torch.float32)


def test_a_merged_and_saved_model_needs_no_json(model, tmp_path):
    other = host.load_pt_dit(tiny.write(tmp_path / "other.safetensors", edit=lambda sd: {
        name: weight.roll(1) for name, weight in sd.items()}), torch.float32)
    (merged,) = merging.ModelMergeSimple().merge(model, other, 0.7)
    again = host.load_pt_dit(save("ModelSave", tmp_path / "saved", model=merged), torch.float32)
    assert again.model.diffusion_model.config == tiny.CONFIG
    torch.testing.assert_close(sample(again), sample(merged), rtol=0, atol=1e-6)
    assert not torch.allclose(sample(again), sample(model), atol=1e-3)


def test_the_host_does_not_take_a_saved_model_for_its_own(model, tmp_path):
    with pytest.raises(RuntimeError, match="Could not detect model type"):
        comfy.sd.load_diffusion_model(save("ModelSave", tmp_path, model=model))


def test_other_parts_are_refused_before_a_file_is_written(model, golden, tmp_path):
    vae = load_vae(str(golden / "pt-dit" / "vae_model.safetensors"))
    with pytest.raises(ValueError, match="holds the transformer alone: save the model by 'ModelSave'"):
        merging.save_checkpoint(model, vae=vae, filename_prefix="saved", output_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_saved_vae_loads_again(golden, tmp_path):
    path = golden / "pt-dit" / "vae_model.safetensors"
    vae = load_vae(str(path))
    saved = save("VAESave", tmp_path, vae=vae)
    again = load_vae(saved)
    image = torch.rand(1, 40, 56, 3)
    assert torch.equal(again.encode(image), vae.encode(image))
    assert torch.equal(again.decode(vae.encode(image)), vae.decode(vae.encode(image)))
    names = {name for name in load_file(path) if not name.startswith("loss")}
    assert load_file(saved).keys() <= names
