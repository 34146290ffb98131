"""A tiny Stable Diffusion 1.x model with a text encoder, and InteractDiffusion weights for it, all random."""
from __future__ import annotations

import functools

import torch
from safetensors.torch import save_file
from torch import Tensor

import comfy.model_base
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
from comfy.supported_models_base import ClipTarget
from mditface.mdit.interactdiffusion import encode
from mditface.mdit.interactdiffusion.interactions import Interaction
from mditface.mdit.interactdiffusion.model import InteractDiffusion, InteractDiffusionSizes
from mditface.mdit.interactdiffusion.weights import InteractDiffusionFile, load_interactdiffusion

CONTEXT, FEATURE = 48, 40
UNET = dict(image_size=8, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1, 1], channel_mult=(1, 2),
            num_heads=8, num_head_channels=-1, use_spatial_transformer=True, transformer_depth=[1, 0],
            transformer_depth_middle=1, transformer_depth_output=[1, 1, 0, 0], context_dim=CONTEXT,
            use_linear_in_transformer=False, legacy=False)
BLOCKS = {"input_blocks.1.1": 32, "middle_block.1": 64, "output_blocks.2.1": 32, "output_blocks.3.1": 32}
SIZES = InteractDiffusionSizes(FEATURE, 64, 56, CONTEXT, 30, tuple(BLOCKS.values()))
TEXT_ENCODER = dict(hidden_size=FEATURE, num_attention_heads=4, num_hidden_layers=2, intermediate_size=64)
FEEDING = Interaction("person", "feeding", "cat", (0.05, 0.2, 0.35, 0.75), (0.3, 0.45, 0.7, 0.8))
HOLDING = Interaction("man", "holding", "hair drier", (0.5, 0.1, 0.95, 0.9), (0.55, 0.2, 0.7, 0.35))


def random_weights(module: torch.nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep the scale of activations; norms are near 1, gates wide open."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for name, weight in module.state_dict().items():
        drawn = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            weights[name] = drawn * weight[0].numel() ** -0.5
        else:
            weights[name] = 1 + 0.2 * drawn if weight.ndim == 0 or name.endswith("weight") else 0.2 * drawn
    return weights


@functools.cache
def base(seed: int = 0, **changes) -> comfy.model_patcher.ModelPatcher:
    """A MODEL of this pack's tiny UNet."""
    config = comfy.supported_models.SD15({**UNET, **changes, "dtype": torch.float32})
    model = comfy.model_base.BaseModel(config, device="cpu")
    model.diffusion_model.load_state_dict(random_weights(model.diffusion_model, seed))
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


@functools.cache
def clip(width: int = FEATURE) -> comfy.sd.CLIP:
    """A text encoder with the tokens of CLIP ViT-L/14."""
    target = ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    config = {**TEXT_ENCODER, "hidden_size": width}
    encoder = comfy.sd.CLIP(target, model_options={"clip_l_model_config": config, "dtype": torch.float32})
    encoder.cond_stage_model.load_state_dict(random_weights(encoder.cond_stage_model))
    return encoder


def plugin(sizes: InteractDiffusionSizes = SIZES, blocks=tuple(BLOCKS), seed: int = 1) -> dict[str, Tensor]:
    """Random weights under the keys of the published plug-in file."""
    network = InteractDiffusion(sizes, torch.float32, "cpu", comfy.ops.disable_weight_init)
    return {in_file(name, blocks): weight for name, weight in random_weights(network, seed).items()}


def in_file(name: str, blocks) -> str:
    if not name.startswith("fusers."):
        return name
    _, index, leaf = name.split(".", 2)
    return f"{blocks[int(index)]}.transformer_blocks.0.fuser.{leaf}"


def load(folder, weights: dict[str, Tensor] | None = None) -> InteractDiffusionFile:
    """The weights, saved to a file and loaded."""
    save_file(weights or plugin(), folder / "plugin.safetensors")
    return load_interactdiffusion(str(folder / "plugin.safetensors"))


def encoded(*interactions: Interaction) -> encode.EncodedInteractions:
    return encode.encode_interactions(clip(), interactions)


def nothing(weights):
    return encode.make_empty_interactions(weights.network.sizes)


def text(seed: int, length: int = 11, **values) -> list:
    """A CONDITIONING of random text tokens."""
    generator = torch.Generator().manual_seed(100 + seed)
    return [[torch.randn(1, length, CONTEXT, generator=generator), values]]
