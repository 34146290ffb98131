"""Colours and relief of all that is seen, from 256 px on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .appearance import COLORS, EYE_COLORS, HAIR_COLORS
from .dress import compute_cloth_height
from .head import Head
from .lighting import MIRRORS
from .mesh import L_EYE, R_EYE
from .noise import Fields, sample_groove
from .paint import (
    GOLD, Label, choose_facial_hair_color, color, compute_beard_amount, compute_brow_amount, hat_color, label_skin, mix,
    paint_cloth, paint_necklace, paint_scalp, ramp,
)
from .skin import color_skin, darken_nostrils, get_skin_tone, paint_lips, slope_skin, tint
from .soup import (EARRING, FACE_HAIR, FRAME, HAIR, HAT, LEFT_EYE, LOWER_TOOTH, RIGHT_EYE, SKIN, TONGUE_FLESH,
                   UPPER_TOOTH, Pixels)


class Surface(NamedTuple):
    """What the light meets at N pixels.

    albedo: colour in [0, 1] as displayed, (N, 3).
    label: class, (N,).
    slope: tilt of the normal in units of the template, (N, 3).
    gloss: strength of the highlight as a factor, (N,).
    """

    albedo: np.ndarray
    label: np.ndarray
    slope: np.ndarray
    gloss: np.ndarray


def paint_fine_skin(seen: Pixels, appearance: dict[str, str], oldness: float, noise: np.ndarray,
                    fields: Fields) -> Surface:
    """The body: skin, lips, scalp, clothes and necklace; ``noise`` (N,) in [0, 1]."""
    p = seen.extra
    lips, ears, lids, inside = seen.masks.T
    tone = get_skin_tone(appearance)
    slope, fold = slope_skin(p, oldness, fields)
    albedo = mix(color_skin(p, lids, ears, appearance, oldness, fields), tint(tone, 0.62, 0.45, 0.4), 0.55 * fold)
    brow = compute_brow_amount(p, appearance["brows"] == "bushy")
    albedo = darken_nostrils(color_below_hair(albedo, p, lips, brow, appearance), p, tone)
    gloss = np.ones(len(p), np.float32)
    paint_lips(albedo, slope, gloss, p, lips, inside, appearance, fields)
    cavity = inside >= 0.5
    albedo[cavity] = (0.3, 0.08, 0.08)
    gloss[cavity] = 1.5
    label = label_skin(p, seen.up, brow > 0.5, ears > 0.45, (lips > 0.45) & ~cavity, cavity)
    paint_scalp(albedo, label, p, ears, appearance, noise)
    gloss[label == Label.hair] = 0.2
    paint_cloth(albedo, label, p, appearance, noise)
    paint_necklace(albedo, label, p, appearance)
    shape_cloth(albedo, slope, gloss, label, p, appearance, fields)
    shape_necklace(albedo, slope, gloss, label, p)
    return Surface(albedo, label, slope, gloss)


def color_below_hair(albedo: np.ndarray, p: np.ndarray, lips: np.ndarray, brow: np.ndarray,
                     appearance: dict[str, str]) -> np.ndarray:
    """Skin darkened below beard and brows, so that their strands look dense."""
    hair = choose_facial_hair_color(appearance).astype(np.float32)
    tone = get_skin_tone(appearance)
    beard = compute_beard_amount(p, appearance["facial_hair"]) * (lips < 0.4)
    under = {"stubble": 0.22, "none": 0.0}.get(appearance["facial_hair"], 0.6)
    albedo = mix(albedo, 0.8 * hair + 0.2 * tone, under * beard)
    return mix(albedo, 0.6 * hair + 0.4 * tone, 0.45 * brow)


def shape_necklace(albedo: np.ndarray, slope: np.ndarray, gloss: np.ndarray, label: np.ndarray, p: np.ndarray) -> None:
    """Ribs of bright metal, in place."""
    at = label == Label.neck_l
    around = np.arctan2(p[at, 0], p[at, 2] - 0.2)
    albedo[at] = GOLD
    gloss[at] = MIRRORS
    slope[at] = 0
    slope[at, 0] = 0.7 * np.cos(40 * around)


def shape_cloth(albedo: np.ndarray, slope: np.ndarray, gloss: np.ndarray, label: np.ndarray, p: np.ndarray,
                appearance: dict[str, str], fields: Fields) -> None:
    """Folds and weave of the clothes as tilted normals, in place."""
    at = label == Label.cloth
    q = p[at]
    x, y, _ = q.T
    dark = color(COLORS, appearance["clothes_color"]).mean() < 0.25
    kind = appearance["clothes"]
    big = fields(q, (2.2, 3.4, 2.2), 14)[:, 1:] * 0.13 + fields(q, (5, 7, 5), 15)[:, 1:] * 0.05
    if kind in ("sweater", "turtleneck"):
        rib = np.stack([np.cos(x * 140), 0.5 * np.cos(y * 110 + 1.5 * np.sin(x * 140)), 0 * x], 1) * 0.17
    else:
        rib = fields(q, (120, 26, 60), 16)[:, 1:] * 0.05 + fields(q, (26, 120, 60), 17)[:, 1:] * 0.05
    depth = compute_cloth_height(q, kind)
    hem = sample_groove(depth - 0.02, 0.018) * np.sign(depth - 0.02) * 0.5
    slope[at] = (big + rib * (0.6 if dark else 1)).astype(np.float32)
    slope[at, 1] += hem.astype(np.float32)
    albedo[at] *= (1 + 0.05 * fields(q, 30, 18)[:, :1]) * (1 - 0.25 * sample_groove(depth, 0.02))[:, None]
    gloss[at] = 0.12 if kind != "suit" else 0.2


def paint_fine_eye(p: np.ndarray, center: np.ndarray, gaze: np.ndarray, eye_color: str, fields: Fields) -> np.ndarray:
    """Albedo (N, 3): sclera with a pinkish rim, dark limbus, fibres of the iris, pupil."""
    out = p - center
    ahead = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-6)
    angle = np.arccos(np.clip(ahead @ gaze, -1, 1))
    iris = color(EYE_COLORS, eye_color).astype(np.float32)
    tangent = ahead - (ahead @ gaze)[:, None] * gaze
    around = np.arctan2(tangent[:, 1], tangent[:, 0])
    polar = np.stack([np.cos(around) * 9, np.sin(around) * 9, angle * 5], 1).astype(np.float32)
    fibre = fields(polar, 1, 20)[:, 0] + 0.6 * fields(polar, 2.4, 21)[:, 0]
    white = np.float32([0.9, 0.875, 0.85]) * (1 + 0.02 * fields(p, 20, 22)[:, :1])
    albedo = mix(white, np.float32([0.78, 0.5, 0.46]), 0.55 * ramp(np.abs(out[:, 0]), 0.09, 0.14))
    white *= (1 - 0.3 * ramp(out[:, 1], 0.02, 0.1))[:, None]
    inner = iris * (1.0 + 0.38 * fibre[:, None]) * (0.85 + 0.75 * ramp(angle, 0.5, 0.22))[:, None]
    inner = mix(inner, iris * np.float32([1.3, 1.1, 0.7]), 0.5 * ramp(angle + 0.03 * fibre, 0.32, 0.24))
    albedo = mix(albedo, inner, ramp(angle, 0.55, 0.5))
    albedo = mix(albedo, iris * 0.22, 0.8 * sample_groove(angle - 0.51, 0.055))
    return mix(albedo, np.full(3, 0.015, np.float32), ramp(angle + 0.01 * fibre, 0.225, 0.195))


def paint_tooth(p: np.ndarray, upper: bool) -> np.ndarray:
    """Albedo (N, 3): gaps between the teeth, darker towards the corners of the mouth."""
    x = np.abs(p[:, 0])
    edges = np.array([0.0, 0.088, 0.158, 0.222, 0.27, 0.305]) * (1 if upper else 0.8)
    gap = np.max([sample_groove(x - edge, 0.006) for edge in edges], axis=0)
    tone = np.float32([0.9, 0.87, 0.8]) if upper else np.float32([0.82, 0.79, 0.72])
    return tone * ((1 - 0.5 * gap) * (1 - 0.6 * ramp(x, 0.1, 0.3)))[:, None]


def color_strands(extra: np.ndarray, appearance: dict[str, str]) -> np.ndarray:
    """Albedo (N, 3) of hair: darker at the roots, strands and locks differ."""
    along, strand, clump = extra.T
    shade = (0.78 + 0.34 * strand) * (0.86 + 0.24 * clump) * (0.62 + 0.42 * np.minimum(1, 2.2 * along))
    tone = color(HAIR_COLORS, appearance["hair_color"]).astype(np.float32)
    warm = (tone * np.float32([1.06, 0.98, 0.88]) - tone) * (strand - 0.4)[:, None]
    return (tone + warm) * shade[:, None] * np.float32(1.08)


def paint_face_hair(extra: np.ndarray, appearance: dict[str, str]) -> np.ndarray:
    """Albedo (N, 3) of beard and brows."""
    along, strand, _ = extra.T
    tone = choose_facial_hair_color(appearance).astype(np.float32)
    gray = 0.5 if appearance["age"] == "old" else 0.0
    return mix(tone * (0.6 + 0.6 * strand)[:, None] * (0.85 + 0.25 * along)[:, None], np.full(3, 0.6, np.float32),
               gray * (strand > 0.75))


def make_blank(count: int) -> Surface:
    """A black surface of ``count`` pixels, to be painted part by part."""
    return Surface(np.zeros((count, 3), np.float32), np.zeros(count, np.uint8), np.zeros((count, 3), np.float32),
                   np.ones(count, np.float32))


def paint_fine_surface(head: Head, appearance: dict[str, str], seen: Pixels, gaze: np.ndarray,
                       grain: np.random.Generator) -> Surface:
    """The surface at the N covered pixels; ``gaze`` (3,) is where the eyes look."""
    fields = Fields(int(grain.integers(1 << 20)))
    surface = make_blank(len(seen.kind))
    at = seen.kind == SKIN
    skin = paint_fine_skin(seen[at], appearance, head.oldness, grain.random(at.sum(), np.float32), fields)
    for whole, part in zip(surface, skin):
        whole[at] = part
    paint_eyes_and_mouth(surface, seen, head, appearance, gaze.astype(np.float32), fields)
    paint_wear(surface, seen, appearance, fields)
    hair = seen.extra[seen.kind == FACE_HAIR]
    classes = np.rint(hair[:, 2]).astype(np.uint8)
    put(surface, seen.kind == FACE_HAIR, paint_face_hair(hair, appearance), classes, 0.3)
    if appearance["hair_length"] != "bald":
        at = seen.kind == HAIR
        put(surface, at, color_strands(seen.extra[at], appearance), Label.hair)
    return surface


def put(surface: Surface, at: np.ndarray, colors: np.ndarray | tuple, classes: np.ndarray | int,
        gloss: float = 1) -> None:
    surface.albedo[at] = colors
    surface.label[at] = classes
    surface.gloss[at] = gloss


def paint_eyes_and_mouth(surface: Surface, seen: Pixels, head: Head, appearance: dict[str, str], gaze: np.ndarray,
                         fields: Fields) -> None:
    """Eyeballs, teeth and tongue, in place."""
    for material, part, name in ((LEFT_EYE, L_EYE, Label.l_eye), (RIGHT_EYE, R_EYE, Label.r_eye)):
        center = head.bust.vertices[head.bust.find_part_vertices(part)].mean(0)
        at = seen.kind == material
        put(surface, at, paint_fine_eye(seen.extra[at], center, gaze, appearance["eye_color"], fields), name)
    for material in (UPPER_TOOTH, LOWER_TOOTH):
        at = seen.kind == material
        put(surface, at, paint_tooth(seen.extra[at], material == UPPER_TOOTH), Label.mouth, 2)
    put(surface, seen.kind == TONGUE_FLESH, (0.66, 0.28, 0.28), Label.mouth, 2)


def paint_wear(surface: Surface, seen: Pixels, appearance: dict[str, str], fields: Fields) -> None:
    """Hat, glasses and earrings, in place."""
    if appearance["hat"] != "none":
        at = seen.kind == HAT
        felt = fields(seen.point[at], 45, 23)
        shade = 1 + 0.06 * fields(seen.point[at], 60, 25)[:, :1]
        put(surface, at, hat_color(seen.extra[at], appearance) * shade, Label.hat, 0.15)
        surface.slope[at] = 0.09 * felt[:, 1:] + 0.04 * fields(seen.point[at], 5, 24)[:, 1:]
    if appearance["glasses"] != "none":
        put(surface, seen.kind == FRAME, color(COLORS, appearance["glasses_color"]), Label.eye_g)
    put(surface, seen.kind == EARRING, GOLD, Label.ear_r)
