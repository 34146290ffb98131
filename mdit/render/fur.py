"""The fine strands of a head from 256 px on: hair between the traced strands, beard and brows."""

from __future__ import annotations

import numpy as np

from .hair import shade_clumps
from .head import Head
from .mesh import BODY
from .paint import Label, compute_beard_amount, compute_brow_amount, is_neck, ramp
from .soup import FACE_HAIR, HAIR, Soup
from .strands import add_ribbons, bend, sample_roots, thicken, unit

# Counts of strands; lengths and widths in units of the head.
STRANDS = {"buzz": 12000, "short": 11000, "medium": 10000, "long": 10000}
WIDTHS = {"buzz": 0.008, "short": 0.0105, "medium": 0.0115, "long": 0.0115}
SHORT = ("buzz", "short")
FRIZZ = {"straight": 0.015, "wavy": 0.03, "curly": 0.045}
MOST_POINTS = 61
BEARD_STRANDS = {"stubble": 9000, "mustache": 1800, "goatee": 4500, "beard": 9000}
BEARD_LENGTHS = {"stubble": (0.012, 0.02), "mustache": (0.07, 0.11), "goatee": (0.08, 0.16), "beard": (0.09, 0.2)}
BROW_STRANDS = {"normal": 16000, "bushy": 26000}  # tried over the whole brow ridge


def add_fine_hair(soup: Soup, guides: np.ndarray, appearance: dict[str, str], view: np.ndarray,
                  rng: np.random.Generator) -> None:
    """Add hair that follows the ``guides`` (G, P, 3); ``extra`` holds (along the strand, shade, clump shade)."""
    length = appearance["hair_length"]
    points = guides.shape[1] if length in SHORT else min(2 * guides.shape[1] - 1, MOST_POINTS)
    spread = 0.012 if length in SHORT else 0.016
    strands, owner = thicken(guides, STRANDS[length], spread, FRIZZ[appearance["hair_texture"]], points, rng)
    facts = np.column_stack([rng.random(len(strands)), shade_clumps(guides)[owner]])
    width = WIDTHS[length] * rng.uniform(0.75, 1.2, len(strands))
    add_ribbons(soup, strands, width, facts, view, HAIR)


def add_beard(soup: Soup, head: Head, appearance: dict[str, str], view: np.ndarray, rng: np.random.Generator) -> None:
    """Add facial hair; ``extra`` holds (along the strand, shade, class)."""
    kind = appearance["facial_hair"]
    if kind == "none":
        return
    middles = find_body_middles(head)
    around = 0.02 * (np.abs(middles[:, 0]) < 0.8) * (middles[:, 2] > 0.5)  # large triangles at the beard's border
    roots = sample_roots(head, compute_beard_amount(middles, kind) + around, BEARD_STRANDS[kind], rng)
    amount = compute_beard_amount(roots.template, kind) * ~hangs_over_lips(roots.template)
    roots = roots.keep(rng.random(len(amount)) < amount)
    count = len(roots.template)
    below = comb_beard(roots.template, rng)
    length = rng.uniform(*BEARD_LENGTHS[kind], count) * (1 - 0.6 * (roots.template[:, 1] > 6.63))
    flat = 0.25 * roots.normal * (length < 0.05)[:, None]  # short hair lies on the skin
    strands = bend(roots.position, unit(roots.normal + 0.6 * below), unit(below - flat), length, 5)
    classes = np.where(is_neck(roots.template, np.zeros(count)), Label.neck, Label.skin)
    width = (0.0045 if kind == "stubble" else 0.0085) * rng.uniform(0.7, 1.2, count)
    add_ribbons(soup, strands, width, np.column_stack([rng.random(count), classes]), view, FACE_HAIR)


def find_body_middles(head: Head) -> np.ndarray:
    """Template positions of the middles of the body's triangles, (T, 3)."""
    bust = head.bust
    return bust.vertices[bust.triangles[bust.parts == BODY]].mean(1)


def comb_beard(template: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Directions (N, 3) of facial hair: down on the chin, aside above the lips."""
    aside = np.sign(template[:, 0]) * np.minimum(1, 4 * np.abs(template[:, 0]))
    above = template[:, 1] > 6.6
    count = len(template)
    direction = np.column_stack([0.75 * aside * above, np.where(above, -0.6, -1.0), np.where(above, 0.15, 0.1)])
    return unit(direction + rng.normal(0, 0.22, (count, 3)))


def hangs_over_lips(template: np.ndarray) -> np.ndarray:
    """Where hair would hang over the lips, bool (N,)."""
    x, y, _ = template.T
    return (x / 0.27) ** 2 + ((y - 6.6) / 0.085) ** 2 < 1


def add_brows(soup: Soup, head: Head, appearance: dict[str, str], view: np.ndarray, rng: np.random.Generator) -> None:
    """Add the hairs of the eyebrows; ``extra`` holds (along the strand, shade, class)."""
    kind = appearance["brows"]
    x, y, z = np.abs(find_body_middles(head).T)
    ridge = (x < 0.6) & (x > 0.05) & (y > 7.35) & (y < 7.65) & (z > 0.9)
    roots = sample_roots(head, ridge.astype(float), BROW_STRANDS[kind], rng)
    across = np.abs(roots.template[:, 0])
    amount = 0.8 * compute_brow_amount(roots.template, kind == "bushy") * ramp(across, 0.09, 0.2)
    roots = roots.keep(rng.random(len(amount)) < amount)
    count = len(roots.template)
    rise = np.interp(np.abs(roots.template[:, 0]), (0.1, 0.22, 0.4, 0.54), (0.9, 0.5, 0.05, -0.35))
    outward = np.column_stack([np.sign(roots.template[:, 0]), rise, np.full(count, -0.1)])
    outward = unit(outward + rng.normal(0, 0.18, (count, 3)))
    length = rng.uniform(0.03, 0.055, count) * (1.25 if kind == "bushy" else 1)
    start, end = unit(outward + 0.35 * roots.normal), unit(outward - 0.15 * roots.normal)
    strands = bend(roots.position + 0.002 * roots.normal, start, end, length, 4)
    classes = np.where(roots.template[:, 0] > 0, Label.l_brow, Label.r_brow)
    width = 0.005 * rng.uniform(0.7, 1.2, count)
    add_ribbons(soup, strands, width, np.column_stack([rng.random(count), classes]), view, FACE_HAIR)
