"""Sampling runs of tiny MMFace-DiTs for the tests."""
from __future__ import annotations

import torch
import torch.nn.functional as F

import comfy.sample
from mditface.mdit.mditface.mask import MaskInput
from mditface.nodes.mmface import ConditionMMFace
from mditface.tests.mmface.tiny import CONFIG, normal

SIDE = 8  # latent cells


class CountingVAE:
    """Encodes like a VAE of the host, in `channels` at an eighth of the size, and counts."""

    def __init__(self, channels: int = CONFIG.latent_channels):
        self.weight = normal(channels, 3, 8, 8, seed=9) / 10
        self.encoded = 0

    def encode(self, image):
        self.encoded += 1
        return F.conv2d(2 * image.movedim(-1, 1) - 1, self.weight, stride=8)


def prompt(seed=0, length=6, width=CONFIG.text, **extra):
    return [[normal(1, length, width, seed=seed), {"pooled_output": normal(1, width, seed=seed + 50), **extra}]]


def label_maps(count=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 19, (count, 64, 64), generator=generator, dtype=torch.uint8)


def mask(count=1, seed=0, vae=None):
    return MaskInput(label_maps(count, seed), torch.ones(19), "off", vae)


def sketch(count=1, seed=0):
    return torch.rand(count, 48, 64, 3, generator=torch.Generator().manual_seed(seed))


def condition(positive=None, negative=None, vae=None, **options):
    """Both prompts with a mask or sketch."""
    out = ConditionMMFace.execute(positive or prompt(), negative or prompt(1), vae or CountingVAE(), **options)
    return out.args


def sample(model, positive=None, negative=None, size=(1, 16, SIDE, SIDE), steps=2, cfg=2.0, noise=None,
           sampler="euler"):
    noise = normal(*size) if noise is None else noise
    return comfy.sample.sample(model, noise, steps, cfg, sampler, "simple", positive or prompt(), negative or prompt(1),
                               torch.zeros_like(noise))
