"""The bundled model's autoencoder: sizes, starting weights, configuration."""
import pytest
import torch

import comfy.ops

from mditface.mdit.mditface.autoencoder import Autoencoder, AutoencoderConfig, Residual, Up

TINY = AutoencoderConfig(channels=5, encoder=((8, 1), (8, 0), (16, 1)), decoder=((16, 1), (8, 1), (4, 1)))


def count(module):
    return sum(w.numel() for w in module.parameters())


@pytest.mark.parametrize("height, width", [(64, 64), (32, 96)])
def test_a_latent_cell_stands_for_a_square_of_pixels(height, width):
    coder = Autoencoder(TINY)
    latents = coder.encode(torch.randn(2, 3, height, width))
    assert TINY.ratio == 8 and latents.shape == (2, 5, height // 8, width // 8)
    assert coder.decode(latents).shape == (2, 3, height, width)


def test_default_sizes():
    coder = Autoencoder(AutoencoderConfig(), device="meta")
    assert coder.config.ratio == 16
    assert 0.8e6 < count(coder.encoder) < 1.0e6 and 2.4e6 < count(coder.decoder) < 2.8e6


def test_additions_start_at_zero():
    coder = Autoencoder(TINY)
    coder.initialize()
    x = torch.randn(1, 16, 4, 4)
    assert torch.equal(next(m for m in coder.modules() if isinstance(m, Residual) and m.first.in_channels == 16)(x), x)
    up = next(m for m in coder.modules() if isinstance(m, Up))
    assert not up.spread(x).any() and up(x).shape == (1, 8, 8, 8)


def test_a_pixel_is_decoded_from_its_surroundings_alone():
    coder = Autoencoder(TINY).double()
    latents = torch.randn(1, 5, 24, 24, dtype=torch.float64)
    moved = latents.clone()
    moved[..., :12] += 1
    before, after = coder.decode(latents), coder.decode(moved)
    assert torch.equal(before[..., -16:], after[..., -16:]) and not torch.equal(before[..., :90], after[..., :90])


def test_header_keeps_the_sizes():
    assert AutoencoderConfig.from_metadata(TINY.to_metadata()) == TINY
    with pytest.raises(ValueError, match="no 'mdit.autoencoder'"):
        AutoencoderConfig.from_metadata({})
    with pytest.raises(ValueError, match="as many"):
        AutoencoderConfig(encoder=((8, 1),))


def test_layers_are_the_hosts():
    coder = Autoencoder(TINY, operations=comfy.ops.manual_cast, dtype=torch.float16)
    assert coder.encode(torch.randn(1, 3, 16, 16)).dtype == torch.float32
