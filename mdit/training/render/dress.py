"""Clothes, hats, glasses and earrings."""

from __future__ import annotations

import numpy as np

from .hair import ball, grid_triangles, hat_height
from .head import Head
from .mesh import BODY, vertex_normals
from .soup import EARRING, FRAME, HAT, LENS, Soup

EYE = np.array([0.31, 7.28])
LENS_POINTS = 32


def cloth_height(template: np.ndarray, clothes: str) -> np.ndarray:
    """Depth below the neckline in template coordinates, (N, 3) -> (N,), positive under cloth."""
    x, y, z = np.abs(template[:, 0]), template[:, 1], template[:, 2]
    line = {"turtleneck": 6.0 - 0.12 * z, "hoodie": 5.85 - 0.3 * z, "sweater": 5.78 - 0.3 * z,
            "shirt": 5.8 - 0.3 * z, "suit": 5.86 - 0.25 * z, "top": 5.55 - 0.3 * z}[clothes]
    notch = {"shirt": 0.32, "top": 0.1}.get(clothes, 0.0)
    return line - y - np.where(z > 0.2, np.maximum(0, notch - x), 0)


def dressed_vertices(head: Head, clothes: str) -> np.ndarray:
    """Vertices pushed out under cloth."""
    thickness = {"hoodie": 0.12, "sweater": 0.08, "suit": 0.07}.get(clothes, 0.05)
    depth = np.clip(cloth_height(head.bust.vertices, clothes) / 0.1, 0, 1)
    return head.vertices + head.normals * (thickness * depth * (head.bust.vertices[:, 1] < 6.3))[:, None]


def add_hat(soup: Soup, head: Head, look: dict[str, str], rng: np.random.Generator) -> None:
    """A pushed-out scalp shell and, for caps and hats, a brim."""
    kind = look["hat"]
    if kind == "none":
        return
    bust = head.bust
    body = bust.triangles[bust.parts == BODY]
    shell = body[(hat_height(bust.vertices[body].mean(1)) > 0) & (bust.masks["ears"][body].max(1) < 0.3)]
    used, triangles = np.unique(shell, return_inverse=True)
    height = np.clip(hat_height(bust.vertices[used]), 0, 1)
    puff = {"cap": 0.05, "beanie": 0.1, "hat": 0.14}[kind]
    position = head.vertices[used] + head.normals[used] * (0.13 + puff * height)[:, None]
    triangles = triangles.reshape(-1, 3)
    soup.add(position, vertex_normals(position, triangles), bust.vertices[used], triangles, HAT)
    if kind == "beanie":
        return
    rim = position[np.abs(hat_height(bust.vertices[used])) < 0.15]
    centre, half = (rim.max(0) + rim.min(0)) / 2, (rim.max(0) - rim.min(0)) / 2
    angle = np.linspace(-1.2, 1.2, 25) if kind == "cap" else np.linspace(-np.pi, np.pi, 49)
    reach = np.linspace(0.9, 1.55 if kind == "cap" else rng.uniform(1.35, 1.7), 6)[:, None]
    x, z = reach * half[0] * np.sin(angle), reach * half[2] * np.cos(angle)
    if kind == "cap":
        x, z = half[0] * np.sin(angle) * np.ones_like(reach), half[2] * (np.cos(angle) + (reach - 0.9)
                                                                         * np.cos(angle / 1.2 * np.pi / 2))
    slope = 0.23 * z - (0.55 if kind == "cap" else 0.05) * (reach - 0.9)
    low = np.median(rim[:, 1] - 0.23 * rim[:, 2])
    ring = np.stack([centre[0] + x, low + 0.23 * centre[2] + slope, centre[2] + z], 2).reshape(-1, 3)
    faces = grid_triangles(6, len(angle))
    extra = np.tile(np.array([0, 8.0, 0]), (len(ring), 1))
    soup.add(ring, np.tile(np.array([0, 0.9, 0.4]), (len(ring), 1)), extra, faces, HAT)


def lens_outline(rng: np.random.Generator, sun: bool) -> np.ndarray:
    """Offsets of a lens rim from the eye centre, (LENS_POINTS, 2)."""
    power = rng.choice([2.0, 2.0, 3.0, 4.5])
    width = rng.uniform(0.21, 0.27) + 0.02 * sun
    height = width * rng.uniform(0.65, 1.0)
    angle = np.linspace(0, 2 * np.pi, LENS_POINTS)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([width * np.sign(cos) * np.abs(cos) ** (2 / power),
                     height * np.sign(sin) * np.abs(sin) ** (2 / power) - 0.02], 1)


def add_glasses(soup: Soup, lenses: Soup, head: Head, look: dict[str, str], rng: np.random.Generator) -> None:
    """Rims, bridge and temples into ``soup``; lens discs into ``lenses``."""
    if look["glasses"] == "none":
        return
    outline = lens_outline(rng, look["glasses"] == "sunglasses")
    thick = rng.uniform(0.025, 0.055)
    near = head.vertices[(np.abs(head.vertices[:, 0]) < 0.6) & (np.abs(head.vertices[:, 1] - 7.25) < 0.3)]
    front = near[np.abs(near[:, 0]) > 0.15, 2].max() + 0.06

    def plane(points: np.ndarray) -> np.ndarray:
        bend = 0.35 * np.maximum(0, np.abs(points[:, 0]) - 0.25) ** 2
        return np.column_stack([points, front - bend])

    for sign in (-1, 1):
        eye = EYE * np.array([sign, 1]) + np.array([sign * 0.02, 0])
        inner, outer = outline + eye, outline * (1 + thick / np.abs(outline).max(0)) + eye
        rim = np.concatenate([plane(inner), plane(outer)])
        add_flat(soup, rim + np.array([0, 0, 0.004]), grid_triangles(2, LENS_POINTS), FRAME)
        fan = np.stack([np.full(LENS_POINTS - 1, LENS_POINTS), np.arange(LENS_POINTS - 1),
                        np.arange(1, LENS_POINTS)], 1)
        add_flat(lenses, plane(np.vstack([inner, eye])), fan, LENS)
        edge = plane((eye + np.array([sign * (np.abs(outline[:, 0]).max() + thick / 2), 0.05]))[None])[0]
        half_head = np.abs(head.vertices[head.bust.masks["ears"] > 0.5, 0]).max()
        ear = np.array([sign * (half_head - 0.02), 7.33, 0.55])
        bar = np.stack([edge + [0, thick / 2, 0], ear + [0, thick / 2, 0], edge - [0, thick / 2, 0],
                        ear - [0, thick / 2, 0]])
        add_flat(soup, bar, grid_triangles(2, 2), FRAME)
    gap = EYE[0] + 0.02 - np.abs(outline[:, 0]).max()
    bridge = np.array([[-gap, 7.34], [0, 7.37], [gap, 7.34], [-gap, 7.34 - thick], [0, 7.37 - thick],
                       [gap, 7.34 - thick]])
    add_flat(soup, plane(bridge) + np.array([0, 0, 0.01]), grid_triangles(2, 3), FRAME)


def add_flat(soup: Soup, position: np.ndarray, triangles: np.ndarray, material: int) -> None:
    normal = np.tile(np.array([0, 0.2, 0.98]), (len(position), 1))
    soup.add(position, normal, position, triangles, material)


def add_earrings(soup: Soup, head: Head, look: dict[str, str], rng: np.random.Generator) -> None:
    """A stud, drop or hoop below each ear lobe."""
    if look["earrings"] == "no":
        return
    kind, size = rng.integers(3), rng.uniform(0.06, 0.09)
    for sign in (-1, 1):
        ear = head.vertices[(head.bust.masks["ears"] > 0.5) & (head.bust.vertices[:, 0] * sign > 0)]
        lobe = ear[ear[:, 1].argmin()] + np.array([sign * 0.04, 0.0, 0.05])
        if kind == 2:
            position, normal, triangles = hoop(lobe - np.array([0, 2 * size, 0]), 2 * size)
            soup.add(position, normal, position, triangles, EARRING)
            continue
        for k in range(1 if kind == 0 else 4):
            soup_ball = ball(lobe - np.array([0, k * 1.4 * size, 0]), size, 8)
            soup.add(soup_ball[0], soup_ball[1], soup_ball[0], soup_ball[2], EARRING)


def hoop(centre: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A torus in the plane that faces the viewer."""
    around, across = np.meshgrid(np.linspace(0, 2 * np.pi, 24), np.linspace(0, 2 * np.pi, 8), indexing="ij")
    outward = np.stack([np.cos(around), np.sin(around), np.zeros_like(around)], 2)
    normal = outward * np.cos(across)[..., None] + np.array([0, 0, 1]) * np.sin(across)[..., None]
    position = centre + radius * outward + 0.03 * normal
    return position.reshape(-1, 3), normal.reshape(-1, 3), grid_triangles(24, 8)
