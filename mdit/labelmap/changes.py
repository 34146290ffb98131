"""What an edit of a label map changes: the region that must be drawn again, and a report."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from .classes import CLASSES, DISPLAY_NAMES

# From back to front: a part that goes away uncovers parts that stand before it in this list.
LAYERS = ("background", "cloth", "neck", "neck_l", "l_ear", "r_ear", "skin", "l_eye", "r_eye", "l_brow", "r_brow",
          "mouth", "u_lip", "l_lip", "nose", "ear_r", "hair", "eye_g", "hat")
BAND = 256  # rows that are softened at a time
LEAST_SHARE = 0.0005  # of the picture; the report passes over smaller changes of a class


def find_changed(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """The pixels (B, H, W) that have another class after an edit; both label maps are (B, H, W)."""
    return before != after


def find_uncovered(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """The pixels (B, H, W) whose class after an edit lies behind the class before, such as skin after glasses."""
    layers = torch.tensor([LAYERS.index(name) for name in CLASSES], device=before.device)
    return layers[after.long()] < layers[before.long()]


def widen_and_soften(region: torch.Tensor, pixels: int, feather: int, check: Callable[[], object] = bool
                     ) -> torch.Tensor:
    """Mask (B, H, W) in 0..1 of a region (B, H, W): 1 up to `pixels` around it, then falling to 0 within `feather`.

    check: called every few hundred rows; what it raises ends the work.
    """
    masks = torch.zeros(region.shape)
    reach = pixels + feather + 1
    step = max(BAND, reach)
    for one, mask in zip(region.cpu().numpy(), masks.numpy()):
        for top in range(0, len(one), step):
            check()
            above = max(0, top - reach)
            soft = _soften(one[above:top + step + reach], pixels, feather)
            mask[top:top + step] = soft[top - above:][:step]
    return masks.to(region.device)


def _soften(region: np.ndarray, pixels: int, feather: int) -> np.ndarray:
    """Mask (h, W) of a band (h, W)."""
    if not region.any():
        return np.zeros(region.shape, np.float32)
    away = distance_transform_edt(~region) - pixels  # (h, W), 0 or less inside
    soft = 1 - away / (feather + 1) if feather else away <= 0
    return np.clip(soft, 0, 1).astype(np.float32)


def describe_changes(before: torch.Tensor, after: torch.Tensor) -> Iterator[str]:
    """What an edit did to each class, the largest change first; both label maps are (H, W)."""
    rows = []
    for k, name in enumerate(DISPLAY_NAMES):
        old = before == k
        new = after == k
        difference = (old ^ new).float().mean().item()
        if difference >= LEAST_SHARE:
            rows.append((difference, describe_change(name, old.float().mean().item(), new.float().mean().item())))
    yield from (text for _, text in sorted(rows, reverse=True))


def describe_change(name: str, old: float, new: float) -> str:
    """A class whose share of the picture goes from `old` to `new`, with different pixels."""
    if not old:
        return f"{name} new: {new:.1%} of the picture"
    if not new:
        return f"{name} gone: {old:.1%} of the picture"
    if abs(new - old) < LEAST_SHARE:
        return f"{name} moved or changed shape"
    verb = "grew" if new > old else "shrank"
    return f"{name} {verb} by {abs(new - old):.1%} of the picture"
