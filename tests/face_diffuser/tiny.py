"""Tiny random models of the families that can be fused, and a text encoder."""
from __future__ import annotations

import functools

import torch
from torch import Tensor

import comfy.model_base
import comfy.samplers
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
from comfy.model_base import ModelType
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import ClipTarget
from mditface.mdit.face_diffuser.guider import FusionGuider

CPU = torch.device("cpu")
CONTEXT, POOLED = 24, 20
UNET = dict(image_size=8, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1, 1], channel_mult=(1, 2),
            num_heads=4, num_head_channels=-1, use_spatial_transformer=True, transformer_depth=[1, 0],
            transformer_depth_middle=1, transformer_depth_output=[1, 1, 0, 0], context_dim=CONTEXT, legacy=False)
MMDIT = dict(input_size=None, patch_size=2, in_channels=16, depth=2, num_patches=256, pos_embed_max_size=16,
             adm_in_channels=POOLED,
             context_embedder_config=dict(target="torch.nn.Linear", params=dict(in_features=CONTEXT, out_features=128)))
FLUX = dict(in_channels=16, out_channels=16, vec_in_dim=POOLED, context_in_dim=CONTEXT, hidden_size=128, mlp_ratio=2.0,
            num_heads=1, depth=1, depth_single_blocks=1, axes_dim=[16, 56, 56], theta=10000, patch_size=2,
            qkv_bias=True, guidance_embed=True, txt_ids_dims=[])
SDXL = {**UNET, "model_channels": 64, "num_classes": "sequential", "adm_in_channels": POOLED + 6 * 256}
FAMILIES = {
    "sd15": (comfy.supported_models.SD15, UNET, comfy.model_base.BaseModel, ModelType.EPS),
    "sd15-v": (comfy.supported_models.SD15, UNET, comfy.model_base.BaseModel, ModelType.V_PREDICTION),
    "sdxl": (comfy.supported_models.SDXL, SDXL, comfy.model_base.SDXL, ModelType.EPS),
    "sd3": (comfy.supported_models.SD3, MMDIT, comfy.model_base.SD3, ModelType.FLOW),
    "flux": (comfy.supported_models.Flux, FLUX, comfy.model_base.Flux, ModelType.FLUX),
}
TEXT_ENCODER = dict(hidden_size=64, num_attention_heads=2, num_hidden_layers=1, intermediate_size=64)


def random_weights(module: torch.nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep the scale of activations; norms are near 1."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for name, weight in module.state_dict().items():
        drawn = torch.randn(weight.shape, generator=generator)
        small = weight.numel() ** -0.5 if weight.ndim < 2 else weight[0].numel() ** -0.5
        weights[name] = 1 + 0.2 * drawn if weight.ndim == 1 and "norm" in name else drawn * small
    return weights


@functools.cache
def model(family: str = "sd15", seed: int = 0) -> ModelPatcher:
    """A MODEL with weights of its own."""
    kind, sizes, base, model_type = FAMILIES[family]
    config = kind({**sizes, "dtype": torch.float32})
    made = base(config, model_type=model_type, device=CPU)
    made.diffusion_model.load_state_dict(random_weights(made.diffusion_model, seed))
    return ModelPatcher(made, CPU, CPU)


def text(seed: int, **values) -> list:
    """A CONDITIONING of random numbers."""
    generator = torch.Generator().manual_seed(100 + seed)
    context, pooled = (torch.randn(*shape, generator=generator) for shape in ((1, 7, CONTEXT), (1, POOLED)))
    return [[context, {"pooled_output": pooled, **values}]]


TEXTS = [text(seed) for seed in range(4)]  # scene positive and negative, subject positive and base


def fusion(scene: ModelPatcher, subject: ModelPatcher, *args, texts=TEXTS, scales=(3.0, 2.0), **kwargs) -> FusionGuider:
    guider = FusionGuider(scene, subject, *args, **kwargs)
    guider.set_conds(*texts[:2])
    guider.subject.set_conds(*texts[2:])
    guider.set_scales(*scales)
    return guider


def plain(patcher: ModelPatcher, positive: list, negative: list, scale: float) -> comfy.samplers.CFGGuider:
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(positive, negative)
    guider.set_cfg(scale)
    return guider


def run(guider, steps: int = 4, sampler: str = "euler", latent: Tensor | None = None, seed: int = 0, shape=(1, 8, 8),
        **kwargs) -> Tensor:
    """The latent that a guider samples; `shape` is batch, height and width."""
    base = guider.model_patcher.model
    batch, *size = shape
    latent = torch.zeros(batch, base.latent_format.latent_channels, *size) if latent is None else latent
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    sigmas = comfy.samplers.calculate_sigmas(base.model_sampling, "simple", steps)
    kwargs = {"disable_pbar": True, "seed": seed, **kwargs}
    return guider.sample(noise, latent, comfy.samplers.sampler_object(sampler), sigmas, **kwargs)


class Once:
    """A sampler that asks for one prediction of x at sigma and stores it."""

    def __init__(self, x: Tensor):
        self.x = x

    def sample(self, guider, sigmas, extra_args, callback, noise, *args) -> Tensor:
        self.output = guider(self.x, sigmas[:1].expand(len(self.x)), **extra_args)
        return noise


def evaluate(guider, x: Tensor, sigma: float) -> Tensor:
    """The clean latent that a guider predicts in its first step."""
    once = Once(x)
    guider.sample(torch.zeros_like(x), torch.zeros_like(x), once, torch.tensor([sigma, 0.0]), seed=0)
    return once.output


@functools.cache
def clip(width: int = 64) -> comfy.sd.CLIP:
    """A text encoder with the tokens of CLIP ViT-L/14."""
    config = {**TEXT_ENCODER, "hidden_size": width}
    encoder = comfy.sd.CLIP(ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
                            model_options={"clip_l_model_config": config, "dtype": torch.float32})
    encoder.cond_stage_model.load_state_dict(random_weights(encoder.cond_stage_model))
    return encoder
