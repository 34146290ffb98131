"""A triangle soup: all surfaces of a scene in one vertex list and one triangle list."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

(SKIN, LEFT_EYE, RIGHT_EYE, LASH, UPPER_TOOTH, LOWER_TOOTH, TONGUE_FLESH, HAIR, HAT, FRAME, EARRING,
 LENS, FACE_HAIR) = range(13)


@dataclass(frozen=True)
class Mesh:
    """``position``, ``normal``, ``extra`` (V, 3) float32; ``triangles`` (T, 3) int64; ``materials`` (T,) int8."""

    position: np.ndarray
    normal: np.ndarray
    extra: np.ndarray
    triangles: np.ndarray
    materials: np.ndarray


@dataclass(frozen=True)
class Pixels:
    """The surface seen at N covered pixels.

    point, normal, extra: (N, 3).
    masks: lips, ears, eyelids and inside-mouth, (N, 4).
    up: height of the template's normal, (N,).
    kind: material, (N,).
    """

    point: np.ndarray
    normal: np.ndarray
    extra: np.ndarray
    masks: np.ndarray
    up: np.ndarray
    kind: np.ndarray

    @property
    def is_strand(self) -> np.ndarray:
        """Where hair of the head or the face is seen, bool (N,)."""
        return (self.kind == HAIR) | (self.kind == FACE_HAIR)

    def __getitem__(self, chosen: np.ndarray) -> Pixels:
        return Pixels(**{name: values[chosen] for name, values in vars(self).items()})


class Soup:
    """Vertices with position, normal and a free 3-vector (template position, data of a strand, ...)."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._count = 0

    def add(self, position: np.ndarray, normal: np.ndarray, extra: np.ndarray, triangles: np.ndarray,
            material: np.ndarray | int) -> None:
        """Append a mesh: (v, 3) each of position, normal, extra; triangles (t, 3); material id(s)."""
        kinds = np.broadcast_to(np.asarray(material, np.int8), len(triangles))
        self._parts.append((position, normal, extra, triangles + self._count, kinds))
        self._count += len(position)

    def mesh(self) -> Mesh:
        """Everything added so far, as one mesh."""
        position, normal, extra, triangles, materials = map(np.concatenate, zip(*self._parts))
        return Mesh(position.astype(np.float32), normal.astype(np.float32), extra.astype(np.float32),
                    triangles.astype(np.int64), materials)
