"""Tiny models, masks and graphs for the tests of the core."""
from __future__ import annotations

import dataclasses

import torch
from safetensors.torch import save_file

import comfy.ops
from mditface.mdit.labelmap import CLASSES
from mditface.mdit.mditface import host
from mditface.mdit.mditface.config import MDiTConfig
from mditface.mdit.mditface.mask import ExemplarInput, MaskInput, MaskReference
from mditface.mdit.mditface.model import MDiT
from mditface.mdit.mditface.text import TextConfig, TextEncoder
from mditface.mdit.shared.masks import CONDITIONING_KEY

CONFIG = MDiTConfig(width=32, depth=3, heads=2, patch=4, in_channels=3, text_dim=16, pooled_dim=16, mask_cells=2,
                    mlp_ratio=(2.0, 1.0, 1.0), resolution=32)
TEXT = TextConfig(("young", "woman", "man", "blond", "hair", "red", "shirt"), {"blonde": "blond"}, width=16, heads=2,
                  layers=1, length=8)


def config(**changes) -> MDiTConfig:
    return dataclasses.replace(CONFIG, **changes)


def random_weights(module: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(weight.shape, generator=generator) * 0.15 + name.endswith("norm.weight")
            for name, weight in module.state_dict().items()}


def network(cfg: MDiTConfig = CONFIG, seed: int = 0) -> MDiT:
    model = MDiT(cfg, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    model.load_state_dict(random_weights(model, seed))
    return model.eval().requires_grad_(False)


def write(path, cfg: MDiTConfig = CONFIG, seed: int = 0, edit=lambda weights: weights) -> str:
    """A model file of random weights, after `edit`."""
    weights = random_weights(network(cfg), seed)
    text = random_weights(TextEncoder(TEXT, operations=comfy.ops.disable_weight_init), seed + 1)
    weights |= {host.TEXT_PREFIX + name: weight for name, weight in text.items()}
    save_file(edit(weights), str(path), cfg.to_metadata() | TEXT.to_metadata())
    return str(path)


def labels(batch: int = 1, side: int = 32, seed: int = 0) -> torch.Tensor:
    """Blocky label maps (batch, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, len(CLASSES), (batch, 4, 4), generator=generator, dtype=torch.uint8)
    return blocks.repeat_interleave(side // 4, 1).repeat_interleave(side // 4, 2)


def mask(batch: int = 1, seed: int = 0, reduction: str = "off", vae=None) -> MaskInput:
    return MaskInput(labels(batch, seed=seed), torch.ones(len(CLASSES)), reduction, vae)


def conditioning(clip, text: str, mask: MaskInput | None = None, *reference):
    cond = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    if mask is None:
        return cond
    return [[tokens, {**extra, CONDITIONING_KEY: MaskReference(mask, *reference)}] for tokens, extra in cond]


class PixelVAE:
    """The host's pixel-space VAE in one line."""

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.movedim(-1, 1) * 2 - 1


def exemplar(batch: int = 1, seed: int = 0, side: int = 32, vae=PixelVAE()) -> ExemplarInput:
    """Noise pictures and blocky label maps of them."""
    pictures = torch.rand(batch, side, side, 3, generator=torch.Generator().manual_seed(seed))
    return ExemplarInput(pictures, labels(batch, side, seed + 7), vae)
