"""Line art of a label map and its relief (docs/design/control-maps.md, section 3)."""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d, maximum_filter
from torch import Tensor

import comfy.model_management

from ..labelmap import CLASSES, find_class

STYLES = {
    "soft": "lines that fade out, for soft-edge models.",
    "thin": "lines of one pixel, for canny models.",
    "thick": "lines of three pixels and more, for scribble models.",
}
# How strong the outline of a class is; that between two classes has the product of both.
STRENGTHS = {"nose": 0.4, "hair": 0.7, "ear_r": 0.8, "neck_l": 0.8, "l_ear": 0.8, "r_ear": 0.8, "hat": 0.9,
             "eye_g": 0.9, "mouth": 0.9, "cloth": 0.9, "neck": 0.9}
CREASED = tuple(map(find_class, ("skin", "nose", "neck", "u_lip", "l_lip")))
SMOOTHED = 5  # of the network's pixels, over which its depth is averaged for creases
CREASE_STEP = 3  # of the network's pixels, from a crease to its sides
FAINTEST_CREASE, DEEPEST_CREASE = 0.006, 0.03  # bend of the depth, in units of its range
CREASE = 0.7  # strength of the deepest crease
LEAST = 0.45  # strength of a line that is drawn in one tone
TAIL = 3  # deviations up to which a soft line reaches
UNIT = 512  # pixels of a map's longer side for which soft lines have a deviation of one pixel


def make_strengths() -> Tensor:
    """The strength of the outline between each two classes, (19 * 19,)."""
    own = torch.tensor([STRENGTHS.get(name, 1.0) for name in CLASSES])
    return (own[:, None] * own * (1 - torch.eye(len(CLASSES)))).flatten()


def find_outlines(labels: Tensor) -> Tensor:
    """Outlines (H, W) in 0..1, one pixel wide, of the classes of a label map (H, W)."""
    strengths = make_strengths()
    index = labels.long()
    lines = torch.zeros(labels.shape)
    lines[:, :-1] = strengths[index[:, :-1] * len(CLASSES) + index[:, 1:]]
    below = strengths[index[:-1] * len(CLASSES) + index[1:]]
    lines[:-1] = torch.maximum(lines[:-1], below)
    return lines


def find_creases(depth: Tensor, small: Tensor) -> Tensor:
    """Creases (S, S) in 0..1 of depth (S, S) whose map is `small`: where skin lies behind both of its sides."""
    reach = CREASE_STEP
    depth = F.avg_pool2d(depth[None, None], SMOOTHED, 1, SMOOTHED // 2, count_include_pad=False)[0, 0]
    padded = F.pad(depth[None, None], (reach,) * 4, mode="replicate")[0, 0]
    rows = (padded[:-2 * reach, reach:-reach] + padded[2 * reach:, reach:-reach]) / 2 - depth
    columns = (padded[reach:-reach, :-2 * reach] + padded[reach:-reach, 2 * reach:]) / 2 - depth
    bend = torch.maximum(rows, columns)
    skin = torch.isin(small, torch.tensor(CREASED, dtype=small.dtype)).float()
    reach += SMOOTHED // 2  # what another class has a share in is no crease
    inside = -F.max_pool2d(-F.pad(skin[None, None], (reach,) * 4), 2 * reach + 1, 1)[0, 0]
    return CREASE * inside * ((bend - FAINTEST_CREASE) / (DEEPEST_CREASE - FAINTEST_CREASE)).clamp(0, 1)


def draw_lines(labels: Tensor, creases: Tensor, style: str) -> Tensor:
    """Lines (H, W) in 0..1 of a label map (H, W) and its creases (H, W), in one of STYLES."""
    outlines = find_outlines(labels)
    scale = max(labels.shape) / UNIT
    if style == "soft":
        return torch.maximum(blur(outlines, max(0.6, scale)), creases)
    drawn = (outlines >= LEAST) | ((creases >= LEAST) & find_ridges(creases))
    if style == "thin":
        return drawn.float()
    reach = max(1, round(scale))
    return torch.from_numpy(maximum_filter(drawn.numpy(), 2 * reach + 1)).float()


def find_ridges(x: Tensor) -> Tensor:
    """Where values (H, W) are larger than beside them, in rows or in columns."""
    left, right, above, below = (F.pad(x, sides) for sides in ((1, -1), (-1, 1), (0, 0, 1, -1), (0, 0, -1, 1)))
    return ((x > left) & (x >= right)) | ((x > above) & (x >= below))


def blur(lines: Tensor, deviation: float) -> Tensor:
    """Lines (H, W) of one pixel that fade out to both sides; a straight line keeps its strength."""
    point = np.zeros(2 * int(TAIL * deviation) + 3)
    point[len(point) // 2] = 1
    peak = gaussian_filter1d(point, deviation, truncate=TAIL).max().item()
    soft = lines.numpy()
    for axis in (0, 1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        soft = gaussian_filter1d(soft, deviation, axis, mode="constant", truncate=TAIL)
    return torch.from_numpy(soft / peak).clamp_(0, 1)
