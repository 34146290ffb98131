"""A stand-alone model on latents of the pack's own autoencoder: file, latent format, VAE, mask cells, positions."""
import pytest
import torch
from safetensors.torch import save_file

from mditface.mdit.labelmap import CLASSES
from mditface.mdit.mditface import host
from mditface.mdit.mditface.autoencoder import Autoencoder, AutoencoderConfig
from mditface.mdit.mditface.config import MDiTConfig
from mditface.mdit.mditface.latents import AutoencoderLatent, LatentStatistics
from mditface.mdit.mditface.mask import MaskInput
from mditface.mdit.mditface.text import TextEncoder
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import TOLERANCE, masked, run
from mditface.tests.shared.saving import save

LEVELS = ((8, 1), (8, 0), (8, 0), (8, 1))
CODER = AutoencoderConfig(channels=4, encoder=LEVELS, decoder=LEVELS)
CONFIG = tiny.config(in_channels=4, patch=2, latent_format="autoencoder", mask_cells=16, position_scale=0.5)
STATISTICS = LatentStatistics((1.0, -2.0, 0.5, 0.0), (2.0, 0.5, 1.0, 3.0), ((0.1, 0.2, 0.3),) * 4, (0.0, 0.1, 0.2))
HEADER = CODER.to_metadata() | STATISTICS.to_metadata()


def coder() -> Autoencoder:
    network = Autoencoder(CODER)
    network.load_state_dict(tiny.random_weights(network, 3))
    return network.requires_grad_(False)


def write(path, header=HEADER, edit=lambda weights: weights) -> str:
    weights = tiny.random_weights(tiny.network(CONFIG))
    weights |= {host.TEXT_PREFIX + name: w for name, w in tiny.random_weights(TextEncoder(tiny.TEXT), 1).items()}
    weights |= {host.VAE_PREFIX + name: w for name, w in coder().state_dict().items()}
    save_file(edit(weights), path, CONFIG.to_metadata() | tiny.TEXT.to_metadata() | header)
    return str(path)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return host.load_mdit(write(tmp_path_factory.mktemp("model") / "latent.safetensors"))


def sample(loaded):
    texts = tiny.conditioning(loaded.clip, "young woman"), tiny.conditioning(loaded.clip, "")
    mask = MaskInput(tiny.labels(side=128), torch.ones(len(CLASSES)))
    return run(loaded.model, masked(texts[0], mask), texts[1], latent=torch.zeros(1, 4, 8, 8))[0]


def test_the_vae_is_the_autoencoder(loaded):
    image = torch.rand(2, 64, 96, 3)
    expected = coder().encode(image.movedim(-1, 1) * 2 - 1)
    latents = loaded.vae.encode(image)
    assert latents.shape == (2, 4, 4, 6)
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
    decoded = (coder().decode(expected).movedim(1, -1) + 1) / 2
    torch.testing.assert_close(loaded.vae.decode(latents), decoded.clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_images_of_other_sizes_are_cut_to_whole_cells(loaded):
    assert loaded.vae.encode(torch.rand(1, 70, 50, 3)).shape == (1, 4, 4, 3)


def test_the_model_sees_standardized_channels(loaded):
    latent_format = loaded.model.model.latent_format
    assert (latent_format.latent_channels, latent_format.spacial_downscale_ratio) == (4, 16)
    latents = torch.randn(1, 4, 3, 3)
    inside = latent_format.process_in(latents)
    torch.testing.assert_close(inside[0, 3], latents[0, 3] / 3)
    torch.testing.assert_close(inside[0, 0], (latents[0, 0] - 1) / 2)
    torch.testing.assert_close(latent_format.process_out(inside), latents)


def test_it_samples_with_a_mask_and_saves_as_the_same_model(loaded, tmp_path):
    expected = sample(loaded)
    assert expected.shape == (1, 4, 8, 8) and expected.std() > 0
    again = host.load_mdit(save("CheckpointSave", tmp_path, **loaded._asdict()))
    torch.testing.assert_close(sample(again), expected, **TOLERANCE)
    image = torch.rand(1, 32, 32, 3)
    assert torch.equal(again.vae.encode(image), loaded.vae.encode(image))


def test_a_finer_grid_covers_the_positions_of_a_coarser_one():
    coarse, fine = tiny.network(), tiny.network(tiny.config(position_scale=0.5))
    middle = torch.tensor([[1.0, 2.0]])  # of a coarse token: the tokens 2.5 and 4.5 of a grid twice as fine
    expected = coarse.encode_positions(middle, {})[1]
    torch.testing.assert_close(fine.encode_positions(2 * middle + 0.5, {})[1], expected)
    assert not torch.allclose(fine.encode_positions(middle, {})[1], expected)


@pytest.mark.parametrize("latent_format, patch, cells, side", [("autoencoder", 2, 64, 32), ("pixel", 4, 8, 4)])
def test_cells_divide_the_pixels_of_a_token(latent_format, patch, cells, side):
    with pytest.raises(ValueError, match=f"mask_cells {cells} does not divide the {side} pixels"):
        tiny.config(latent_format=latent_format, patch=patch, mask_cells=cells)


@pytest.mark.parametrize("header, message", [
    ({}, "no 'mdit.autoencoder'"),
    (CODER.to_metadata(), "no 'mdit.latent'"),
    (HEADER | {"mdit.latent": STATISTICS.to_metadata()["mdit.latent"].replace("[1.0, -2.0, ", "[")}, "one entry"),
])
def test_a_header_without_its_parts_is_named(header, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderLatent(header)


def test_a_file_that_lacks_a_weight_is_named(tmp_path):
    def edit(weights):
        del weights["vae.decoder.0.weight"]
        return weights

    with pytest.raises(ValueError, match=r"cut.safetensors.*decoder.0.weight"):
        host.load_mdit(write(tmp_path / "cut.safetensors", edit=edit))


def test_old_configurations_load():
    fields = MDiTConfig.from_metadata(tiny.CONFIG.to_metadata())
    assert fields.position_scale == 1.0
