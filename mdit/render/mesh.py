"""The packed CC0 bust: template mesh, part ids, vertex masks and shape targets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

BUST_FILE = Path(__file__).parent / "data" / "bust.npz"
BODY, L_EYE, R_EYE, LASHES, UPPER_TEETH, LOWER_TEETH, TONGUE = range(7)


@dataclass(frozen=True)
class Bust:
    """Template of V vertices (x to the person's left, y up, z to the front) and T triangles."""

    vertices: np.ndarray
    triangles: np.ndarray
    parts: np.ndarray
    masks: dict[str, np.ndarray]
    targets: dict[str, tuple[np.ndarray, np.ndarray]]

    def find_part_vertices(self, part: int) -> np.ndarray:
        return np.unique(self.triangles[self.parts == part])


@cache
def load_bust() -> Bust:
    """Read ``data/bust.npz``: positions float32, masks in [0, 1], targets as (index, shift) pairs."""
    with np.load(BUST_FILE) as file:
        ends = file["target_ends"].astype(int)
        index = file["target_index"].astype(np.int64)
        delta = file["target_delta"].astype(np.float32) / 1000
        pairs = zip(np.split(index, ends[:-1]), np.split(delta, ends[:-1]))
        masks = {name: file[name].astype(np.float32) / 255
                 for name in ("lips", "ears", "eyelids", "inside-mouth")}
        return Bust(file["vertices"], file["triangles"].astype(np.int64), file["parts"], masks,
                    dict(zip(file["target_names"].tolist(), pairs)))


def compute_vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals (V, 3)."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    axes = [sum_at_vertices(triangles, face[:, axis], len(vertices)) for axis in range(3)]
    normals = np.stack(axes, 1)  # (V, 3)
    return (normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def sum_at_vertices(triangles: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """The sum (count,) at each vertex of the values (T,) of its triangles."""
    return sum(np.bincount(triangles[:, corner], values, count) for corner in range(3))
