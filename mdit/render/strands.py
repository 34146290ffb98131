"""Ribbons of hair: strands between the traced ones, beards, brows and lashes (numba)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .head import Head
from .mesh import BODY, LASHES, L_EYE, R_EYE
from .raster import compile_kernel
from .soup import Soup


@compile_kernel
def grow_between(guides, owner, shift, length, wave, points):
    """Strands (N, points, 3) that follow the ``guides`` (G, P, 3) with the numbers ``owner`` (N,).

    ``shift`` (N, 3) is the distance from the guide, ``length`` (N,) the fraction of the guide, and ``wave`` (N, 3) the
    amplitude, turns and phase of a wave. Points lie on Catmull-Rom splines through the guide's points.
    """
    last = guides.shape[1] - 1
    out = np.empty((len(owner), points, 3), np.float32)
    for i in range(len(owner)):
        guide = guides[owner[i]]
        for k in range(points):
            t = length[i] * k / (points - 1)
            at = t * last
            low = min(int(at), last - 1)
            u = np.float32(at - low)
            before, after = max(low - 1, 0), min(low + 2, last)
            away = np.float32(1 + 0.6 * t)
            swing = np.float32(wave[i, 0] * t * np.sin(wave[i, 2] + 6.2832 * wave[i, 1] * t))
            for c in range(3):
                p, q, r, s = guide[before, c], guide[low, c], guide[low + 1, c], guide[after, c]
                bend = (r - p) + u * (2 * p - 5 * q + 4 * r - s + u * (3 * (q - r) + s - p))
                out[i, k, c] = q + np.float32(0.5) * u * bend + away * shift[i, c] + swing * (1 if c < 2 else -1)
    return out


@compile_kernel
def make_ribbons(strands, view, width, tip):
    """Left and right edges (N, P, 2, 3) and tangents (N, P, 3) of ribbons that face ``view`` (3,).

    Each is ``width`` (N,) wide at its root; ``tip`` is the fraction of the width at its end.
    """
    count, points = strands.shape[:2]
    edges = np.empty((count, points, 2, 3), np.float32)
    tangents = np.empty((count, points, 3), np.float32)
    for i in range(count):
        for k in range(points):
            after, before = min(k + 1, points - 1), max(k - 1, 0)
            x = strands[i, after, 0] - strands[i, before, 0]
            y = strands[i, after, 1] - strands[i, before, 1]
            z = strands[i, after, 2] - strands[i, before, 2]
            scale = 1 / max(np.sqrt(x * x + y * y + z * z), 1e-6)
            x, y, z = x * scale, y * scale, z * scale
            side = y * view[2] - z * view[1], z * view[0] - x * view[2], x * view[1] - y * view[0]
            along = k / (points - 1)
            half = width[i] * (1 - (1 - tip) * along * along) / 2
            reach = half / max(np.sqrt(side[0] ** 2 + side[1] ** 2 + side[2] ** 2), 1e-6)
            tangents[i, k, 0], tangents[i, k, 1], tangents[i, k, 2] = x, y, z
            for c in range(3):
                edges[i, k, 0, c] = strands[i, k, c] - side[c] * reach
                edges[i, k, 1, c] = strands[i, k, c] + side[c] * reach
    return edges, tangents


def make_ribbon_triangles(count: int, points: int) -> np.ndarray:
    """Triangles of ``count`` ribbons whose vertices come in left-right pairs."""
    first = (np.arange(count)[:, None] * points + np.arange(points - 1)).ravel() * 2
    return np.concatenate([np.stack([first, first + 1, first + 2], 1),
                           np.stack([first + 1, first + 3, first + 2], 1)])


def add_ribbons(soup: Soup, strands: np.ndarray, width: np.ndarray, facts: np.ndarray, view: np.ndarray, material: int,
                tip: float = 0.25) -> None:
    """Add ``strands`` (N, P, 3) as ribbons; ``extra`` holds the fraction along the strand and ``facts`` (N, 2)."""
    count, points = strands.shape[:2]
    edges, tangents = make_ribbons(strands, view.astype(np.float32), width.astype(np.float32), np.float32(tip))
    extra = np.empty((count, points, 2, 3), np.float32)
    extra[..., 0] = np.linspace(0, 1, points)[:, None]
    extra[..., 1:] = facts[:, None, None]
    soup.add(edges.reshape(-1, 3), np.repeat(tangents.reshape(-1, 3), 2, 0), extra.reshape(-1, 3),
             make_ribbon_triangles(count, points), material)


def thicken(guides: np.ndarray, count: int, spread: float, frizz: float, points: int,
            rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``count`` strands near the ``guides`` (G, P, 3), and the number of the guide of each."""
    owner = np.arange(count) % len(guides)
    shift = rng.normal(0, spread, (count, 3)).astype(np.float32)
    length = rng.uniform(0.8, 1, count).astype(np.float32)
    wave = np.column_stack([frizz * rng.random(count), rng.uniform(0.5, 2, count), rng.uniform(0, 2 * np.pi, count)])
    return grow_between(guides.astype(np.float32), owner, shift, length, wave.astype(np.float32), points), owner


class Roots(NamedTuple):
    """Where hair grows: positions, normals and template positions, (N, 3) each."""

    position: np.ndarray
    normal: np.ndarray
    template: np.ndarray

    def keep(self, chosen: np.ndarray) -> Roots:
        return Roots(*(values[chosen] for values in self))


def sample_roots(head: Head, weight: np.ndarray, count: int, rng: np.random.Generator) -> Roots:
    """``count`` roots, evenly over the body's triangles but for their ``weight`` (T,)."""
    bust = head.bust
    triangles = bust.triangles[bust.parts == BODY]
    a, b, c = (head.vertices[triangles[:, k]] for k in range(3))
    area = weight * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = triangles[rng.choice(len(triangles), count, p=area / area.sum())]
    weights = rng.dirichlet([1, 1, 1], count).astype(np.float32)[:, :, None]
    return Roots(*((values[chosen] * weights).sum(1) for values in (head.vertices, head.normals, bust.vertices)))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def bend(roots: np.ndarray, start: np.ndarray, end: np.ndarray, length: np.ndarray, points: int) -> np.ndarray:
    """Strands (N, points, 3) that leave ``roots`` along ``start`` and turn towards ``end``, (N, 3) each."""
    t = np.linspace(0, 1, points)[:, None]
    middle = (roots + start * (length / 2)[:, None])[:, None]
    last = middle + (end * (length / 2)[:, None])[:, None]
    return (1 - t) ** 2 * roots[:, None] + 2 * t * (1 - t) * middle + t ** 2 * last


def grow_lashes(head: Head, rng: np.random.Generator) -> np.ndarray:
    """Lashes (N, 5, 3) of both eyes: from the lid's edge to the outer edge of the bust's lash cards."""
    bust = head.bust
    cards = bust.find_part_vertices(LASHES)
    strands = []
    for part in (L_EYE, R_EYE):
        center = bust.vertices[bust.find_part_vertices(part)].mean(0)
        near = cards[np.sign(bust.vertices[cards, 0]) == np.sign(center[0])]
        offset = bust.vertices[near] - center
        reach = np.linalg.norm(offset, axis=1)
        for upper, count in ((True, 120), (False, 60)):
            lid = (offset[:, 1] > 0) == upper
            edge, tips = near[lid & (reach < 0.17)], near[lid & (reach > 0.185)]
            strands.append(fan_out(head.vertices, edge, tips, count, upper, rng))
    return np.concatenate(strands)


def fan_out(vertices: np.ndarray, inner: np.ndarray, outer: np.ndarray, count: int, upper: bool,
            rng: np.random.Generator) -> np.ndarray:
    """Lashes (count, 5, 3) from the ``inner`` vertices of a card to the ``outer`` ones, curved upwards."""
    inner = inner[np.argsort(vertices[inner, 0])]
    outer = outer[np.argsort(vertices[outer, 0])]
    at = np.sort(rng.uniform(0, 1, count))
    root, tip = (np.column_stack([np.interp(at, np.linspace(0, 1, len(line)), vertices[line, c]) for c in range(3)])
                 for line in (inner, outer))
    length = rng.uniform(0.55, 1.0, count) if upper else rng.uniform(0.25, 0.5, count)
    tip = root + (tip - root) * length[:, None] + rng.normal(0, 0.006, (count, 3))
    t = np.linspace(0, 1, 5)[:, None]
    sag = np.array([0, -0.018 if upper else 0.0, 0.012])
    return root[:, None] + (tip - root)[:, None] * t + 4 * t * (1 - t) * sag
