"""Strand hair: grown from the scalp, combed, pulled down, kept out of the head and off the face."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .head import Head
from .mesh import BODY
from .soup import HAIR, Soup
from .strands import Roots, make_ribbon_triangles, sample_roots, unit

CENTER = np.array([0, 7.3, 0.4], np.float32)
LENGTHS = {"buzz": (0.06, 0.09), "short": (0.3, 0.5), "medium": (0.9, 1.3), "long": (1.8, 2.5)}
POINTS = 15
HAIRLINE_Z = (-0.6, 0.2, 0.33, 0.7, 0.85, 0.97, 1.15, 1.3, 1.5)
HAIRLINE_Y = (6.55, 6.75, 7.3, 7.3, 7.38, 7.75, 7.97, 8.05, 8.2)
FACE_CENTER = np.array([0, 7.1], np.float32)
FACE_HALF = np.array([0.78, 1.0], np.float32)
FACE_Z = 0.7
TORSO_HALF_WIDTH = 0.95
CURL_RADIUS = {"straight": 0.008, "wavy": 0.035, "curly": 0.05}
CURL_PITCH = {"straight": 2.0, "wavy": 0.8, "curly": 0.36}
AFRO_PITCH = 0.15
KNOTS = {"tied": np.array([0, 7.3, -0.7], np.float32), "bun": np.array([0, 8.5, 0], np.float32)}
NAPE = np.array([0, 6.4, -1.1], np.float32)


def compute_scalp_height(template: np.ndarray, receding: bool) -> np.ndarray:
    """Height above the hairline in template coordinates (N, 3) -> (N,), positive on the scalp."""
    line = np.interp(template[:, 2], HAIRLINE_Z, HAIRLINE_Y)
    if receding:
        line = line + 0.22 * np.clip((template[:, 2] - 0.7) / 0.3, 0, 1)
    return template[:, 1] - line


def compute_hat_height(template: np.ndarray) -> np.ndarray:
    """Height above the plane where a hat sits, (N, 3) -> (N,)."""
    return template[:, 1] - (7.58 + 0.23 * template[:, 2])


class RadialMap:
    """Largest head radius about CENTER in each direction, as a longitude-latitude grid."""

    SHAPE = (20, 36)

    def __init__(self, vertices: np.ndarray) -> None:
        offset = vertices - CENTER
        grid = np.zeros(self.SHAPE, np.float32)
        np.maximum.at(grid, self._bins(offset), np.linalg.norm(offset, axis=1))
        for _ in range(3):
            around = np.stack([np.roll(grid, 1, 1), np.roll(grid, -1, 1), np.vstack([grid[:1], grid[:-1]]),
                               np.vstack([grid[1:], grid[-1:]])])
            grid = np.where(grid > 0, grid, around.max(0))
        self._grid = grid

    def _bins(self, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = self.SHAPE
        latitude = np.arctan2(offset[:, 1], np.hypot(offset[:, 0], offset[:, 2])) / np.pi + 0.5
        longitude = np.arctan2(offset[:, 0], offset[:, 2]) / (2 * np.pi) + 0.5
        return (np.clip((latitude * rows).astype(int), 0, rows - 1),
                np.clip((longitude * columns).astype(int), 0, columns - 1))

    def push_out(self, points: np.ndarray, gap: np.ndarray) -> np.ndarray:
        """Move points (N, 3) that lie nearer than the head plus ``gap`` (N,) outwards."""
        offset = points - CENTER
        radius = np.linalg.norm(offset, axis=1)
        wanted = self._grid[self._bins(offset)] + gap
        return CENTER + offset * np.maximum(1, wanted / np.maximum(radius, 1e-6))[:, None]


def sample_scalp(head: Head, appearance: dict[str, str], count: int, rng: np.random.Generator) -> Roots:
    """Roots evenly over the scalp."""
    bust = head.bust
    triangles = bust.triangles[bust.parts == BODY]
    middle = bust.vertices[triangles].mean(1)
    on_scalp = compute_scalp_height(middle, appearance["receding"] == "yes") > 0
    on_scalp &= bust.masks["ears"][triangles].max(1) < 0.3
    if appearance["hat"] != "none":
        on_scalp &= compute_hat_height(middle) < -0.05
    return sample_roots(head, on_scalp, count, rng)


def comb(appearance: dict[str, str], roots: np.ndarray, normals: np.ndarray, part: float) -> np.ndarray:
    """First growth directions (N, 3)."""
    style = appearance["hair_style"]
    if style == "afro":
        return normals
    if style in KNOTS:
        return unit(unit(KNOTS[style] - roots) + 0.15 * normals)
    lift = {"buzz": 1.0, "short": 0.6}.get(appearance["hair_length"], 0.3)
    if style == "back":
        return unit(np.array([0, 0.15, -1], np.float32) + 0.4 * lift * normals)
    back = -0.1 - 0.8 * np.clip(roots[:, 2] - 0.6, 0, 0.6)
    side = np.column_stack([np.tanh((roots[:, 0] - part) * 6), np.full_like(back, -0.1), back])
    if appearance["bangs"] == "yes":
        side = np.where(is_bang(roots)[:, None], np.array([0, -0.15, 1]) + 0.25 * side, side)
    return unit(side + lift * normals)


def is_bang(roots: np.ndarray) -> np.ndarray:
    return (roots[:, 2] > 0.75) & (np.abs(roots[:, 0]) < 0.5)


def move_off_face(points: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Move points in front of the face to its oval outline, at its sides back, except points of ``free`` strands."""
    offset = (points[:, :2] - FACE_CENTER) / FACE_HALF
    distance = np.maximum(np.linalg.norm(offset, axis=1), 1e-3)
    in_front = ~free & (points[:, 2] > FACE_Z) & (distance < 1)
    moved = points.copy()
    outward = (offset / distance[:, None])[in_front]
    moved[in_front, :2] = FACE_CENTER + FACE_HALF * outward
    moved[in_front, 2] = np.minimum(moved[in_front, 2], 0.8 + 0.7 * np.maximum(outward[:, 1], 0))
    return moved


def grow(head: Head, appearance: dict[str, str], rng: np.random.Generator) -> np.ndarray:
    """Strand points (N, P, 3)."""
    count = 2600 if appearance["hair_length"] in ("buzz", "short") else 3200
    roots, normals, template = sample_scalp(head, appearance, count, rng)
    bangs = is_bang(template) & (appearance["bangs"] == "yes")
    direction = comb(appearance, roots, normals, rng.uniform(-0.3, 0.3)) + rng.normal(0, 0.12, (count, 3))
    style = appearance["hair_style"]
    texture = appearance["hair_texture"]
    shortest, longest = (0.35, 0.6) if style == "afro" else LENGTHS[appearance["hair_length"]]
    lengths = rng.uniform(shortest, longest) * rng.uniform(0.85, 1.05, count)
    if style in KNOTS:
        lengths = 1.15 * np.linalg.norm(KNOTS[style] - roots, axis=1)
    lengths[bangs] = np.minimum(lengths[bangs], rng.uniform(0.5, 0.62))
    gap = rng.uniform(0.01, 0.05 if style in (*KNOTS, "back") else 0.13, count)
    strands = trace(head, roots, direction, lengths / (POINTS - 1), gap, pull_of(appearance, lengths), bangs)
    pitch = AFRO_PITCH if style == "afro" else CURL_PITCH[texture]
    return curl(strands, CURL_RADIUS[texture], max(1.0, lengths.mean() / pitch), rng)


def pull_of(appearance: dict[str, str], lengths: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The force on the ends (N, 3) of strands of ``lengths`` (N,): knot, comb, weight, or none."""
    style = appearance["hair_style"]
    if style in KNOTS:
        return lambda ends: 0.6 * unit(KNOTS[style] - ends)
    if style == "back":
        return lambda ends: 0.3 * unit(NAPE - ends)
    if style == "afro" or appearance["hair_length"] == "buzz":
        return np.zeros_like
    weight = 0.3 * np.minimum(lengths / (POINTS - 1) * 10, 1.5)
    return lambda ends: weight[:, None] * np.array([0, -1, 0])


def trace(head: Head, roots: np.ndarray, direction: np.ndarray, step: np.ndarray, gap: np.ndarray,
          pull: Callable[[np.ndarray], np.ndarray], bangs: np.ndarray) -> np.ndarray:
    """Let strands grow from ``roots`` (N, 3) by ``step`` (N,) a point, bent by ``pull`` -> (N, POINTS, 3)."""
    radial = RadialMap(head.vertices[np.abs(head.bust.vertices[:, 0]) < TORSO_HALF_WIDTH])
    points = [roots]
    step = step[:, None]
    for k in range(1, POINTS):
        direction = unit(direction + pull(points[-1]))
        moved = radial.push_out(points[-1] + direction * step, gap * min(1, k / 4))
        shift = move_off_face(moved, bangs) - points[-1]
        # The coarse map sees the shoulders as a part of the nape and would push its strands far out.
        shift *= np.minimum(1, 1.5 * step / np.maximum(np.linalg.norm(shift, axis=1, keepdims=True), 1e-6))
        direction = unit(0.5 * direction + 0.5 * unit(shift))
        points.append(points[-1] + shift)
    return np.stack(points, 1)


def curl(strands: np.ndarray, radius: float, turns: float, rng: np.random.Generator) -> np.ndarray:
    """Helical offset, alike within clumps of neighbouring roots, with points enough to be round."""
    cell = np.floor(strands[:, 0] * 5).astype(int) @ np.array([73, 179, 283])
    phase = (cell * 0.618) % 1 * 2 * np.pi + rng.normal(0, 0.4, len(strands))
    t = np.linspace(0, 1, max(POINTS, int(6 * turns)))
    low = np.minimum((t * (POINTS - 1)).astype(int), POINTS - 2)
    rest = (t * (POINTS - 1) - low)[:, None]
    fine = strands[:, low] * (1 - rest) + strands[:, low + 1] * rest  # (N, P, 3)
    angle = phase[:, None] + 2 * np.pi * turns * t
    swing = radius * np.minimum(1, 4 * t) * np.stack([np.cos(angle), 0.5 * np.cos(angle), np.sin(angle)])
    return fine + np.moveaxis(swing, 0, 2)


def add_hair(soup: Soup, strands: np.ndarray, appearance: dict[str, str], view: np.ndarray,
             rng: np.random.Generator) -> None:
    """Add ``strands`` as ribbons facing ``view`` (3,); extra holds (fraction along the strand, shade, clump shade)."""
    count, points = strands.shape[:2]
    tangent = unit(np.gradient(strands, axis=1))
    width = 0.022 if appearance["hair_length"] in ("buzz", "short") else 0.026
    side = unit(np.cross(tangent, view)) * (width * np.linspace(1, 0.6, points))[None, :, None] / 2
    position = np.stack([strands - side, strands + side], 2).reshape(-1, 3)
    facts = np.stack(np.broadcast_arrays(np.linspace(0, 1, points), rng.random((count, 1)),
                                         shade_clumps(strands)[:, None]), 2)
    soup.add(position, np.repeat(tangent.reshape(-1, 3), 2, 0), np.repeat(facts.reshape(-1, 3), 2, 0),
             make_ribbon_triangles(count, points), HAIR)


def shade_clumps(strands: np.ndarray) -> np.ndarray:
    """A shade in [0, 1) that strands (N, P, 3) of neighbouring roots share, (N,)."""
    cell = np.floor(strands[:, 0] * 6).astype(int) @ np.array([73, 179, 283])
    return (cell * 0.7548) % 1


def add_bun(soup: Soup, head: Head, rng: np.random.Generator) -> None:
    """A ball of hair on the crown."""
    crown = head.vertices[head.bust.vertices[:, 1].argmax()]
    position, normal, triangles = ball(crown + np.array([0, 0.18, -0.35]), rng.uniform(0.26, 0.36))
    tangent = unit(np.cross(normal, np.array([0.3, 1, 0.2])))
    facts = np.stack([np.full(len(position), 0.6), rng.random(len(position)), normal[:, 0] * 3 % 1], 1)
    soup.add(position, tangent, facts, triangles, HAIR)


def ball(center: np.ndarray, radius: float, steps: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, normals (v, 3) and triangles of a sphere."""
    latitude, longitude = np.meshgrid(np.linspace(0, np.pi, steps), np.linspace(0, 2 * np.pi, 2 * steps),
                                      indexing="ij")
    normal = np.stack([np.sin(latitude) * np.cos(longitude), np.cos(latitude),
                       np.sin(latitude) * np.sin(longitude)], 2)
    return center + radius * normal.reshape(-1, 3), normal.reshape(-1, 3), make_grid_triangles(steps, 2 * steps)


def make_grid_triangles(rows: int, columns: int) -> np.ndarray:
    """Two triangles for every cell of a vertex grid (rows, columns)."""
    first = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    return np.concatenate([np.stack([first, first + 1, first + columns], 1),
                           np.stack([first + 1, first + columns + 1, first + columns], 1)])
