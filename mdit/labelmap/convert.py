"""Between label-map pictures, class indices and masks (spec mditface.md, 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .classes import CLASSES, ORDERS, PALETTE

# What a picture shows for the k-th class of its order, in 8-bit RGB.
PALETTES = {
    "colours": PALETTE,
    "grey indices": tuple((k, k, k) for k in range(len(CLASSES))),
    "index picture": tuple((round(255 * k / 18),) * 3 for k in range(len(CLASSES))),
}

# Blended edges and compression leave a few per cent of odd colours in a good map; a photograph or a map in
# another palette has most of its pixels far off.
MAX_FAR_SHARE = 0.10


def to_indices(
    image: torch.Tensor, palette: str = "colours", order: str = "CelebAMask-HQ",
) -> torch.Tensor:
    """Class indices of label-map pictures, each pixel snapped to the nearest palette entry.

    image: (B, H, W, 3) in 0..1; a fourth channel is ignored.
    palette: "colours" (the CelebAMask-HQ palette), "grey indices" (grey level k of 255 for class k) or
        "index picture" (the 19 classes spread over all grey levels, level round(255 k / 18)).
    order: the class order that k counts in, a key of ORDERS; with "colours", k is the row in the palette.
    Returns (B, H, W) uint8 in CelebAMask-HQ order.

    A pixel is far when its nearest entry is further away than the two closest entries of the palette are
    from each other (51 of 255 for "colours"): such a colour cannot be told from another class's.
    Raises ValueError for a wrong shape, a value that is not finite, and a picture with over 10 % far pixels.
    """
    _check_image(image)
    entries = torch.tensor(PALETTES[palette], dtype=torch.float32, device=image.device)  # (19, 3)
    to_class = torch.tensor(ORDERS[order], dtype=torch.uint8, device=image.device)  # (19,)
    pictures = (image[..., :3].float().clamp(0, 1) * 255).round().int()  # (B, H, W, 3)
    return torch.stack([to_class[_snap(picture, entries, palette)] for picture in pictures])  # (B, H, W)


def to_image(indices: torch.Tensor, palette: Sequence[tuple[int, int, int]] = PALETTE) -> torch.Tensor:
    """Class indices (B, H, W) as a picture in 8-bit colours `palette`, (B, H, W, 3) float in 0..1."""
    colours = torch.tensor(palette, dtype=torch.float32, device=indices.device) / 255  # (19, 3)
    return colours[indices.long()]


def resize_nearest(indices: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """(B, H, W) -> (B, h, w): each pixel takes the value under its centre (torch's "nearest-exact")."""
    return F.interpolate(indices[:, None], size=(h, w), mode="nearest-exact")[:, 0]


def to_masks(indices: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """Masks of some classes: (B, H, W) indices -> (B, len(classes), H, W) float, 0 or 1."""
    wanted = torch.tensor(classes, device=indices.device)[:, None, None]  # (C, 1, 1)
    return (indices[:, None] == wanted).float()  # (B, C, H, W)


def from_masks(
    layers: Sequence[tuple[int, torch.Tensor]], h: int, w: int, base: torch.Tensor | None = None,
) -> torch.Tensor:
    """Paint masks as classes over label maps or, without, over background; later layers on top.

    layers: (class id, mask) pairs; a mask is (H, W), (B, H, W) or (B, 1, H, W) and counts where it exceeds
        0.5. A mask of another size is resized by nearest neighbour, one of batch 1 serves the whole batch.
    base: (B, H, W) class ids to paint over, resized and repeated likewise.
    Returns (B, h, w) uint8. Raises ValueError for no layers, a wrong shape and batches that do not fit.
    """
    if not layers:
        raise ValueError("masks: no mask is connected. Connect at least one.")
    masks = [_as_batch(mask, number) for number, (_, mask) in enumerate(layers, 1)]
    base = torch.zeros(1, h, w, dtype=torch.uint8) if base is None else resize_nearest(base, h, w)
    batch = max(map(len, (base, *masks)))
    if len(base) not in (1, batch):
        raise ValueError(f"label_map: a batch of {len(base)}, the masks are one of {batch}. Give them the same size, "
                         "or 1.")
    indices = base.to(masks[0].device).repeat(batch // len(base), 1, 1)
    for number, ((class_id, _), mask) in enumerate(zip(layers, masks), 1):
        if len(mask) not in (1, batch):
            raise ValueError(f"masks: mask {number} is a batch of {len(mask)}, another one of {batch}. "
                             "Give all masks the same batch size, or 1.")
        indices[(resize_nearest(mask, h, w) > 0.5).to(indices.device).expand(batch, h, w)] = class_id
    return indices


def _check_image(image: torch.Tensor) -> None:
    shape = tuple(image.shape)
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise ValueError(f"label_map: expected pictures of shape (batch, height, width, 3), got {shape}.")
    if 0 in shape:
        raise ValueError(f"label_map: the batch is empty, shape {shape}. Connect at least one picture.")
    if not image.isfinite().all():
        raise ValueError("label_map: the picture has values not finite. Check the node that made it.")


def _snap(picture: torch.Tensor, entries: torch.Tensor, palette: str) -> torch.Tensor:
    """(H, W, 3) int in 0..255 -> (H, W) rows of `entries`; measures each distinct colour once."""
    codes = picture[..., 0] << 16 | picture[..., 1] << 8 | picture[..., 2]  # (H, W)
    # (U,), (H, W), (U,): the distinct colours, each pixel's row among them, and how many pixels each has
    codes, pixel_colour, counts = codes.unique(return_inverse=True, return_counts=True)
    colours = torch.stack([codes >> 16, codes >> 8 & 255, codes & 255], dim=-1)  # (U, 3)
    # The matrix-product form of the distance is too inexact to compare with the bound.
    distances = torch.cdist(colours.float(), entries, compute_mode="donot_use_mm_for_euclid_dist")  # (U, 19)
    distance, nearest = distances.min(dim=-1)  # (U,)
    _refuse_far(colours, counts, distance > torch.pdist(entries).min(), palette)
    return nearest[pixel_colour]


def _refuse_far(colours: torch.Tensor, counts: torch.Tensor, far: torch.Tensor, palette: str) -> None:
    share = (counts[far].sum() / counts.sum()).item()
    if share <= MAX_FAR_SHARE:
        return
    commonest = colours[far][counts[far].argsort(descending=True, stable=True)[:2]]  # (<= 2, 3)
    samples = " and ".join(str(tuple(colour)) for colour in commonest.tolist())
    raise ValueError(
        f'label_map: {share:.0%} of the pixels are far from every entry of the palette "{palette}", for '
        f"example {samples} as (r, g, b). Choose the palette that the label map was saved in, or repaint "
        "those parts in palette colours; a photograph needs a face parser first.")


def _as_batch(mask: torch.Tensor, number: int) -> torch.Tensor:
    """(H, W), (B, H, W) or (B, 1, H, W) -> (B, H, W)."""
    shape = tuple(mask.shape)
    if mask.ndim == 2:
        mask = mask[None]
    elif mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim != 3:
        raise ValueError(f"masks: mask {number} has shape {shape}, expected (batch, height, width).")
    if 0 in shape:
        raise ValueError(f"masks: mask {number} is empty, shape {shape}. Connect at least one picture.")
    return mask.float()
