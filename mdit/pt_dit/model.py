"""The PT-DiT network (docs/design/pt-dit.md, sections 3 and 4)."""
from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import comfy.ldm.common_dit
import comfy.patcher_extension
from comfy.ldm.flux.layers import timestep_embedding

from ..shared.blocks import run_double_blocks
from ..shared.norm import layer_norm, modulate
from ..shared.windows import MASKED, Grid3D, build_layout
from .config import PTDiTConfig, PTDiTSettings
from .layers import PTDiTBlock, split_modulation

OPTIONS_KEY = "mdit_pt_dit"  # of the transformer options: PTDiTSettings
TIME_FEATURES = 256


class PatchEmbed(nn.Module):
    def __init__(self, config: PTDiTConfig, dtype=None, device=None, operations=None):
        super().__init__()
        self.proj = operations.Conv2d(config.in_channels, config.width, config.patch, config.patch, dtype=dtype,
                                      device=device)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H * p, W * p) -> (B, N, d), N = F * H * W."""
        frames = self.proj(x.transpose(1, 2).flatten(0, 1))  # (B * F, d, H, W)
        return frames.flatten(2).transpose(1, 2).reshape(x.shape[0], -1, frames.shape[1])


class TwoLinears(nn.Module):
    def __init__(self, n_in: int, width: int, activation, dtype=None, device=None, operations=None):
        super().__init__()
        self.activation = activation
        self.linear_1 = operations.Linear(n_in, width, dtype=dtype, device=device)
        self.linear_2 = operations.Linear(width, width, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.activation(self.linear_1(x)))


class AdaLayerNormSingle(nn.Module):
    """The time as one vector (B, d), and as six vectors that all blocks share (B, 6, d)."""

    def __init__(self, width: int, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.emb = nn.ModuleDict({"timestep_embedder": TwoLinears(TIME_FEATURES, width, F.silu, **factory,
                                                                  operations=operations)})
        self.linear = operations.Linear(width, 6 * width, **factory)

    def forward(self, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        features = timestep_embedding(t.float(), TIME_FEATURES, time_factor=1.0)
        vec = self.emb["timestep_embedder"](features.to(dtype))
        return vec, self.linear(F.silu(vec)).unflatten(1, (6, -1))


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def compute_sines(count: int, size: int, device=None) -> Tensor:
    """Sine and cosine features (count, size) of the positions 0, 1, ..., computed in float64."""
    half = size // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(count, dtype=torch.float64), frequencies)
    return torch.cat((angles.sin(), angles.cos()), dim=1).float().to(device)


def build_position_table(grid: Grid3D, width: int, positions: str, device=None) -> Tensor:
    """The fixed position table (N, d) float32 (docs/design/pt-dit.md, section 4).

    `rowcol` gives each token its column and row. `reference` mixes them up on grids that are not square, as the
    authors' program does.
    """
    frames, rows, columns = grid
    number = torch.arange(rows * columns, device=device)
    fast, slow = (columns, rows) if positions == "rowcol" else (rows, columns)
    space = 3 * width // 8
    first = compute_sines(fast, space, device)[number % fast]  # (H * W, 3d / 8)
    second = compute_sines(slow, space, device)[number // fast]  # (H * W, 3d / 8)
    spatial = torch.cat((first, second), dim=1)
    time = compute_sines(frames, width // 4, device).repeat_interleave(len(number), 0)  # (N, d / 4)
    return torch.cat((time, spatial.repeat(frames, 1)), dim=1)


class PTDiT(nn.Module):
    """Predicts the flow velocity noise - image: the negative of the first channels of the published network."""

    def __init__(self, config: PTDiTConfig, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        layers = {**factory, "operations": operations}
        self.config = config
        self.dtype = dtype
        self.pos_embed = PatchEmbed(config, **layers)
        self.adaln_single = AdaLayerNormSingle(config.width, **layers)
        self.caption_projection = TwoLinears(config.caption, config.width, gelu_tanh, **layers)
        self.transformer_blocks = nn.ModuleList(
            PTDiTBlock(config.width, config.heads, **layers) for _ in range(config.depth))
        self.scale_shift_table = nn.Parameter(torch.empty(2, config.width, **factory))
        self.proj_out = operations.Linear(config.width, config.out_channels * config.patch ** 2, **factory)

    def forward(self, x, timesteps, context=None, attention_mask=None, transformer_options={}, **kwargs) -> Tensor:
        """x (B, C, H, W) or (B, C, F, H, W) noisy latent, timesteps (B,) in 0..1000 (0 is clean), context
        (B, L, caption), attention_mask (B, L), 1 for text that is read. Returns the velocity in the shape of x.

        `transformer_options` may hold PTDiTSettings under OPTIONS_KEY. Raises ValueError for a latent with other
        channels or smaller than one window.
        """
        return comfy.patcher_extension.WrapperExecutor.new_class_executor(
            self._forward, self, comfy.patcher_extension.get_all_wrappers(
                comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options),
        ).execute(x, timesteps, context, attention_mask, transformer_options, **kwargs)

    def _forward(self, x, timesteps, context, attention_mask, transformer_options, **kwargs) -> Tensor:
        if x.ndim == 4:
            return self._forward(x.unsqueeze(2), timesteps, context, attention_mask, transformer_options).squeeze(2)
        out = self.predict(x, timesteps, context, attention_mask, transformer_options)
        return -out[:, :x.shape[1], :, :x.shape[3], :x.shape[4]]

    def predict(self, x, timesteps, context, attention_mask=None, transformer_options={}) -> Tensor:
        """All channels of the published network, (B, out_channels, F, H, W), with H and W padded to whole patches.

        The first channels are image - noise.
        """
        settings = transformer_options.get(OPTIONS_KEY, self.config.settings)
        self.check_latent(x, settings)
        patch = self.config.patch
        x = comfy.ldm.common_dit.pad_to_patch_size(x, (1, patch, patch))
        grid = (x.shape[2], x.shape[3] // patch, x.shape[4] // patch)
        x = self.pos_embed(x)  # (B, N, d)
        x = (x + build_position_table(grid, self.config.width, settings.positions, x.device)).to(x.dtype)  # in float32
        vec, vectors = self.adaln_single(timesteps, x.dtype)
        text = self.caption_projection(context)  # (B, L, d)
        bias = None if attention_mask is None else ((1 - attention_mask.to(x)) * MASKED).unsqueeze(1)  # (B, 1, L)
        layout = build_layout(grid, settings.window, settings.proxies, x)
        x = self.run_blocks(x, text, bias, vectors, layout, transformer_options)
        shift, scale = split_modulation(self.scale_shift_table, vec.unsqueeze(1))
        x = self.proj_out(modulate(layer_norm(x), shift, scale))  # (B, N, p * p * C)
        x = x.view(x.shape[0], *grid, patch, patch, self.config.out_channels)
        return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(3, 4).flatten(4)

    def check_latent(self, x: Tensor, settings: PTDiTSettings):
        if x.shape[1] != self.config.in_channels:
            raise ValueError(f"latent_image: it has {x.shape[1]} channels, PT-DiT works on {self.config.in_channels}: "
                             "encode the image with the VAE of 'Load PT-DiT VAE', or start from an empty latent")
        grid = (x.shape[2], *(-(-side // self.config.patch) for side in x.shape[3:]))
        if any(side < window for side, window in zip(grid, settings.window)):
            raise ValueError(f"latent_image: its {describe_grid(grid)} are below one window of "
                             f"{describe_grid(settings.window)}: make the image larger, or the window smaller with "
                             "'Set PT-DiT Windows'")

    def run_blocks(self, x, text, text_bias, vec, layout, transformer_options) -> Tensor:
        def run(block: PTDiTBlock, index: int, args: dict) -> dict:
            return {"img": block(args["img"], args["txt"], text_bias, args["vec"], layout, args["transformer_options"])}

        args = {"img": x, "txt": text, "vec": vec}
        return run_double_blocks(self.transformer_blocks, self.config.depth, args, run, transformer_options)["img"]


def describe_grid(grid: Grid3D) -> str:
    frames, rows, columns = grid
    return f"{frames} frames, {rows} rows and {columns} columns of tokens"
