"""A growing triangle soup: every part of a scene in one vertex and one triangle list."""

from __future__ import annotations

import numpy as np

(SKIN, LEFT_EYE, RIGHT_EYE, LASH, UPPER_TOOTH, LOWER_TOOTH, TONGUE_FLESH, HAIR, HAT, FRAME, EARRING,
 LENS) = range(12)


class Soup:
    """Vertices with position, normal and a free 3-vector (template position, strand facts, ...)."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._count = 0

    def add(self, position: np.ndarray, normal: np.ndarray, extra: np.ndarray, triangles: np.ndarray,
            material: np.ndarray | int) -> None:
        """Append a mesh: (v, 3) each of position, normal, extra; triangles (t, 3); material id(s)."""
        kinds = np.broadcast_to(np.asarray(material, np.int8), len(triangles))
        self._parts.append((position, normal, extra, triangles + self._count, kinds))
        self._count += len(position)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Position, normal, extra (V, 3) float32; triangles (T, 3) int64; materials (T,) int8."""
        position, normal, extra, triangles, materials = (np.concatenate(p) for p in zip(*self._parts))
        return (position.astype(np.float32), normal.astype(np.float32), extra.astype(np.float32),
                triangles.astype(np.int64), materials)
