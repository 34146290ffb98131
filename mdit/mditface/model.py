"""The stand-alone MDiT (docs/design/mditface.md, sections 3 and 4)."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import comfy.ldm.common_dit
import comfy.patcher_extension
from comfy.ldm.flux.layers import timestep_embedding
from comfy.ldm.flux.math import rope

from ..shared.blocks import run_double_blocks
from ..shared.norm import layer_norm, modulate
from .attention import MaskRows
from .config import MDiTConfig
from .exemplar_branch import ExemplarBranch
from .layers import MDiTBlock
from .math import TIME_FEATURES, patchify, rescale_positions, unpatchify
from .proxy_stream import ProxyGrid, make_proxy_grid

MIN_SIGMA = 0.05  # below it the step from a clean-image prediction to a velocity would amplify its error


def make_mlp(n_in: int, width: int, dtype=None, device=None, operations=None) -> nn.Sequential:
    return nn.Sequential(operations.Linear(n_in, width, dtype=dtype, device=device), nn.SiLU(),
                         operations.Linear(width, width, dtype=dtype, device=device))


class Final(nn.Module):
    def __init__(self, width: int, features: int, dtype=None, device=None, operations=None):
        super().__init__()
        self.mod = operations.Linear(width, 2 * width, dtype=dtype, device=device)
        self.linear = operations.Linear(width, features, dtype=dtype, device=device)

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        shift, scale = self.mod(F.silu(vec)).unsqueeze(1).chunk(2, dim=-1)
        return self.linear(modulate(layer_norm(x), shift, scale))


class MDiT(nn.Module):
    """Predicts the flow velocity noise - image of a noisy latent.

    The mask enters as keys and values of each block (`MaskRows`). They depend neither on the time nor on the text, so
    `run_static_path` computes them from mask tokens once.
    """

    def __init__(self, config: MDiTConfig, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device, "operations": operations}
        features = config.in_channels * config.patch ** 2
        self.config = config
        self.dtype = dtype
        self.x_embed = operations.Linear(features, config.width, dtype=dtype, device=device)
        if config.own_mask_weights:
            self.mask_embed = operations.Linear(config.mask_features, config.width, dtype=dtype, device=device)
        self.text_embed = operations.Linear(config.text_dim, config.width, dtype=dtype, device=device)
        self.t_embed = make_mlp(TIME_FEATURES, config.width, **factory)
        self.y_embed = make_mlp(config.pooled_dim, config.width, **factory)
        self.blocks = nn.ModuleList([MDiTBlock(config, **factory) for _ in range(config.depth)])
        if config.exemplar_blocks:
            self.exemplar = ExemplarBranch(config, **factory)
        self.final = Final(config.width, features, **factory)

    def forward(self, x, timesteps, context=None, y=None, mask_rows: Sequence[MaskRows] = (), transformer_options={},
                **kwargs) -> Tensor:
        """The velocity (B, C, H, W) of a noisy latent.

        x: (B, C, H, W). timesteps: sigma, (B,) in 0..1; 0 is clean. context: (B, L, text_dim). y: (B, pooled_dim).
        mask_rows: cover all rows of the batch, in order; empty without a mask.
        """
        return comfy.patcher_extension.WrapperExecutor.new_class_executor(
            self._forward, self, comfy.patcher_extension.get_all_wrappers(
                comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options),
        ).execute(x, timesteps, context, y, mask_rows, transformer_options, **kwargs)

    def _forward(self, x, timesteps, context, y, mask_rows, transformer_options, **kwargs) -> Tensor:
        height, width = x.shape[-2:]
        patch = self.config.patch
        noisy = comfy.ldm.common_dit.pad_to_patch_size(x, (patch, patch))
        h, w = (side // patch for side in noisy.shape[-2:])
        img = self.x_embed(patchify(noisy, patch))  # (B, N, d), N = h * w
        txt = self.text_embed(context)  # (B, L, d)
        rows = torch.arange(h, dtype=torch.float32, device=img.device)
        columns = torch.arange(w, dtype=torch.float32, device=img.device)
        positions = torch.cartesian_prod(rows, columns)  # (N, 2)
        img, pe = self.add_positions(img, positions, transformer_options)
        vec = self.make_vector(timesteps, y)  # (B, d)
        proxy_grid = None
        if self.config.proxy_window:
            proxy_grid = make_proxy_grid(self.config.proxy_window, (h, w), img, positions,
                                         lambda x: self.encode_positions(x, transformer_options)[1])
        img = self.run_blocks(img, txt, vec, pe, mask_rows, transformer_options, proxy_grid)
        out = unpatchify(self.final(img, vec), patch, h, w)  # (B, C, h * patch, w * patch)
        if self.config.prediction == "clean":
            sigma = timesteps.clamp(min=MIN_SIGMA).to(out).view(-1, 1, 1, 1)
            out = (noisy - out) / sigma
        return out[..., :height, :width]

    def run_blocks(self, img, txt, vec, pe, mask_rows, transformer_options, proxy_grid: ProxyGrid | None = None
                   ) -> Tensor:
        def run(block: MDiTBlock, index: int, args: dict) -> dict:
            img, txt = block(args["img"], args["txt"], args["vec"], args["pe"], mask_rows, index,
                             args["transformer_options"], proxy_grid)
            if self.config.exemplar_blocks:
                img = self.exemplar(index, img, args["vec"], mask_rows)
            return {"img": img, "txt": txt}

        args = {"img": img, "txt": txt, "vec": vec, "pe": pe}
        return run_double_blocks(self.blocks, self.config.depth, args, run, transformer_options)["img"]

    def run_static_path(self, tokens: Tensor, positions: Tensor, transformer_options={}
                    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields each block's mask keys and values (b, H, M, D), after norm and rotation.

        tokens: (b, M, mask_features), as in `MaskTokens`. positions: (M, 2), rows and columns on the image's grid.
        """
        embed = self.mask_embed if self.config.own_mask_weights else self.x_embed
        msk, pe = self.add_positions(embed(tokens), positions, transformer_options)  # (b, M, d)
        zero = tokens.new_zeros(1)
        vec = self.make_vector(zero, zero.new_zeros(1, self.config.pooled_dim))  # (1, d)
        for i, block in enumerate(self.blocks):
            msk, k, v = block.run_static(msk, vec, pe, last=i + 1 == len(self.blocks))
            yield k, v

    def make_vector(self, timesteps: Tensor, y: Tensor) -> Tensor:
        return self.t_embed(timestep_embedding(timesteps, TIME_FEATURES).to(y.dtype)) + self.y_embed(y)

    def add_positions(self, tokens: Tensor, positions: Tensor, transformer_options) -> tuple[Tensor, Tensor | None]:
        """The tokens with their positions added, and the rotation of q and k; one of the two does nothing."""
        table, pe = self.encode_positions(positions, transformer_options)
        return (tokens if table is None else tokens + table.to(tokens.dtype)), pe

    def encode_positions(self, positions: Tensor, transformer_options) -> tuple[Tensor | None, Tensor | None]:
        """For (M, 2) either what is added to the tokens (M, d), or what rotates q and k (1, 1, M, D/2, 2, 2)."""
        scale = self.config.position_scale
        centered = scale * positions + (scale - 1) / 2  # the center of a token stays where it is in the image
        axes = rescale_positions(centered, transformer_options).unbind(-1)
        if self.config.pos == "sincos":
            quarter = self.config.width // 2
            return torch.cat([timestep_embedding(axis, quarter, time_factor=1.0) for axis in axes], dim=-1), None
        half = self.config.head_dim // 2
        return None, torch.cat([rope(axis[None], half, self.config.rope_theta) for axis in axes], dim=-3).unsqueeze(1)
