"""Clothes, hats, glasses and earrings."""

from __future__ import annotations

import numpy as np

from .hair import ball, make_grid_triangles, compute_hat_height
from .head import Head
from .mesh import BODY, compute_vertex_normals
from .soup import EARRING, FRAME, HAT, LENS, Soup

EYE = np.array([0.31, 7.28])
LENS_POINTS = 32
HAT_AXIS_Z = 0.35
HAT_CUT = {"cap": (0.09, 0.05), "beanie": (0.12, 0.4), "hat": (0.13, 0.45)}  # puff, rise of the crown


def compute_cloth_height(template: np.ndarray, clothes: str) -> np.ndarray:
    """Depth below the neckline in template coordinates, (N, 3) -> (N,), positive under cloth."""
    x, y, z = template.T
    x = np.abs(x)
    line = {"turtleneck": 6.05 - 0.12 * z, "hoodie": 5.95 - 0.3 * z, "sweater": 5.9 - 0.3 * z,
            "shirt": 5.94 - 0.3 * z, "suit": 5.94 - 0.25 * z, "top": 5.58 + 0.35 * (np.abs(x - 0.72) < 0.13)}[clothes]
    notch = {"shirt": 0.32, "top": 0.1}.get(clothes, 0.0)
    return line - y - np.where(z > 0.2, np.maximum(0, notch - x), 0)


def dress_vertices(head: Head, clothes: str) -> np.ndarray:
    """Vertices pushed out under cloth."""
    thickness = {"hoodie": 0.12, "sweater": 0.08, "suit": 0.07}.get(clothes, 0.05)
    depth = np.clip(compute_cloth_height(head.bust.vertices, clothes) / 0.1, 0, 1)
    return head.vertices + head.normals * (thickness * depth * (head.bust.vertices[:, 1] < 6.3))[:, None]


def add_hat(soup: Soup, head: Head, appearance: dict[str, str], rng: np.random.Generator) -> None:
    """A crown and: a cap's band and peak, a beanie's cuff and pompom, or a hat's brim.

    ``extra`` of a hat holds (angle about the head, 0, shade).
    """
    kind = appearance["hat"]
    if kind == "none":
        return
    puff, rise = HAT_CUT[kind]
    top = add_crown(soup, head, puff, rise)
    angle = np.linspace(-np.pi, np.pi, 49)
    reach = np.linspace(0, 1, 6)
    rim, away = make_hat_rim(head, angle)
    if kind == "beanie":
        add_band(soup, rim, angle, away, 0.07 + 0.08 * np.sin(np.pi * reach), 0.34 * reach - 0.06, 0.75)
        add_pompom(soup, top, rng.uniform(0.16, 0.24))
        return
    add_band(soup, rim, angle, away, 0.08 * np.sqrt(reach), 0.2 * reach - 0.06, {"cap": 0.9, "hat": 0.45}[kind])
    if kind == "hat":
        add_band(soup, rim, angle, away, rng.uniform(0.4, 0.65) * reach, 0.02 - 0.14 * reach, 0.95)
        return
    forward = np.array([0, 0, 1]) * np.cos(angle * np.pi / 2.3)[:, None] + 0.15 * away
    front = np.abs(angle) < 1.15
    add_band(soup, rim[front], angle[front], forward[front], 0.03 + 0.72 * reach, -0.04 - 0.16 * reach, 0.7)


def add_crown(soup: Soup, head: Head, puff: float, rise: float) -> np.ndarray:
    """The scalp above the hat line, ``puff`` outwards and ``rise`` upwards; returns its highest point (3,)."""
    bust = head.bust
    body = bust.triangles[bust.parts == BODY]
    shell = body[(compute_hat_height(bust.vertices[body].mean(1)) > -0.03) & (bust.masks["ears"][body].max(1) < 0.3)]
    used, triangles = np.unique(shell, return_inverse=True)
    triangles = triangles.reshape(-1, 3)
    height = np.clip(compute_hat_height(bust.vertices[used]), 0, 1)
    position = head.vertices[used] + head.normals[used] * (0.09 + puff * np.clip(2 * height, 0, 1))[:, None]
    position[:, 1] += rise * np.clip(height / 0.7, 0, 1)
    angle = np.arctan2(position[:, 0], position[:, 2] - HAT_AXIS_Z)
    extra = np.column_stack([angle, np.zeros_like(angle), np.ones_like(angle)])
    soup.add(position, compute_vertex_normals(position, triangles), extra, triangles, HAT)
    return position[position[:, 1].argmax()]


def make_hat_rim(head: Head, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) just off the head on the hat line, at ``angle`` (n,) from the front, and directions out (n, 3)."""
    near = np.abs(compute_hat_height(head.bust.vertices)) < 0.1
    near &= (head.bust.masks["ears"] < 0.3) & (head.bust.vertices[:, 1] > 7)
    x, y, z = head.vertices[near].T
    at = np.arctan2(x, z - HAT_AXIS_Z)
    around = np.linspace(-np.pi, np.pi, 13)[:-1]
    bins = [np.abs(np.angle(np.exp(1j * (at - a)))) < 0.4 for a in around]
    radius = np.array([np.hypot(x, z - HAT_AXIS_Z)[b].max() for b in bins])
    height = np.array([y[b].mean() for b in bins])
    r, up = (np.interp(angle, around, values, period=2 * np.pi) for values in (radius, height))
    away = np.column_stack([np.sin(angle), np.zeros_like(angle), np.cos(angle)])
    return (r[:, None] + 0.07) * away + np.column_stack([0 * up, up, np.full_like(up, HAT_AXIS_Z)]), away


def add_band(soup: Soup, rim: np.ndarray, angle: np.ndarray, away: np.ndarray, out: np.ndarray,
             up: np.ndarray, shade: float) -> None:
    """A strip from the rim (n, 3): row k lies ``out[k]`` along ``away`` (n, 3) and ``up[k]`` higher."""
    rows = rim + out[:, None, None] * away
    rows[..., 1] += up[:, None]
    extra = np.stack(np.broadcast_arrays(angle, 0.0, np.full((len(out), 1), shade)), 2).reshape(-1, 3)
    triangles = make_grid_triangles(*rows.shape[:2])
    position = rows.reshape(-1, 3)
    soup.add(position, compute_vertex_normals(position, triangles), extra, triangles, HAT)


def add_pompom(soup: Soup, top: np.ndarray, radius: float) -> None:
    """A ball of wool."""
    position, normal, triangles = ball(top, radius)
    soup.add(position, normal, np.tile(np.array([0, 0, 1.15]), (len(position), 1)), triangles, HAT)


def make_lens_outline(rng: np.random.Generator, sun: bool) -> np.ndarray:
    """Offsets of a random lens rim from the eye center, (LENS_POINTS, 2)."""
    power = rng.choice([2.0, 2.0, 3.0, 4.5])
    width = rng.uniform(0.21, 0.27) + 0.02 * sun
    return trace_lens(width, width * rng.uniform(0.65, 1.0), power)


def trace_lens(width: float, height: float, power: float) -> np.ndarray:
    """Offsets of a lens rim from the eye center, (LENS_POINTS, 2): a superellipse of these half axes."""
    angle = np.linspace(0, 2 * np.pi, LENS_POINTS)
    cos = np.cos(angle)
    sin = np.sin(angle)
    return np.stack([width * np.sign(cos) * np.abs(cos) ** (2 / power),
                     height * np.sign(sin) * np.abs(sin) ** (2 / power) - 0.02], 1)


def add_glasses(soup: Soup, lenses: Soup, head: Head, appearance: dict[str, str], rng: np.random.Generator) -> None:
    """Rims, bridge and temples into ``soup``; lens discs into ``lenses``."""
    if appearance["glasses"] == "none":
        return
    outline = make_lens_outline(rng, appearance["glasses"] == "sunglasses")
    mount_glasses(soup, lenses, head, outline, rng.uniform(0.025, 0.055))


def mount_glasses(soup: Soup, lenses: Soup, head: Head, outline: np.ndarray, thick: float) -> None:
    """Glasses with lenses of this ``outline`` (LENS_POINTS, 2) and rims ``thick`` units wide."""
    x, y, z = head.vertices.T
    front = z[(np.abs(x) > 0.15) & (np.abs(x) < 0.6) & (np.abs(y - 7.25) < 0.3)].max() + 0.06
    fan = np.stack([np.full(LENS_POINTS - 1, LENS_POINTS), np.arange(LENS_POINTS - 1),
                    np.arange(1, LENS_POINTS)], 1)
    for sign in (-1, 1):
        eye = (EYE + [0.02, 0]) * [sign, 1]
        inner = outline + eye
        outer = outline * (1 + thick / np.abs(outline).max(0)) + eye
        rim = on_curve(np.vstack([inner, outer]), front + 0.004)
        add_flat(soup, rim, make_grid_triangles(2, LENS_POINTS), FRAME)
        add_flat(lenses, on_curve(np.vstack([inner, eye]), front), fan, LENS)
        edge = eye + [sign * (np.abs(outline[:, 0]).max() + thick / 2), 0.05]
        add_temple(soup, head, on_curve(edge[None], front)[0], sign, thick)
    gap = EYE[0] + 0.02 - np.abs(outline[:, 0]).max()
    upper = np.array([[-gap, 7.34], [0, 7.37], [gap, 7.34]])
    add_flat(soup, on_curve(np.vstack([upper, upper - [0, thick]]), front + 0.01), make_grid_triangles(2, 3), FRAME)


def on_curve(points: np.ndarray, front: float) -> np.ndarray:
    """Points (n, 2) on the bent front of the glasses, (n, 3)."""
    return np.column_stack([points, front - 0.35 * np.maximum(0, np.abs(points[:, 0]) - 0.25) ** 2])


def add_temple(soup: Soup, head: Head, edge: np.ndarray, sign: int, thick: float) -> None:
    """The bar from the edge of a lens to the ear."""
    half_head = np.abs(head.vertices[head.bust.masks["ears"] > 0.5, 0]).max()
    ear = np.array([sign * (half_head - 0.02), 7.33, 0.55])
    half = np.array([0, thick / 2, 0])
    add_flat(soup, np.stack([edge + half, ear + half, edge - half, ear - half]), make_grid_triangles(2, 2), FRAME)


def add_flat(soup: Soup, position: np.ndarray, triangles: np.ndarray, material: int) -> None:
    normal = np.tile(np.array([0, 0.2, 0.98]), (len(position), 1))
    soup.add(position, normal, position, triangles, material)


def add_earrings(soup: Soup, head: Head, appearance: dict[str, str], rng: np.random.Generator) -> None:
    """A stud, drop or hoop below each ear lobe."""
    if appearance["earrings"] == "no":
        return
    kind = rng.choice(("stud", "drop", "hoop"))
    size = rng.uniform(0.085, 0.11)
    for sign in (-1, 1):
        ear = head.vertices[(head.bust.masks["ears"] > 0.5) & (head.bust.vertices[:, 0] * sign > 0)]
        lobe = ear[ear[:, 1].argmin()] + np.array([sign * 0.06, 0.0, 0.08])
        shapes = {"stud": [ball(lobe, size, 8)], "hoop": [hoop(lobe - [0, 1.8 * size, 0], 1.8 * size)],
                  "drop": [ball(lobe - [0, k * 1.4 * size, 0], size, 8) for k in range(4)]}[kind]
        for position, normal, triangles in shapes:
            soup.add(position, normal, position, triangles, EARRING)


def hoop(center: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A torus in the plane that faces the viewer."""
    around, across = np.meshgrid(np.linspace(0, 2 * np.pi, 24), np.linspace(0, 2 * np.pi, 8), indexing="ij")
    outward = np.stack([np.cos(around), np.sin(around), np.zeros_like(around)], 2)
    normal = outward * np.cos(across)[..., None] + np.array([0, 0, 1]) * np.sin(across)[..., None]
    position = center + radius * outward + 0.045 * normal
    return position.reshape(-1, 3), normal.reshape(-1, 3), make_grid_triangles(24, 8)
