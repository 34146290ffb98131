"""The MMFace-DiT network (docs/design/mmface-dit.md, sections 2 and 3)."""
from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

import comfy.ldm.common_dit
import comfy.patcher_extension
from comfy.ldm.flux.math import rope

from ..shared.blocks import run_double_blocks
from .config import HEAD_DIM, MMFaceConfig
from .layers import FinalLayer, MMFaceBlock, PatchEmbed, PooledEmbed, TimeEmbed

TIME_FEATURES = 256
LAST_TIME = 999
KINDS = ("mask", "sketch")  # of the condition, in the order of the rows of modality_embedder


def compute_flow_time(tau: Tensor, time: str) -> Tensor:
    """The time that the network reads for tau (B,), 0 for noise and 1 for the image; `time`: an entry of TIMES.

    In training both numbers were rounded to bfloat16: docs/design/mmface-dit.md, section 5.
    """
    if time == "exact":
        return LAST_TIME * tau
    return (LAST_TIME * tau.to(torch.bfloat16)).float()


def compute_rotations(h: int, w: int, text: int, device=None) -> Tensor:
    """The rotations of h * w image tokens by row and column, then of `text` tokens, all at (0, 0).

    (1, 1, N + L, D / 2, 2, 2): rows turn the first half of a head, columns the second.
    """
    positions = torch.cartesian_prod(torch.arange(h, device=device), torch.arange(w, device=device))  # (N, 2)
    positions = torch.cat((positions, positions.new_zeros(text, 2)))
    axes = [rope(axis[None], HEAD_DIM // 2, 10000) for axis in positions.unbind(1)]
    return torch.cat(axes, dim=2).unsqueeze(1)


def run_block(block: MMFaceBlock, index: int, args: dict) -> dict:
    img, txt = block(args["img"], args["txt"], args["vec"], args["pe"], args["transformer_options"])
    return {"img": img, "txt": txt}


class MMFaceDiT(nn.Module):
    """Predicts the noise, or the flow velocity noise - image: the negative of the published network's."""

    def __init__(self, config: MMFaceConfig, dtype=None, device=None, operations=None):
        super().__init__()
        layers = {"dtype": dtype, "device": device, "operations": operations}
        width = config.width
        self.config = config
        self.dtype = dtype
        self.x_embedder = PatchEmbed(config.in_channels, width, config.patch, **layers)
        self.t_embedder = TimeEmbed(TIME_FEATURES, width, **layers)
        self.c_embedder = PooledEmbed(config.text, width, **layers)
        self.clip_seq_proj = operations.Linear(config.text, width, dtype=dtype, device=device)
        self.modality_embedder = operations.Embedding(len(KINDS), width, dtype=dtype, device=device)
        self.blocks = nn.ModuleList(MMFaceBlock(width, config.heads, **layers) for _ in range(config.depth))
        self.final_layer = FinalLayer(width, config.latent_channels * config.patch ** 2, **layers)

    def forward(self, x, timesteps, context=None, y=None, modality=None, transformer_options={}, **kwargs) -> Tensor:
        """The prediction (B, 16, H, W) for noisy latents and conditions together, x (B, 32, H, W).

        timesteps: (B,) in 0..999; for a flow 0 is noise. context: (B, L, text). y: (B, text).
        modality: (B,) indices of KINDS.
        """
        return comfy.patcher_extension.WrapperExecutor.new_class_executor(
            self._forward, self, comfy.patcher_extension.get_all_wrappers(
                comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options),
        ).execute(x, timesteps, context, y, modality, transformer_options, **kwargs)

    def _forward(self, x, timesteps, context, y, modality, transformer_options, **kwargs) -> Tensor:
        out = self.predict(x, timesteps, context, y, modality, transformer_options)
        return -out if self.config.objective == "flow" else out

    def predict(self, x, timesteps, context, y, modality, transformer_options={}) -> Tensor:
        """What the published network gives: the noise, or image - noise."""
        height, width = x.shape[2:]
        patch = self.config.patch
        x = comfy.ldm.common_dit.pad_to_patch_size(x, (patch, patch))
        h, w = (side // patch for side in x.shape[2:])
        img = self.x_embedder(x)  # (B, N, d), N = h * w
        txt = self.clip_seq_proj(context)  # (B, L, d)
        kind = self.modality_embedder(modality, out_dtype=img.dtype)
        vec = self.t_embedder(timesteps, img.dtype) + self.c_embedder(y) + kind  # (B, d)
        pe = compute_rotations(h, w, txt.shape[1], x.device)
        args = {"img": img, "txt": txt, "vec": vec, "pe": pe}
        img = run_double_blocks(self.blocks, self.config.depth, args, run_block, transformer_options)["img"]
        out = self.final_layer(img, vec).unflatten(2, (patch, patch, -1)).unflatten(1, (h, w))
        out = out.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # (B, C, h * patch, w * patch)
        return out[..., :height, :width]
