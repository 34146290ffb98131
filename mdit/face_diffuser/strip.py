"""The saliency maps of a run as an image."""
from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .record import FusedStep, FusionRecord

COLUMNS = 10
TILE = 112  # least height of a map, in pixels
GAP = 6
LINE = 18  # height of a line of text
LEGEND = 64  # width of the row names
PAPER = 255
INK = 0
ROWS = ("scene", "subject", "winner")
FONT = ImageFont.load_default(13)


def draw_strip(record: FusionRecord) -> Tensor:
    """(B, H, W, 3) in 0..1 with a column for each fused step.

    A column shows both saliency maps on one gray scale, the subject's cells in white, the step and the fraction won.
    Raises ValueError if no step was fused.
    """
    if not record.fused_steps:
        raise ValueError("guider: no step was fused, so there is nothing to show: let a sampler run first, with "
                         "'fusion_end' above 'scene_end', and connect its latent")
    batch = next(iter(record.fused_steps.values())).scene.shape[0]
    return torch.stack([draw_sample(record, i) for i in range(batch)])


def draw_sample(record: FusionRecord, sample: int) -> Tensor:
    """(H, W, 3) in 0..1 of one sample of the batch."""
    columns = [draw_column(step, maps, sample) for step, maps in sorted(record.fused_steps.items())]
    count = min(COLUMNS, len(columns))
    columns += [np.full_like(columns[0], PAPER)] * (-len(columns) % count)
    legend = draw_legend(columns[0].shape[0])
    bands = []
    for i in range(0, len(columns), count):
        bands.append(np.concatenate([legend, *columns[i:i + count]], axis=1))
    gray = torch.from_numpy(np.concatenate(bands) / np.float32(255))
    return gray[..., None].expand(-1, -1, 3).contiguous()


def draw_column(step: int, maps: FusedStep, sample: int) -> np.ndarray:
    """(H, W) uint8: three maps one above the other, and a caption."""
    subject_mask = maps.subject_mask[sample, 0].float()  # (h, w)
    subject = maps.subject[sample, 0].nan_to_num(neginf=-1e9)
    saliency = torch.stack([maps.scene[sample, 0], subject]).exp()
    scene, subject = saliency / saliency.max()
    tiles = [draw_tile(scene), draw_tile(subject), draw_tile(subject_mask)]
    height, width = tiles[0].shape
    page = Image.new("L", (width + GAP, len(tiles) * (height + GAP) + 2 * LINE), PAPER)
    for i, tile in enumerate(tiles):
        page.paste(Image.fromarray(tile), (0, i * (height + GAP)))
    draw = ImageDraw.Draw(page)
    top = len(tiles) * (height + GAP)
    draw.text((width // 2, top), f"step {step + 1}", INK, FONT, anchor="ma")
    draw.text((width // 2, top + LINE), f"{subject_mask.mean().item():.1%}", INK, FONT, anchor="ma")
    return np.asarray(page)


def draw_tile(values: Tensor) -> np.ndarray:
    """A map (h, w) in 0..1 as uint8, each cell a square of whole pixels."""
    cells = (values.float() * 255).round().byte().cpu().numpy()
    times = -(-TILE // cells.shape[0])
    return cells.repeat(times, axis=0).repeat(times, axis=1)


def draw_legend(height: int) -> np.ndarray:
    """(H, W) uint8: names of the rows, which have equal heights above the caption."""
    page = Image.new("L", (LEGEND, height), PAPER)
    draw = ImageDraw.Draw(page)
    row = (height - 2 * LINE) / len(ROWS)
    for i, name in enumerate(ROWS):
        draw.text((GAP, (i + 0.5) * row), name, INK, FONT, anchor="lm")
    return np.asarray(page)
