"""The bundled model on latents: encoded renders, the start from a model that draws pixels, training, the file."""
import dataclasses

import numpy as np
import pytest
import torch

from mditface.mdit.datasets import Renders
from mditface.mdit.datasets.augment import mirror
from mditface.mdit.mditface import host
from mditface.mdit.mditface.math import patchify, unpatchify
from mditface.mdit.recipes.latents import Coder, EncodedRenders, carry_over, fit_ridge
from mditface.mdit.recipes.initialize import store_mask_modulation
from mditface.mdit.recipes.targets.demo import Demo, read_file
from mditface.mdit.recipes.targets.kinds import DemoSettings, DemoTarget
from mditface.mdit.recipes.words import make_text_config
from mditface.mdit.training.sampling import sample
from mditface.tests.recipes.tiny_targets import DEMO, LATENT
from mditface.tests.training.tiny_targets import fitted

pytestmark = pytest.mark.usefixtures("in_training")


def test_latents_are_those_of_the_images_and_their_mirror(shards, coder_file):
    coder = Coder(coder_file)
    faces, renders = EncodedRenders(shards, coder), Renders(shards)
    index = torch.tensor([3, 5])
    for mirrored in (torch.tensor([False, False]), torch.tensor([True, False])):
        latents, labels = faces.get_batch(index, mirrored)
        images, expected = mirror(renders.get_channels_first(index), renders.labels[index], mirrored)
        torch.testing.assert_close(latents, coder.encode(images), rtol=2e-3, atol=2e-3)
        assert torch.equal(labels, expected)
    assert faces.captions == renders.captions and faces.attributes == renders.attributes


def test_shards_are_encoded_once_for_each_autoencoder(shards, coder_file, monkeypatch):
    coder = Coder(coder_file)
    EncodedRenders(shards, coder)
    with monkeypatch.context() as patch:
        patch.setattr(Coder, "encode", lambda *given: pytest.fail("encoded again"))
        EncodedRenders(shards, coder)
        coder.weights = {name: w + 1 for name, w in coder.weights.items()}
        with pytest.raises(pytest.fail.Exception):
            EncodedRenders(shards, coder)


def test_standardized_latents_decode_to_what_was_encoded(coder_file):
    coder = Coder(coder_file)
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    raw = coder.network.encode(image.float() / 127.5 - 1)
    torch.testing.assert_close(coder.encode(image), (raw - 0.1) / 0.5)
    expected = ((coder.network.decode(raw).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert (coder.decode(coder.encode(image)).int() - expected.int()).abs().max() <= 1


def test_ridge_finds_a_linear_map():
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 6, generator=rng) + 3
    weight, bias = torch.randn(4, 6, generator=rng), torch.randn(4, generator=rng)
    found = fit_ridge(inputs, inputs @ weight.T + bias, 1e-6)
    torch.testing.assert_close(found[0], weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[1], bias, rtol=1e-2, atol=1e-2)


def test_a_pixel_model_is_carried_over(shards, coder_file):
    """With latents that are linear in the images, the new model sees and draws the same as the old one."""
    faces = EncodedRenders(shards, Coder(coder_file))
    torch.manual_seed(1)
    old = {"model.x_embed.weight": torch.randn(5, 768) * 0.05, "model.x_embed.bias": torch.randn(5),
           "model.final.linear.weight": torch.randn(768, 5) * 0.05, "model.final.linear.bias": torch.randn(768)}
    images = Renders(shards).get_channels_first(torch.arange(16))
    pixels = patchify(images.float() / 127.5 - 1, 16)  # (16, 4, 768), of twelve flat numbers each
    to_latent = torch.randn(768, 12) * 0.2
    faces.latents[:, 0] = unpatchify(pixels @ to_latent, 1, 2, 2)
    new = carry_over(old, 16, faces, shards, patch=1)
    given = pixels.flatten(0, 1)
    seen, expected = (x @ sd["model.x_embed.weight"].T + sd["model.x_embed.bias"]
                      for x, sd in ((given @ to_latent, new), (given, old)))
    assert (seen - expected).square().mean() < 0.05 * (expected - expected.mean(0)).square().mean()
    written = new["model.final.linear.weight"] @ torch.ones(5) + new["model.final.linear.bias"]
    weight, bias = fit_ridge(given, given @ to_latent, 0.002)
    drawn = old["model.final.linear.weight"] @ torch.ones(5) + old["model.final.linear.bias"]
    torch.testing.assert_close(written, weight @ drawn + bias, rtol=1e-2, atol=1e-2)


def test_it_trains_from_a_pixel_model_and_its_file_loads_in_the_host(latent_paths, tmp_path):
    pixel = tmp_path / "pixel.safetensors"
    settings = DemoSettings(**DEMO, **{key: path for key, path in latent_paths.items() if key != "autoencoder"})
    Demo(settings.model, make_text_config(32)).save(pixel)
    model = LATENT | {"position_scale": 0.5, "mask_vec": "constant", "depth": 3}
    values = DEMO | {"model": model, "text_steps": 0}
    with pytest.raises(ValueError, match="does not fit"):
        DemoTarget(DemoSettings(**values | {"model": LATENT | {"width": 16}}, init=pixel, **latent_paths))
    with pytest.raises(ValueError, match="does not fit"):
        DemoTarget(DemoSettings(**values | {"model": LATENT | {"depth": 1}}, init=pixel, **latent_paths))
    trainer = fitted(DemoTarget(DemoSettings(**values, init=pixel, **latent_paths)))
    assert trainer.step == 4
    loaded = host.load_mdit(str(latent_paths["weights"]))
    assert loaded.vae.encode(torch.rand(1, 32, 32, 3)).shape == (1, 12, 2, 2)
    assert not any(name.startswith("model.vae") for name in read_file(latent_paths["weights"])[0])


def test_a_stored_modulation_and_more_blocks_are_the_same_function(demo):
    """The modulation of the mask stream depends on nothing, and a block without modulation changes nothing."""
    initialized = demo.module.state_dict()
    sd = {name: torch.randn_like(w) * 0.1 for name, w in initialized.items()}
    demo.module.load_state_dict(sd)
    stored, config = store_mask_modulation(sd, demo.module.model.config)
    other = Demo(dataclasses.replace(config, depth=3), demo.module.text_config)
    fresh = {name: w for name, w in other.state_dict().items() if ".2." in name and "blocks" in name}
    other.load_state_dict(stored | fresh)
    given = {"ids": demo.writer.encode(["a man"] * 2), "labels": demo.heldout.labels[:2], "seed": 0, "steps": 2}
    assert torch.equal(sample(other.model, other.text_encoder, **given),
                       sample(demo.module.model, demo.module.text_encoder, **given))


def test_a_sheet_shows_images_of_smaller_label_maps(latent_paths, monkeypatch):
    monkeypatch.setattr("mditface.mdit.recipes.latents.LABEL_SIDE", 16)
    target = DemoTarget(DemoSettings(**DEMO | {"model": LATENT | {"mask_cells": 8}}, **latent_paths))
    assert target.draw(2).shape == (2, 32, 32, 3)
    assert target.heldout.labels.shape[1:] == (16, 16)
    assert target.draw_sheet().dtype == np.uint8 and target.measure()["pixel_accuracy"] < 1


@pytest.mark.parametrize("changes, message", [
    ({"model": LATENT}, "if, and only if"),
    ({"autoencoder": "file.safetensors"}, "if, and only if"),
])
def test_the_autoencoder_belongs_to_latents(paths, changes, message):
    with pytest.raises(ValueError, match=message):
        DemoSettings(**DEMO | changes, **paths)


def test_an_absent_autoencoder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="autoencoder.yaml"):
        Coder(tmp_path / "none.safetensors")
