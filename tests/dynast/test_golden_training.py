"""DynaST's discriminator and losses against the reference's outputs (the set has a README).

Every set of the same layout passes: sizes are read from its files alone.
"""
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from mditface.mdit.recipes.dynast import losses, network
from mditface.mdit.recipes.dynast.discriminator import Discriminator
from mditface.mdit.recipes.dynast.vgg import prepare_vgg_input

WEIGHTS = network.LossWeights()


@pytest.fixture(scope="module")
def step(golden):
    return load_file(golden / "dynast" / "train_losses.safetensors")


@pytest.fixture(scope="module")
def judged(golden, step):
    """The discriminator's outputs on generated and, after them, true pictures."""
    weights = load_file(golden / "dynast" / "discriminator_celebahqedge.safetensors")
    width, channels = weights["discriminator_0.model0.0.weight"].shape[:2]
    discriminator = Discriminator(channels - 3, width).eval()
    discriminator.load_state_dict({name: w for name, w in weights.items() if ".dec." not in name})
    seg = step["in.semantics_u8"] / 255
    with torch.no_grad():
        return discriminator(torch.cat([seg, seg]), torch.cat([step["in.fake"], step["in.real"]]))


def same(made, step, name):
    torch.testing.assert_close(made.reshape(step[name].shape), step[name], rtol=1e-4, atol=1e-5,
                               msg=lambda message: f"{name}: {message}")


def test_discriminator(judged, step):
    names = [name for name in step if name.startswith("pred.")]
    assert names
    for name in names:
        scale, layer = map(int, name.split(".")[1:])
        same(judged[scale][layer], step, name)


def test_adversarial_losses(judged, step):
    fake, real = losses.split_batch(judged)
    on_fake, on_real = losses.discriminator_losses(fake, real)
    same(WEIGHTS.adversarial * on_fake, step, "loss.d_fake")
    same(WEIGHTS.adversarial * on_real, step, "loss.d_real")
    same(WEIGHTS.adversarial * losses.adversarial_loss(fake), step, "loss.g_gan")
    same(WEIGHTS.features * losses.feature_loss(fake, real), step, "loss.g_feat")


def test_warp_loss(step):
    warped = [step[f"in.warp_div{factor}"] for factor in (8, 4, 2, 1)]
    loss = losses.warp_loss(warped, step["in.real"], losses.sample_weights(step["in.self_ref"]))
    same(WEIGHTS.warp * loss, step, "loss.g_warp")


def test_distances_of_vggs_features(step):
    fake, real = step["vgg.feat_fake"], step["vgg.feat_real"]
    same(losses.weighted_l1(fake, real, losses.sample_weights(step["in.self_ref"])), step, "vgg.weighted_l1")
    same(F.mse_loss(fake, real), step, "vgg.mse")
    same(prepare_vgg_input(step["vgg.pre_in"]), step, "vgg.pre_out")
