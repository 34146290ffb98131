"""Conversions between label-map images, class indices and masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .palettes import DEFAULT_ORDER, DEFAULT_PALETTE, ORDERS, PALETTE, PALETTES, Color

# Blended edges and compression leave a few per cent of odd colors in a good map; a photograph or a map in
# another palette has most of its pixels far off.
MAX_FAR_FRACTION = 0.10


def to_indices(
    image: torch.Tensor, palette: str = DEFAULT_PALETTE, order: str = DEFAULT_ORDER,
) -> torch.Tensor:
    """Class indices of label-map images, each pixel snapped to the nearest palette entry.

    image: (B, H, W, 3) in 0..1; a fourth channel is ignored.
    palette: a key of PALETTES. order: a key of ORDERS, the class order of the palette's entries.
    Returns (B, H, W) uint8 in CelebAMask-HQ order.

    A pixel is far when its nearest entry is further away than the two closest entries of the palette are
    from each other (51 of 255 for "colours"): such a color could belong to another class.
    Raises ValueError for a wrong shape, a value that is not finite, and an image with over 10 % far pixels.
    """
    _check_image(image)
    entries = torch.tensor(PALETTES[palette].colors, dtype=torch.float32, device=image.device)  # (19, 3)
    to_class = torch.tensor(ORDERS[order].classes, dtype=torch.uint8, device=image.device)  # (19,)
    pixels = (image[..., :3].float().clamp(0, 1) * 255).round().int()  # (B, H, W, 3)
    return torch.stack([to_class[_snap(one, entries, palette)] for one in pixels])  # (B, H, W)


def find_entries(colors: Sequence[Color], palette: str = DEFAULT_PALETTE) -> list[int] | None:
    """Entry of a palette that each color is exactly; None if the palette lacks one of the colors."""
    entries = {color: k for k, color in enumerate(PALETTES[palette].colors)}
    return [entries[color] for color in colors] if all(color in entries for color in colors) else None


def to_image(indices: torch.Tensor, colors: Sequence[Color] = PALETTE) -> torch.Tensor:
    """Class indices (B, H, W) as an image in the 8-bit `colors` of the classes, (B, H, W, 3) float in 0..1."""
    table = torch.tensor(colors, dtype=torch.float32, device=indices.device) / 255  # (19, 3)
    return table[indices.long()]


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
    """Paint masks as classes over label maps, or over background without a base; later layers lie on top.

    layers: (class index, mask) pairs; a mask is (H, W), (B, H, W) or (B, 1, H, W) and counts where it exceeds
        0.5. A mask of another size is resized by nearest neighbour, one of batch 1 serves the whole batch.
    base: (B, H, W) class indices to paint over, resized and repeated in the same way.
    Returns (B, h, w) uint8. Raises ValueError for no layers, a wrong shape and batches that do not fit.
    """
    if not layers:
        raise ValueError("masks: no mask is connected. Connect at least one mask.")
    masks = [_as_batch(mask, number) for number, (_, mask) in enumerate(layers, 1)]
    base = torch.zeros(1, h, w, dtype=torch.uint8) if base is None else resize_nearest(base, h, w)
    batch = max(len(base), max(map(len, masks)))
    if len(base) not in (1, batch):
        raise ValueError(f"label_map: the batch has {len(base)} label maps, but the masks are a batch of {batch}. "
                         "Connect batches of the same size, or a single label map.")
    indices = base.to(masks[0].device).repeat(batch // len(base), 1, 1)
    for number, ((class_index, _), mask) in enumerate(zip(layers, masks), 1):
        if len(mask) not in (1, batch):
            raise ValueError(f"masks: mask {number} is a batch of {len(mask)}, another mask is a batch of {batch}. "
                             "Give all masks the same batch size, or 1.")
        covered = (resize_nearest(mask, h, w) > 0.5).to(indices.device)  # (B or 1, h, w)
        indices[covered.expand(batch, h, w)] = class_index
    return indices


def _check_image(image: torch.Tensor) -> None:
    shape = tuple(image.shape)
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise ValueError(f"label_map: expected images of shape (batch, height, width, 3), got {shape}.")
    if 0 in shape:
        raise ValueError(f"label_map: the batch is empty, shape {shape}. Connect at least one image.")
    if not image.isfinite().all():
        raise ValueError("label_map: the image has NaN or infinite values. Check the node that made the image.")


def _snap(pixels: torch.Tensor, entries: torch.Tensor, palette: str) -> torch.Tensor:
    """(H, W, 3) int in 0..255 -> (H, W) rows of `entries`; measures each distinct color once."""
    codes = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]  # (H, W)
    # (U,), (H, W), (U,): the distinct colors, each pixel's row among them, and how many pixels each color has
    codes, pixel_color, counts = codes.unique(return_inverse=True, return_counts=True)
    colors = torch.stack([codes >> 16, codes >> 8 & 255, codes & 255], dim=-1)  # (U, 3)
    # The matrix-product form of the distance is too inexact to compare with the bound.
    distances = torch.cdist(colors.float(), entries, compute_mode="donot_use_mm_for_euclid_dist")  # (U, 19)
    distance, nearest = distances.min(dim=-1)  # (U,)
    _check_far(colors, counts, distance > torch.pdist(entries).min(), palette)
    return nearest[pixel_color]


def _check_far(colors: torch.Tensor, counts: torch.Tensor, far: torch.Tensor, palette: str) -> None:
    fraction = (counts[far].sum() / counts.sum()).item()
    if fraction <= MAX_FAR_FRACTION:
        return
    commonest = colors[far][counts[far].argsort(descending=True, stable=True)[:2]]  # (<= 2, 3)
    samples = " and ".join(str(tuple(color)) for color in commonest.tolist())
    raise ValueError(
        f'label_map: {fraction:.0%} of the pixels are far from every entry of the palette "{palette}", for '
        f"example {samples} as (r, g, b). Choose the palette of the label map, or repaint these areas in "
        "palette colours. A photograph needs a face parser first.")


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
        raise ValueError(f"masks: mask {number} is empty, shape {shape}. Connect a mask with at least one pixel.")
    return mask.float()
