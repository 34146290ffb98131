"""Tiny random models of each family through the host's own loader, and adapters for them from files."""
from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from functools import cache, partial
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import comfy.latent_formats
import comfy.ldm.chroma.model
import comfy.ldm.flux.model
import comfy.ldm.lumina.model
import comfy.ldm.modules.diffusionmodules.mmdit
import comfy.ldm.qwen_image.model
import comfy.model_detection
import comfy.ops
import comfy.samplers
import comfy.sd
import comfy.supported_models
from comfy.model_patcher import ModelPatcher
from mditface.mdit.mditface.adapter.reader import apply_adapter
from mditface.mdit.mditface.adapter.config import AdapterConfig
from mditface.mdit.mditface.adapter.families import FAMILIES
from mditface.mdit.mditface.adapter.terms import Adapter
from mditface.mdit.mditface.adapter.weights import load_adapter
from mditface.mdit.mditface.mask import MaskInput
from mditface.mdit.mditface.reader import CacheOptions
from mditface.tests.mditface import runs, tiny

LATENT = (1, 16, 8, 8)
SIDE = 64  # pixels
CONDITION = 48  # a grid of 3 x 3, so that EasyControl's places are stretched to the 4 x 4 of the latent
SIGMA = 0.7
CONTEXT, POOLED = 24, 20


def make_mmdit_options(depth: int) -> dict:
    """Of the host's MMDiT, whose width follows from its depth."""
    embedder = dict(target="torch.nn.Linear", params=dict(in_features=CONTEXT, out_features=64 * depth))
    return dict(input_size=None, patch_size=2, in_channels=16, depth=depth, num_patches=16 ** 2, pos_embed_max_size=16,
                adm_in_channels=POOLED, context_embedder_config=embedder)


MMDIT = make_mmdit_options(3)
FLUX = dict(in_channels=16, out_channels=16, vec_in_dim=POOLED, context_in_dim=CONTEXT, hidden_size=256, mlp_ratio=4.0,
            num_heads=2, depth=2, depth_single_blocks=3, axes_dim=[16, 56, 56], theta=10000, patch_size=2,
            qkv_bias=True, guidance_embed=True, txt_ids_dims=[])
# as published but for the sizes and for FLUX.1's latent and patches, so that all families share one latent
FLUX2 = FLUX | dict(vec_in_dim=None, mlp_ratio=3.0, axes_dim=[32, 32, 32, 32], theta=2000, qkv_bias=False,
                    txt_ids_dims=[3], global_modulation=True, mlp_silu_act=True, ops_bias=False,
                    default_ref_method="index", ref_index_scale=10.0)
CHROMA = FLUX | dict(in_channels=64, out_channels=64, in_dim=64, out_dim=FLUX["hidden_size"], hidden_dim=96, n_layers=2)
del CHROMA["guidance_embed"]
KLEIN = FLUX2 | dict(guidance_embed=False)
QWEN = dict(patch_size=2, in_channels=64, out_channels=16, num_layers=3, attention_head_dim=32, num_attention_heads=2,
            joint_attention_dim=CONTEXT, axes_dims_rope=(8, 12, 12))
ZIMAGE = dict(patch_size=2, in_channels=16, dim=384, n_layers=3, n_refiner_layers=2, n_heads=12, n_kv_heads=12,
              ffn_dim_multiplier=8 / 3, qk_norm=True, cap_feat_dim=CONTEXT, axes_dims=[8, 12, 12], rope_theta=256.0,
              z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=8)
SIZES = {"qwen-image": (64, 3), "z-image": (384, (0, 3))}  # width and depth of the tiny networks; others below
FLUX_KIND = ("flux", "flux2", "klein", "chroma")  # their blocks are of the host's classes for FLUX
FLUX2_TEXT = 512  # tokens, to which the host pads FLUX.2's text on the left
SHALLOW = {"sd3": dict(width=128, depth=2), "flux": dict(depth=(1, 1))}  # of an adapter for a base of fewest blocks

KERNELS = pytest.mark.parametrize("kernel", ["attention_pytorch", "attention_sub_quad"], indirect=True)

run = partial(runs.run, latent=LATENT)


def prediction(model: ModelPatcher, positive, negative=(), x: Tensor | None = None, cfg: float = 1.0,
               options: CacheOptions = CacheOptions()) -> Tensor:
    """The model's prediction of the clean latent for the noisy latent x."""
    guider = comfy.samplers.CFGGuider(runs.reporting(model, options)[0])
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return runs.evaluate(guider, noisy() if x is None else x, SIGMA)


def noisy(batch: int = 1, height: int = 8, width: int = 8) -> Tensor:
    return torch.randn(batch, 16, height, width, generator=torch.Generator().manual_seed(1))


def network(family: str, shallow: bool = False) -> torch.nn.Module:
    """The host's class, without weights; with as few blocks as the host accepts if `shallow`."""
    make = dict(device="meta", dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    if family in FLUX_KIND:
        kind = comfy.ldm.chroma.model.Chroma if family == "chroma" else comfy.ldm.flux.model.Flux
        return kind(**make_flux_options(family, shallow), **make)
    if family == "qwen-image":
        return comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(**QWEN, **make)
    if family == "z-image":
        return comfy.ldm.lumina.model.NextDiT(**ZIMAGE, **make)
    second = dict(qk_norm="rms", x_block_self_attn_layers=[0, 1]) if family == "sd35" else {}
    options = make_mmdit_options(2) if shallow else MMDIT
    return comfy.ldm.modules.diffusionmodules.mmdit.MMDiT(**options, **second, **make)


def find_key(family: str) -> str:
    """Of the pack's family object."""
    return {"sd35": "sd3", "klein": "flux2"}.get(family, family)


def list_key_layers(family: str, i: int) -> list[str]:
    """The layers that make the image's keys in block i of the first kind."""
    path, layers = next(iter(FAMILIES[find_key(family)].blocks.values()))
    return [f"{path.format(i)}.{(layers.get('qkv') or layers['k']).path}"]


def count_parts(family: str) -> int:
    """How many widths the output of such a layer has."""
    return 1 if family == "qwen-image" else 3


def make_flux_options(family: str, shallow: bool = False) -> dict:
    options = {"flux": FLUX, "flux2": FLUX2, "klein": KLEIN, "chroma": CHROMA}[family]
    return options | dict(depth=1, depth_single_blocks=1) if shallow else options


NORMS = ("norm", "ln_q", "ln_k", "norm_q", "norm_k", "norm_added_q", "norm_added_k", "norm1", "norm2", "cap_embedder.0")


def random_weights(module: torch.nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep the size of what passes through the layers; those of norms are near 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, weight in module.state_dict().items():
        drawn = torch.randn(weight.shape, generator=generator)
        norm = name.rsplit(".", 1)[0].endswith(NORMS)
        weights[name] = 1 + 0.2 * drawn if norm else drawn * (0.3 if weight.ndim == 1 else weight[0].numel() ** -0.5)
    return weights


@cache
def published(family: str, seed: int = 0, shallow: bool = False) -> dict[str, Tensor]:
    """Random weights under the keys of the published files; not to be changed."""
    weights = random_weights(network(family, shallow), seed)
    if family not in FLUX_KIND:
        return weights
    return {name.replace("_norm.weight", "_norm.scale"): weight for name, weight in weights.items()}


@contextmanager
def detecting(family: str):
    """Inside, the host knows the sizes of tiny networks where it takes those of published ones for granted."""
    detect = comfy.model_detection.detect_unet_config
    if family in FLUX_KIND[1:]:
        def detect(state_dict, prefix, metadata=None):
            return {"image_model": find_key(family), **make_flux_options(family)}
    elif family == "qwen-image":
        def detect(state_dict, prefix, metadata=None):
            return {"image_model": "qwen_image", **QWEN}
    elif family == "z-image":
        def detect(state_dict, prefix, metadata=None):
            return {"image_model": "lumina2", **ZIMAGE}
    with (mock.patch.object(comfy.model_detection, "detect_unet_config", detect),
          mock.patch.object(comfy.supported_models.Flux2, "latent_format", comfy.latent_formats.Flux)):
        yield


def load(weights: dict[str, Tensor], family: str = "", **model_options) -> ModelPatcher:
    with detecting(family):
        return comfy.sd.load_diffusion_model_state_dict(dict(weights), model_options=model_options)


def config(family: str, **changes) -> AdapterConfig:
    width, depth = SIZES.get(family) or ((256, (2, 3)) if family in FLUX_KIND else (192, 3))
    made = AdapterConfig(find_key(family), width, depth, rank=2, alpha=3.0)
    return dataclasses.replace(made, **changes)


def terms(family: str, cfg: AdapterConfig, seed: int = 0) -> dict[str, Tensor]:
    """The keys of our own format, for all layers of all blocks."""
    generator = torch.Generator().manual_seed(seed)
    layers = FAMILIES[cfg.family].blocks
    weights = {}
    for kind, i in cfg.list_blocks():
        for name, layer in layers[kind].layers.items():
            n_out = 9 if (family, name) == ("sd35", "mod") and i < 2 else layer.n_out[0]
            inputs = int(layer.n_in * cfg.width)
            down = torch.randn(cfg.rank, inputs, generator=generator) * inputs ** -0.5
            up = torch.randn(int(n_out * cfg.width), cfg.rank, generator=generator) * 0.4
            weights |= {f"{kind}.{i}.{name}.down": down, f"{kind}.{i}.{name}.up": up}
    return weights


def easycontrol(seed: int = 0, rank: int = 2) -> dict[str, Tensor]:
    """The keys of a published EasyControl adapter."""
    generator, weights, width = torch.Generator().manual_seed(seed), {}, FLUX["hidden_size"]
    for blocks, count, layers in (("transformer_blocks", FLUX["depth"], ("q", "k", "v", "proj")),
                                  ("single_transformer_blocks", FLUX["depth_single_blocks"], ("q", "k", "v"))):
        for i in range(count):
            for layer in layers:
                name = f"{blocks}.{i}.attn.processor.{layer}_loras.0"
                weights[f"{name}.down.weight"] = torch.randn(rank, width, generator=generator) * width ** -0.5
                weights[f"{name}.up.weight"] = torch.randn(width, rank, generator=generator) * 0.6
    return weights


def ominicontrol(seed: int = 0, rank: int = 2) -> dict[str, Tensor]:
    """The keys of a published OminiControl LoRA."""
    generator = torch.Generator().manual_seed(seed)
    width = FLUX["hidden_size"]
    attention = {f"attn.to_{part}": (width, width) for part in "qkv"}
    layers = {
        "transformer_blocks": (FLUX["depth"], attention | {
            "norm1.linear": (width, 6 * width), "attn.to_out.0": (width, width), "ff.net.2": (4 * width, width)}),
        "single_transformer_blocks": (FLUX["depth_single_blocks"], attention | {
            "norm.linear": (width, 3 * width), "proj_mlp": (width, 4 * width), "proj_out": (5 * width, width)}),
    }
    sizes = {"x_embedder": (64, width)}
    for blocks, (count, inner) in layers.items():
        sizes |= {f"{blocks}.{i}.{layer}": size for i in range(count) for layer, size in inner.items()}
    weights = {}
    for module, (n_in, n_out) in sizes.items():
        name = f"transformer.{module}"
        weights[f"{name}.lora_A.weight"] = torch.randn(rank, n_in, generator=generator) * n_in ** -0.5
        weights[f"{name}.lora_B.weight"] = torch.randn(n_out, rank, generator=generator) * 0.4
    return weights


class AveragingVAE:
    """Encodes pictures (b, H, W, 3) to (b, 16, H / 8, W / 8) without weights: averages, projected."""

    def encode(self, pictures: Tensor) -> Tensor:
        cells = torch.nn.functional.avg_pool2d(pictures[..., :3].movedim(-1, 1), 8)  # (b, 3, h, w)
        projection = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
        return torch.einsum("oc,bchw->bohw", projection, cells * 2 - 1)

    def spacial_compression_encode(self) -> int:
        return 8


class FrameVAE(AveragingVAE):
    """The same for videos, as the host's VAE of Qwen-Image: a batch of pictures is one video."""
    latent_dim = 3

    def encode(self, pictures: Tensor) -> Tensor:
        """(b, T, H, W, 3), or one video (T, H, W, 3), to (b, 16, T, h, w)."""
        videos = pictures if pictures.ndim == 5 else pictures[None]
        return torch.stack([super(FrameVAE, self).encode(video).movedim(0, 1) for video in videos])


VAE = AveragingVAE()


def mask(batch: int = 1, seed: int = 0, reduction: str = "off") -> MaskInput:
    return tiny.mask(batch, seed, reduction, VAE)


def text(seed: int, length: int = 5, **values) -> list:
    """A CONDITIONING of random text tokens."""
    generator = torch.Generator().manual_seed(100 + seed)
    context, pooled = (torch.randn(*shape, generator=generator) for shape in ((1, length, CONTEXT), (1, POOLED)))
    return [[context, {"pooled_output": pooled, **values}]]


class Case(NamedTuple):
    """A base, an adapter that fits it with the tensors of its file, and the two together."""
    family: str
    base: ModelPatcher
    adapter: Adapter
    weights: dict[str, Tensor]
    condition: int | None = None

    @property
    def model(self) -> ModelPatcher:
        return self.apply(self.base)

    @property
    def of_flux_kind(self) -> bool:
        return self.family in FLUX_KIND

    @property
    def text_tokens(self) -> int:
        """Tokens of the positive text in the model."""
        return {"flux2": FLUX2_TEXT, "z-image": 8}.get(find_key(self.family), 5)

    @property
    def has_block_patches(self) -> bool:
        """Whether the host's loop calls patches of blocks."""
        return self.family != "z-image"

    def load(self, weights: dict[str, Tensor], **model_options) -> ModelPatcher:
        """A base of the same family with other weights."""
        return load(weights, self.family, **model_options)

    @property
    def prompted(self) -> bool:
        return self.adapter.config.mask_vec == "prompt_pooled"

    def apply(self, model: ModelPatcher, weight: float = 1.0) -> ModelPatcher:
        return apply_adapter(model, self.adapter, weight, self.condition)


def write(path, weights: dict[str, Tensor], cfg: AdapterConfig | None = None) -> Adapter:
    """The adapter of these tensors, by way of a file."""
    save_file(weights, str(path), None if cfg is None else cfg.to_metadata())
    return load_adapter(str(path))


def case(family: str, base: ModelPatcher, folder, seed: int = 0, **changes) -> Case:
    cfg = config(family, **changes)
    weights = terms(family, cfg, seed)
    return Case(family, base, write(folder / f"{family}.safetensors", weights, cfg), weights)


def easycontrol_case(base: ModelPatcher, folder) -> Case:
    weights = easycontrol()
    return Case("flux", base, write(folder / "easycontrol.safetensors", weights), weights, CONDITION)


def ominicontrol_case(base: ModelPatcher, folder, condition: int | None = None) -> Case:
    weights = ominicontrol()
    return Case("flux", base, write(folder / "ominicontrol.safetensors", weights), weights, condition)
