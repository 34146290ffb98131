"""From the network's pixels to the label map's, along the map's edges (docs/design/control-maps.md, section 2)."""
from __future__ import annotations

import torch
from scipy import ndimage
from torch import Tensor

import comfy.model_management

from .network import OUTSIDE
from .squares import Square

BAND = 2 ** 20  # pixels that are enlarged at a time


def reduce_map(labels: Tensor, square: Square, size: int) -> Tensor:
    """What a square shows of a label map (H, W), as (size, size) uint8; OUTSIDE beyond the map."""
    height, width = labels.shape
    steps = ((torch.arange(size) + 0.5) * square.side / size).floor().long()
    rows, columns = square.top + steps, square.left + steps
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    seen = labels[rows.clamp(0, height - 1)][:, columns.clamp(0, width - 1)]
    return torch.where(inside, seen, OUTSIDE).to(torch.uint8)


def fill_background(values: Tensor, small: Tensor) -> Tensor:
    """Values (C, S, S) whose pixels without a figure are those of the nearest figure."""
    figure = ((small > 0) & (small != OUTSIDE)).numpy()
    if not figure.any():
        return values
    rows, columns = ndimage.distance_transform_edt(~figure, return_distances=False, return_indices=True)
    return values[:, torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]


def enlarge(values: Tensor, small: Tensor, labels: Tensor, square: Square) -> Tensor:
    """Values (C, S, S) of a square, whose map is `small` (S, S), at all pixels of a label map (H, W): (C, H, W).

    Each pixel takes the bilinear mean of those neighbours that have its class. Where none has it, as at a line
    thinner than the network's pixels, all neighbours count. Pixels beyond the square take its border.
    """
    height, width = labels.shape
    values = fill_background(values, small)
    out = values.new_empty(len(values), height, width)
    rows = find_neighbors(torch.arange(height) - square.top, square.side, small.shape[0])
    columns = find_neighbors(torch.arange(width) - square.left, square.side, small.shape[1])
    step = max(1, BAND // width)
    for top in range(0, height, step):
        comfy.model_management.throw_exception_if_processing_interrupted()
        band = slice(top, top + step)
        out[:, band] = average_neighbors(values, small, labels[band], [axis[band] for axis in rows], columns)
    return out


def find_neighbors(places: Tensor, side: int, size: int) -> list[Tensor]:
    """Of pixels (N,) of a square, the two nearest of `size` pixels, (N,) each, and the weight of the second."""
    at = ((places + 0.5) * size / side - 0.5).clamp(0, size - 1)
    first = at.floor().long()
    return [first, (first + 1).clamp(max=size - 1), at - first]


def average_neighbors(values: Tensor, small: Tensor, labels: Tensor, rows: list[Tensor], columns: list[Tensor]
                      ) -> Tensor:
    """Means (C, h, W) of the neighbours of the pixels of a band (h, W)."""
    alike = labels.new_zeros(labels.shape, dtype=torch.float32)
    means = torch.zeros(len(values), *labels.shape)
    every = torch.zeros_like(means)
    for row, row_weight in ((rows[0], 1 - rows[2]), (rows[1], rows[2])):
        for column, column_weight in ((columns[0], 1 - columns[2]), (columns[1], columns[2])):
            weight = row_weight[:, None] * column_weight  # (h, W)
            found = values[:, row][:, :, column]  # (C, h, W)
            every.addcmul_(found, weight)
            weight = weight * (small[row][:, column] == labels)
            means.addcmul_(found, weight)
            alike += weight
    return torch.where(alike > 1e-4, means / alike.clamp(min=1e-4), every)
