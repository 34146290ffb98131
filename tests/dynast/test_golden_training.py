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
from mditface.tests.golden_set import find_all, lack, read

WEIGHTS = network.LossWeights()


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "dynast"


@pytest.fixture(scope="module")
def step(folder):
    return read(folder, "train_losses.safetensors")


@pytest.fixture(scope="module")
def judged(folder, step):
    """The discriminator's outputs on generated and, after them, true pictures."""
    if "in.semantics_u8" not in step:
        lack(folder, "judged pictures")
    seg = step["in.semantics_u8"] / 255
    for file in find_all(folder, "discriminator_*.safetensors"):
        weights = load_file(file)
        width, channels = weights["discriminator_0.model0.0.weight"].shape[:2]
        if channels == seg.shape[1] + 3:
            break
    else:
        lack(folder, f"discriminator of {seg.shape[1]} classes")
    discriminator = Discriminator(channels - 3, width).eval()
    discriminator.load_state_dict({name: w for name, w in weights.items() if ".dec." not in name})
    with torch.no_grad():
        return discriminator(torch.cat([seg, seg]), torch.cat([step["in.fake"], step["in.real"]]))


def same(made, step, name):
    """Compares what the set holds."""
    if name in step:
        torch.testing.assert_close(made.reshape(step[name].shape), step[name], rtol=1e-4, atol=2e-5,
                                   msg=lambda message: f"{name}: {message}")


def test_discriminator(folder, judged, step):
    names = [name for name in step if name.startswith("pred.")]
    for name in names:
        scale, layer = map(int, name.split(".")[1:])
        same(judged[scale][layer], step, name)
    if not names:
        lack(folder, "output of the discriminator")


def test_adversarial_losses(judged, step):
    fake, real = losses.split_batch(judged)
    on_fake, on_real = losses.discriminator_losses(fake, real)
    same(WEIGHTS.adversarial * on_fake, step, "loss.d_fake")
    same(WEIGHTS.adversarial * on_real, step, "loss.d_real")
    same(WEIGHTS.adversarial * losses.adversarial_loss(fake), step, "loss.g_gan")
    same(WEIGHTS.features * losses.feature_loss(fake, real), step, "loss.g_feat")


def test_warp_loss(folder, step):
    warped = sorted((name for name in step if name.startswith("in.warp_div")), key=lambda name: step[name].shape[-1])
    if not warped:
        lack(folder, "warped images")
    weight = losses.sample_weights(step["in.self_ref"])
    loss = losses.warp_loss([step[name] for name in warped], step["in.real"], weight)
    same(WEIGHTS.warp * loss, step, "loss.g_warp")


def test_distances_of_vggs_features(folder, step):
    if "vgg.feat_fake" not in step:
        lack(folder, "features")
    fake, real = step["vgg.feat_fake"], step["vgg.feat_real"]
    same(losses.weighted_l1(fake, real, losses.sample_weights(step["in.self_ref"])), step, "vgg.weighted_l1")
    same(F.mse_loss(fake, real), step, "vgg.mse")


def test_vggs_input(folder, step):
    if "vgg.pre_in" not in step:
        lack(folder, "input of VGG")
    same(prepare_vgg_input(step["vgg.pre_in"]), step, "vgg.pre_out")
