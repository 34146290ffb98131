"""Sampling with mask and text guidance, straight on the model (docs/design/mditface.md, section 3.8)."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..labelmap import CLASSES, resize_nearest, to_image
from ..mditface.attention import ExemplarKeys, MaskRows
from ..mditface.guidance import SHEET_GUIDANCE, Guidance, add_mask_guidance
from ..mditface.model import MDiT
from ..mditface.text import PAD, TextEncoder
from ..mditface.tokens import average_classes
from .flow import Velocity, follow_flow


def make_mask_inputs(labels: Tensor, model: MDiT, side: int | None = None) -> tuple[Tensor, Tensor]:
    """Mask tokens (B, M, features) of label maps (B, S, S), and their positions (M, 2).

    side: tokens along a side; by default, those of an image of S pixels.
    """
    side = side or labels.shape[-1] // model.config.patch
    axis = torch.arange(float(side), device=labels.device)
    visible = torch.ones(len(CLASSES), device=labels.device)
    tokens = average_classes(labels, visible, model.config.mask_cells, labels.shape[-1] // side)
    return tokens, torch.cartesian_prod(axis, axis)


def sample(model: MDiT, encoder: TextEncoder, labels: Tensor, ids: Tensor, seed: int, steps: int = 20,
           guidance: Guidance = SHEET_GUIDANCE, exemplar: ExemplarKeys | None = None) -> Tensor:
    """Images (B, S, S, 3) uint8 of label maps (B, S, S) uint8 and word ids (B, L), of a model that draws pixels."""
    x = sample_latents(model, encoder, labels, ids, labels.shape[1], seed, steps, guidance, exemplar)
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


@torch.no_grad()
def sample_latents(model: MDiT, encoder: TextEncoder, labels: Tensor, ids: Tensor, side: int, seed: int,
                   steps: int = 20, guidance: Guidance = SHEET_GUIDANCE,
                   exemplar: ExemplarKeys | None = None) -> Tensor:
    """What the model draws, (B, C, side, side), for label maps (B, S, S) uint8 and word ids (B, L), by Euler steps."""
    velocity = make_guided_velocity(model, encoder, labels, ids, side, guidance=guidance, exemplar=exemplar)
    like = torch.empty(len(labels), model.config.in_channels, side, side, device=labels.device)
    return follow_flow(velocity, like, torch.linspace(1, 0, steps + 1), seed)


def make_guided_velocity(model: MDiT, encoder: TextEncoder, labels: Tensor, ids: Tensor, side: int, *,
                         guidance: Guidance = SHEET_GUIDANCE, exemplar: ExemplarKeys | None = None) -> Velocity:
    """The velocity of latents (B, C, side, side). Label maps and word ids as above.

    The formula is DualGuider's; m is read with the exemplar, if there is one.
    """
    batch = labels.shape[0]
    tokens, positions = make_mask_inputs(labels, model, side // model.config.patch)
    kv = list(model.run_static_path(tokens, positions))
    mask_rows = [MaskRows(slice(0, 2 * batch), kv, exemplar=exemplar), MaskRows(slice(2 * batch, None), None)]
    context, y = encoder(torch.cat([ids, torch.full_like(ids, PAD).repeat(2, 1)]))

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        v_mt, v_m, v_0 = model(x.repeat(3, 1, 1, 1), sigma.repeat(3), context, y, mask_rows).chunk(3)
        return add_mask_guidance(v_m + guidance.text * (v_mt - v_m), v_m, v_0, guidance.mask)

    return predict


def make_sheet(labels: Tensor, *rows: Tensor, columns: int = 12) -> np.ndarray:
    """An image (H, W, 3) uint8 of label maps (B, s, s) above each of `rows` of images (B, S, S, 3), all uint8."""
    labels = resize_nearest(labels, rows[0].shape[1], rows[0].shape[2])
    bands = [(to_image(labels) * 255).round().to(torch.uint8), *rows]
    columns = min(columns, len(labels))
    lines = [np.concatenate(list(band[i:i + columns].numpy()), axis=1)
             for i in range(0, len(labels) - columns + 1, columns) for band in bands]
    return np.concatenate(lines)


def save_sheet(path: Path, labels: Tensor, *rows: Tensor) -> None:
    """Writes the image that `make_sheet` makes."""
    Image.fromarray(make_sheet(labels, *rows)).save(path)
