"""Background, shadow and shading."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .appearance import COLORS
from .paint import color
from .raster import rasterize
from .soup import EARRING, FRAME, HAIR, LEFT_EYE, RIGHT_EYE, SKIN, Mesh, Pixels

SHADOW_WIDTH = 3.6
SHADOW_CENTER = np.array([0, 7.1, 0.5])


@dataclass
class Light:
    """Unit ``direction`` to the key light (3,), its strength and that of the ambient light."""

    direction: np.ndarray
    key: float
    ambient: float


def sample_light(rotation: np.ndarray, rng: np.random.Generator) -> Light:
    """A key light from somewhere above the camera of the given rotation (3, 3)."""
    direction = np.array([rng.normal(0, 0.5), rng.uniform(0.2, 0.8), 1.0]) @ rotation
    return Light(direction / np.linalg.norm(direction), rng.uniform(0.58, 0.68), rng.uniform(0.42, 0.52))


def background(size: int, appearance: dict[str, str], rng: np.random.Generator) -> np.ndarray:
    """Plain colour with a faint gradient, in a quarter of the images with soft blobs, (size, size, 3)."""
    tone = np.clip(color(COLORS, appearance["background_color"]) + rng.normal(0, 0.02, 3), 0, 1)
    row, column = np.mgrid[0:size, 0:size] / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    brightness = 1 + rng.uniform(0, 0.2) * (np.cos(angle) * row + np.sin(angle) * column)
    if rng.random() < 0.25:
        for _ in range(8):
            x, y = rng.uniform(-0.5, 0.5, 2)
            spot = np.exp(-((column - x) ** 2 + (row - y) ** 2) / rng.uniform(0.003, 0.03))
            brightness = brightness + rng.uniform(-0.18, 0.18) * spot
    return np.clip(tone * brightness[:, :, None], 0, 1)


def shadow(mesh: Mesh, seen: Pixels, light: np.ndarray, size: int) -> np.ndarray:
    """Fraction (N,) of the light from direction ``light`` that reaches the pixels, by a map ``size`` wide."""
    right = np.cross([0, 1, 0], light)
    basis = np.stack([right / np.linalg.norm(right), np.cross(light, right), light])

    def project(points: np.ndarray) -> np.ndarray:
        view = (points - SHADOW_CENTER) @ basis.T
        view[:, :2] = (view[:, :2] / SHADOW_WIDTH + 0.5) * size
        return view.astype(np.float32)

    near, _, _ = rasterize(project(mesh.position), mesh.triangles, size, size)
    view = project(seen.point + 0.03 * seen.normal * (seen.kind != HAIR)[:, None])
    lit = np.zeros(len(view), np.float32)
    for dx, dy in ((-0.8, -0.8), (0.8, -0.8), (-0.8, 0.8), (0.8, 0.8)):
        column = np.clip((view[:, 0] + dx).astype(int), 0, size - 1)
        row = np.clip((view[:, 1] + dy).astype(int), 0, size - 1)
        lit += near[row, column] < view[:, 2] + 0.07
    return lit / 4


def shade(albedo: np.ndarray, seen: Pixels, view: np.ndarray, lit: np.ndarray, light: Light) -> np.ndarray:
    """Ambient, wrapped key light with a red shift for skin, highlights, (N, 3); ``view`` (3,) to the camera."""
    hair = seen.kind == HAIR
    normal = seen.normal / np.maximum(np.linalg.norm(seen.normal, axis=1, keepdims=True), 1e-6)
    facing = (normal @ view)[:, None]
    normal = np.where((facing < 0) & ~hair[:, None], -normal, normal)
    cosine = normal @ light.direction
    wrapped = np.where(hair, 0.8 * np.sqrt(np.clip(1 - cosine ** 2, 0, 1)), np.clip((cosine + 0.3) / 1.3, 0, 1))
    key = (wrapped * (0.25 + 0.75 * lit))[:, None]
    warm = np.where((seen.kind == SKIN)[:, None], np.array([1.0, 0.93, 0.9]), 1.0)
    ambient = light.ambient * (0.85 + 0.15 * normal[:, 1:2]) * (0.8 + 0.2 * np.abs(facing))
    ambient = np.where(hair[:, None], 0.5, ambient)
    return albedo * (ambient + light.key * key * warm) + (shine(normal, seen.kind, light, view) * lit)[:, None]


def shine(normal: np.ndarray, kind: np.ndarray, light: Light, view: np.ndarray) -> np.ndarray:
    """Highlights (N,): across the strands of hair, sharp on eyes and metal, dull elsewhere."""
    half = light.direction + view
    along = normal @ (half / np.linalg.norm(half))
    dull = np.where(kind == HAIR, np.clip(1 - along ** 2, 0, 1) ** 20 * 0.15, np.clip(along, 0, 1) ** 24 * 0.1)
    glossy = np.isin(kind, (LEFT_EYE, RIGHT_EYE, EARRING, FRAME))
    return np.where(glossy, np.clip(along, 0, 1) ** 60 * 0.6, dull)
