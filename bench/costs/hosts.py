"""The host's models and ControlNets with random weights, whole or with few blocks that stand for all.

`family` is the key of the model's `Family`, from which the bench takes everything else that it knows of a model.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn as nn

import comfy.latent_formats
import comfy.ops
from comfy.cldm.dit_embedder import ControlNetEmbedder
from comfy.cldm.mmdit import ControlNet
from comfy.ldm.chroma.model import Chroma
from comfy.ldm.flux.controlnet import ControlNetFlux
from comfy.ldm.flux.model import Flux
from comfy.ldm.lumina.model import NextDiT
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper, get_2d_sincos_pos_embed_torch
from comfy.ldm.qwen_image.controlnet import QwenImageControlNetModel
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

from .formulas import LINEAR

CHANNELS = 16  # of a latent
PATCH = 2  # latent cells of a token's side
CELL = 8  # pixels of a latent cell's side
TEXT_WIDTH = 4096
UNION_MODES = 10


def fill_weights(module: nn.Module) -> nn.Module:
    """Fills weights such that layers somewhat shrink their input. Tables of positions become the published ones."""
    for name, weight in module.named_parameters():
        if weight.ndim > 1:
            weight.data.normal_(std=0.7 * weight[0].numel() ** -0.5)
        else:
            weight.data.fill_(not name.endswith("bias"))
    for name, table in module.named_buffers():
        side = math.isqrt(table.shape[1])
        table.copy_(get_2d_sincos_pos_embed_torch(table.shape[2], side, side, device=table.device))
    return module.eval().requires_grad_(False)


def make_factory(dtype: torch.dtype, device: torch.device) -> dict:
    return {"dtype": dtype, "device": device, "operations": comfy.ops.disable_weight_init}


@dataclass(frozen=True)
class Control:
    """A ControlNet.

    counts: how many of its kind a part stands for.
    adds: number of blocks that its output is added to.
    arguments: further arguments of its call.
    """
    module: nn.Module
    counts: dict[nn.Module, int]
    adds: int
    arguments: dict


@dataclass(frozen=True)
class Sizes:
    """What the sizes of most backbones share.

    head: width of a head. reference_latents: whether the host has a path for them.
    text_multiple: which the host fills the text up to. second, text_ends, refiners, linear: as in `run_costs`.
    """
    heads: int
    head = 128
    reference_latents = True
    text_multiple = 1
    second = 0
    text_ends = False
    refiners = 0
    linear = LINEAR

    @property
    def width(self) -> int:
        return self.head * self.heads

    @property
    def blocks(self) -> int:
        return len(self.count_blocks(whole=True)[0])


@dataclass(frozen=True)
class SD3Sizes(Sizes):
    """A model of SD3's class.

    control: number of the ControlNet's blocks, which are the host's InstantX ones.
    second: number of leading blocks with a second attention.
    image_only: the ControlNet is Stability's for SD3.5-large, which reads no text.
    """
    depth: int
    control: int
    second: int = 0
    qk_norm: str | None = None
    image_only: bool = False
    control_note: str = "as InstantX's for SD3-medium"
    family = "sd3"
    head = 64
    reference_latents = False
    text_tokens = 154
    pooled = 2048
    text_ends = True
    latent_format = comfy.latent_formats.SD3

    def count_blocks(self, whole: bool) -> tuple[list[int], int]:
        """How many each block stands for, and how many of these blocks are no single ones."""
        kinds = [1] * self.depth if whole else [n for n in (self.second, self.depth - self.second - 1, 1) if n]
        return kinds, len(kinds)

    def make_arguments(self, size: int, **changes) -> dict:
        side = size // CELL // PATCH
        text = {"target": "torch.nn.Linear", "params": {"in_features": TEXT_WIDTH, "out_features": self.width}}
        return {"input_size": None, "in_channels": CHANNELS, "depth": self.heads, "adm_in_channels": self.pooled,
                "context_embedder_config": text, "qk_norm": self.qk_norm, "pos_embed_max_size": side,
                "num_patches": side * side, **changes}

    def make_network(self, size: int, whole: bool, dtype: torch.dtype, device: torch.device) -> nn.Module:
        second = list(range(self.second if whole else min(self.second, 1)))
        return fill_weights(OpenAISignatureMMDITWrapper(
            **self.make_arguments(size, num_blocks=len(self.count_blocks(whole)[0]), x_block_self_attn_layers=second),
            **make_factory(dtype, device)))

    def list_modules(self, network: nn.Module) -> list[nn.Module]:
        return list(network.joint_blocks)

    def make_controlnet(self, size: int, whole: bool, dtype: torch.dtype, device: torch.device) -> Control:
        built = self.control if whole else 1
        each = 1 if whole else self.control
        if self.image_only:
            module = ControlNetEmbedder(None, PATCH, CHANNELS, self.head, self.heads, self.pooled, built, self.depth,
                                        True, device, dtype, operations=comfy.ops.disable_weight_init)
            blocks = module.transformer_blocks
            adds = self.depth
        else:
            module = ControlNet(**self.make_arguments(size, num_blocks=built, x_block_self_attn=bool(self.second)),
                                **make_factory(dtype, device))
            blocks = module.joint_blocks
            adds = self.depth // self.control * self.control - 1
        counts = dict.fromkeys([*blocks, *module.controlnet_blocks], each)
        return Control(fill_weights(module), counts, adds, {})


@dataclass(frozen=True)
class FluxSizes(Sizes):
    """A model of FLUX's class.

    control: the ControlNet's double and single blocks, as in the Union models; none where the host has no ControlNet.
    """
    doubles: int
    singles: int
    control: tuple[int, int]
    control_note: str = "double and single, as the Union models of InstantX and Shakker"
    family = "flux"
    network = Flux
    text_tokens = 512
    pooled = 768
    latent_format = comfy.latent_formats.Flux

    @property
    def blocks(self) -> int:
        return self.doubles + self.singles

    def count_blocks(self, whole: bool) -> tuple[list[int], int]:
        if whole:
            return [1] * self.blocks, self.doubles
        return [self.doubles, self.singles - 1, 1], 1

    def make_arguments(self, doubles: int, singles: int) -> dict:
        return {"in_channels": CHANNELS, "out_channels": CHANNELS, "vec_in_dim": self.pooled,
                "context_in_dim": TEXT_WIDTH, "hidden_size": self.width, "mlp_ratio": 4.0, "num_heads": self.heads,
                "depth": doubles, "depth_single_blocks": singles, "axes_dim": [16, 56, 56], "theta": 10000,
                "patch_size": PATCH, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []}

    def make_network(self, size: int, whole: bool, dtype: torch.dtype, device: torch.device) -> nn.Module:
        kinds, doubles = self.count_blocks(whole)
        arguments = self.make_arguments(doubles, len(kinds) - doubles)
        return fill_weights(self.network(**arguments, **make_factory(dtype, device)))

    def list_modules(self, network: nn.Module) -> list[nn.Module]:
        return [*network.double_blocks, *network.single_blocks]

    def make_controlnet(self, size: int, whole: bool, dtype: torch.dtype, device: torch.device) -> Control | None:
        if not any(self.control):
            return None
        built = self.control if whole else (1, 1)
        each = (1, 1) if whole else self.control
        module = ControlNetFlux(latent_input=True, num_union_modes=UNION_MODES, **self.make_arguments(*built),
                                **make_factory(dtype, device))
        doubles = dict.fromkeys([*module.double_blocks, *module.controlnet_blocks], each[0])
        singles = dict.fromkeys([*module.single_blocks, *module.controlnet_single_blocks], each[1])
        return Control(fill_weights(module), doubles | singles, self.blocks, {"control_type": [0]})


@dataclass(frozen=True)
class Flux2Sizes(FluxSizes):
    """A model of FLUX.2, for which the host has no ControlNet; `guidance` tells dev from Klein."""
    control: tuple[int, int] = (0, 0)
    control_note: str = "the host has none for this model"
    guidance: bool = False
    family = "flux2"
    linear = 26  # its MLP is gated, with three widths inside
    latent_format = comfy.latent_formats.Flux2

    def make_arguments(self, doubles: int, singles: int) -> dict:
        return super().make_arguments(doubles, singles) | {
            "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "mlp_ratio": 3.0,
            "axes_dim": [32, 32, 32, 32], "theta": 2000, "patch_size": 1, "qkv_bias": False, "txt_ids_dims": [3],
            "guidance_embed": self.guidance, "global_modulation": True, "mlp_silu_act": True, "ops_bias": False,
            "default_ref_method": "index", "ref_index_scale": 10.0}


@dataclass(frozen=True)
class ChromaSizes(FluxSizes):
    """A model of Chroma's class, for which the host has no ControlNet; `inner`: width of what makes its modulation."""
    control: tuple[int, int] = (0, 0)
    control_note: str = "the host has none for this model"
    inner: int = 5120
    family = "chroma"
    network = Chroma
    reference_latents = False

    def make_arguments(self, doubles: int, singles: int) -> dict:
        arguments = super().make_arguments(doubles, singles)
        del arguments["guidance_embed"]
        features = CHANNELS * PATCH ** 2
        return arguments | {"in_channels": features, "out_channels": features, "in_dim": 64, "out_dim": self.width,
                            "hidden_dim": self.inner, "n_layers": 5}


@dataclass(frozen=True)
class QwenSizes(Sizes):
    """A model of Qwen-Image's class; `control`: number of the ControlNet's blocks."""
    depth: int
    control: int
    control_note: str = "as InstantX's Union model"
    family = "qwen-image"
    text_tokens = 256
    pooled = 1  # it has no pooled text
    latent_format = comfy.latent_formats.Wan21

    def count_blocks(self, whole: bool) -> tuple[list[int], int]:
        kinds = [1] * self.depth if whole else [self.depth - 1, 1]
        return kinds, len(kinds)

    def make_arguments(self, blocks: int) -> dict:
        return {"patch_size": PATCH, "in_channels": CHANNELS * PATCH ** 2, "out_channels": CHANNELS,
                "num_layers": blocks, "attention_head_dim": self.head, "num_attention_heads": self.heads,
                "joint_attention_dim": TEXT_WIDTH}

    def make_network(self, size: int, whole: bool, dtype: torch.dtype, device: torch.device) -> nn.Module:
        arguments = self.make_arguments(len(self.count_blocks(whole)[0]))
        return fill_weights(QwenImageTransformer2DModel(**arguments, **make_factory(dtype, device)))

    def list_modules(self, network: nn.Module) -> list[nn.Module]:
        return list(network.transformer_blocks)

    def make_controlnet(self, size: int, whole: bool, dtype: torch.dtype, device: torch.device) -> Control:
        module = QwenImageControlNetModel(**self.make_arguments(self.control if whole else 1),
                                          **make_factory(dtype, device))
        counts = dict.fromkeys([*module.transformer_blocks, *module.controlnet_blocks], 1 if whole else self.control)
        return Control(fill_weights(module), counts, self.depth, {})


@dataclass(frozen=True)
class ZImageSizes(Sizes):
    """A model of Z-Image; `refiners`: number of blocks that each stream passes alone before the others."""
    depth: int
    control: int = 0
    control_note: str = "the host's for this model is a patch of the model: not measured"
    refiners: int = 2
    family = "z-image"
    text_tokens = 256
    text_multiple = 32
    pooled = 1  # it has no pooled text
    latent_format = comfy.latent_formats.Flux

    def count_blocks(self, whole: bool) -> tuple[list[int], int]:
        return [1] * self.depth if whole else [self.depth - 1, 1], 0

    def make_network(self, size: int, whole: bool, dtype: torch.dtype, device: torch.device) -> nn.Module:
        return fill_weights(NextDiT(
            patch_size=PATCH, in_channels=CHANNELS, dim=self.width, n_layers=len(self.count_blocks(whole)[0]),
            n_refiner_layers=self.refiners, n_heads=self.heads, n_kv_heads=self.heads, ffn_dim_multiplier=8 / 3,
            qk_norm=True, cap_feat_dim=TEXT_WIDTH, axes_dims=[32, 48, 48], rope_theta=256.0, z_image_modulation=True,
            time_scale=1000.0, pad_tokens_multiple=32, **make_factory(dtype, device)))

    def list_modules(self, network: nn.Module) -> list[nn.Module]:
        return list(network.layers)

    def make_controlnet(self, size: int, whole: bool, dtype: torch.dtype, device: torch.device) -> None:
        return None


BACKBONES: dict[str, Sizes] = {
    "sd3": SD3Sizes(heads=24, depth=24, control=6),
    "sd35m": SD3Sizes(heads=24, depth=24, control=12, second=13, qk_norm="rms",
                      control_note="no published size taken: the first half of the model's own"),
    "sd35l": SD3Sizes(heads=38, depth=38, control=19, qk_norm="rms", image_only=True,
                      control_note="as Stability's, which read no text"),
    "flux": FluxSizes(heads=24, doubles=19, singles=38, control=(5, 10)),
    "flux2-klein-4b": Flux2Sizes(heads=24, doubles=5, singles=20),
    "flux2-klein-9b": Flux2Sizes(heads=32, doubles=8, singles=24),
    "flux2-dev": Flux2Sizes(heads=48, doubles=8, singles=48, guidance=True),
    "chroma": ChromaSizes(heads=24, doubles=19, singles=38),
    "qwen-image": QwenSizes(heads=24, depth=60, control=5),
    "z-image": ZImageSizes(heads=30, depth=30),
}
