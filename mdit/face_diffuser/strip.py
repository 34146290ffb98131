"""The contests of a run as a picture."""
from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .record import Contest, FusionRecord

COLUMNS = 10
TILE = 112  # least height of a map, in pixels
GAP, LINE = 6, 18
PAPER, INK = 255, 0
ROWS = ("scene", "subject", "winner")
FONT = ImageFont.load_default(13)


def strip(record: FusionRecord) -> Tensor:
    """(B, H, W, 3) in 0..1: a column for each fused step with both saliency maps, on one scale of greys, and where the
    subject won, in white; the step and the share won below. Raises ValueError where no step was fused."""
    if not record.contests:
        raise ValueError("guider: no step was fused, so there is nothing to show: let a sampler run first, with "
                         "'fusion_end' above 'scene_end', and connect its latent")
    batch = next(iter(record.contests.values())).won.shape[0]
    return torch.stack([sheet(record, sample) for sample in range(batch)])


def sheet(record: FusionRecord, sample: int) -> Tensor:
    """(H, W, 3) in 0..1 of one picture of the batch."""
    columns = [column(step, Contest(*(part[sample, 0] for part in record.contests[step])))
               for step in sorted(record.contests)]
    wide = min(COLUMNS, len(columns))
    columns += [np.full_like(columns[0], PAPER)] * (-len(columns) % wide)
    bands = [np.concatenate([legend(columns[0].shape[0]), *columns[i:i + wide]], axis=1)
             for i in range(0, len(columns), wide)]
    grey = torch.from_numpy(np.concatenate(bands) / np.float32(255))
    return grey[..., None].expand(-1, -1, 3).contiguous()


def column(step: int, contest: Contest) -> np.ndarray:
    """(H, W) uint8: three maps one above the other, and a caption."""
    saliency = torch.stack([contest.scene, contest.subject.nan_to_num(neginf=-1e9)]).exp()
    maps = [*(saliency / saliency.max()), contest.won.float()]
    tiles = [tile((part.float() * 255).round().byte().numpy()) for part in maps]
    height, width = tiles[0].shape
    page = Image.new("L", (width + GAP, 3 * (height + GAP) + 2 * LINE), PAPER)
    for i, part in enumerate(tiles):
        page.paste(Image.fromarray(part), (0, i * (height + GAP)))
    draw = ImageDraw.Draw(page)
    for line, text in enumerate((f"step {step + 1}", f"{contest.won.float().mean().item():.1%}")):
        draw.text((width // 2, 3 * (height + GAP) + line * LINE), text, INK, FONT, anchor="ma")
    return np.asarray(page)


def tile(cells: np.ndarray) -> np.ndarray:
    """Cells (h, w), each as a square of whole pixels."""
    times = -(-TILE // cells.shape[0])
    return cells.repeat(times, axis=0).repeat(times, axis=1)


def legend(height: int) -> np.ndarray:
    """(H, W) uint8: names of the rows, which stand in equal heights above the caption."""
    page = Image.new("L", (64, height), PAPER)
    draw, row = ImageDraw.Draw(page), (height - 2 * LINE) / 3
    for i, name in enumerate(ROWS):
        draw.text((GAP, (i + 0.5) * row), name, INK, FONT, anchor="lm")
    return np.asarray(page)
