"""Numbers that overflow: the error names the layer, and nothing of the search stays on the model."""
import pytest
import torch

import comfy.samplers
from mditface.mdit.mditface import host
from mditface.mdit.mditface.guidance import Guidance
from mditface.mdit.mditface.sample import sample
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import SIDE, masked

HUGE = 3e38  # finite, but no sum of two of them is


def draw(model, positive, negative):
    return sample(model, seed=0, steps=2, guidance=Guidance(2.0, 2.0), sampler_name="euler", scheduler="simple",
                  positive=positive, negative=negative, latent={"samples": torch.zeros(1, 3, SIDE, SIDE)})


@pytest.mark.parametrize("layer", ["x_embed", "blocks.1.img.fc2", "blocks.0.msk.fc1", "final.linear"])
def test_the_first_layer_is_named(tmp_path, layer):
    def overflow(weights):
        return weights | {f"{layer}.weight": torch.full_like(weights[f"{layer}.weight"], HUGE)}

    loaded = host.load_mdit(tiny.write(tmp_path / "huge.safetensors", edit=overflow))
    positive = masked(tiny.conditioning(loaded.clip, "young woman"), tiny.mask())
    with pytest.raises(ValueError, match=f"^model: its layer '{layer}' makes NaN or infinite numbers in torch.float32"):
        draw(loaded.model, positive, tiny.conditioning(loaded.clip, ""))
    assert not any(part._forward_hooks for part in loaded.model.model.diffusion_model.modules())


def test_a_sampler_that_overflows_is_named(loaded, texts, monkeypatch):
    broken = comfy.samplers.KSAMPLER(lambda model, x, sigmas, **options: x * torch.nan)
    monkeypatch.setattr(comfy.samplers, "sampler_object", lambda name: broken)
    with pytest.raises(ValueError, match="^sampler_name: the sampler's numbers overflow"):
        draw(loaded.model, *texts)
