"""How well depth and normals agree with the true ones (docs/design/control-maps.md, section 4)."""
from __future__ import annotations

import math

import torch
from torch import Tensor

from ...labelmap import find_class

FACE = tuple(map(find_class, ("skin", "nose")))
FAR, NEAR = 0.02, 0.98  # quantiles of the figure's depth that bound its range


def measure_depth(depth: Tensor, true: Tensor) -> float:
    """Mean distance of depths (N,) after the best scale and shift, as a share of the range of the true ones (N,)."""
    columns = torch.stack([depth, torch.ones_like(depth)], dim=1).double()  # (N, 2)
    fit = torch.linalg.lstsq(columns, true.double()[:, None], driver="gelsd").solution
    far, near = true.double().quantile(torch.tensor([FAR, NEAR], dtype=torch.double))
    return ((columns @ fit)[:, 0] - true).abs().mean().item() / (near - far).item()


def measure_angles(normals: Tensor, true: Tensor) -> Tensor:
    """Degrees (N,) between normals (3, N), of unit length."""
    return (normals * true).sum(0).clamp(-1, 1).acos() * (180 / math.pi)


def measure_relief(depth: Tensor, normals: Tensor, true_depth: Tensor, true_normals: Tensor, labels: Tensor
                   ) -> dict[str, float]:
    """The three measures of one sample: depth (S, S), normals (3, S, S), and the label map (S, S) that counts."""
    figure = (labels > 0) & true_depth.isfinite()
    face = (figure & torch.isin(labels, torch.tensor(FACE, dtype=labels.dtype)))[figure]
    angles = measure_angles(normals[:, figure], true_normals[:, figure])
    return {"depth_error": measure_depth(depth[figure], true_depth[figure]),
            "normal_angle_face": angles[face].mean().item(), "normal_angle_figure": angles.mean().item()}
