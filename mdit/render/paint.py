"""Colours and class labels of the visible surface, of the body from its template coordinates."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from ..labelmap import CLASSES
from .dress import compute_cloth_height
from .hair import compute_scalp_height
from .head import Head
from .appearance import BEARD_COLORS, COLORS, EYE_COLORS, HAIR_COLORS, LIPSTICKS, SKIN_TONES
from .mesh import L_EYE, R_EYE
from .soup import (EARRING, FRAME, HAIR, HAT, LASH, LEFT_EYE, LOWER_TOOTH, RIGHT_EYE, SKIN, TONGUE_FLESH,
                   UPPER_TOOTH, Pixels)

Label = IntEnum("Label", CLASSES, start=0)
LIP_LINE = 6.61
GOLD = np.array([0.9, 0.72, 0.25])
MOUTH_TONES = {UPPER_TOOTH: (0.93, 0.91, 0.85), LOWER_TOOTH: (0.85, 0.82, 0.76), TONGUE_FLESH: (0.7, 0.3, 0.3)}


def color(table: dict[str, tuple], name: str) -> np.ndarray:
    return np.array(table[name]) / 255


def mix(base: np.ndarray, other: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Blend colours (N, 3) towards ``other`` by ``amount`` (N,)."""
    return base + (other - base) * np.clip(amount, 0, 1)[:, None]


def ramp(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, straight between (either order)."""
    return np.clip((value - low) / (high - low), 0, 1)


def is_nose(p: np.ndarray) -> np.ndarray:
    """Nose region in template coordinates."""
    x, y, z = p.T
    x = np.abs(x)
    half = np.interp(y, (6.77, 6.8, 6.9, 7.0, 7.2, 7.32), (0.1, 0.19, 0.21, 0.16, 0.09, 0.075))
    return (y > 6.77) & (y < 7.32) & (x < half) & (z > 1.3)


def is_neck(p: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Below the jaw line, which rises smoothly where the template's normal (its height ``up``) points down."""
    jaw = np.interp(p[:, 2], (0.0, 0.45, 0.6, 0.85, 1.25, 1.5), (6.95, 6.85, 6.52, 6.33, 6.17, 6.1))
    return p[:, 1] < jaw + 0.1 * ramp(up, -0.6, -0.85) * ramp(p[:, 2], 1.35, 1.2)


def compute_brow_amount(p: np.ndarray, bushy: bool) -> np.ndarray:
    """Density of the eyebrows in [0, 1]."""
    x = np.abs(p[:, 0])
    y = p[:, 1]
    center = np.interp(x, (0.1, 0.2, 0.38, 0.54), (7.505, 7.52, 7.53, 7.45))
    half = np.interp(x, (0.1, 0.2, 0.38, 0.54), (0.03, 0.036, 0.03, 0.012)) * (1.5 if bushy else 1.0)
    inside = (x > 0.11) & (x < 0.53) & (p[:, 2] > 0.9)
    return inside * ramp(np.abs(y - center), 1.15 * half, 0.85 * half)


def compute_beard_amount(p: np.ndarray, kind: str) -> np.ndarray:
    """Density of the facial hair in [0, 1]."""
    x, y, z = p.T
    x = np.abs(x)
    mustache = ramp(y, 6.64, 6.66) * ramp(y, 6.80, 6.775) * ramp(x, 0.32, 0.27) * (z > 1.2)
    chin = ramp(y, 6.56, 6.5) * ramp(x, 0.27, 0.22) * ramp(y, 6.02, 6.08) * (z > 0.95)
    corner = ramp(np.abs(x - 0.28), 0.07, 0.045) * ramp(y, 6.25, 6.3) * ramp(y, 6.78, 6.74) * (z > 1.1)
    top = np.interp(x, (0.0, 0.25, 0.35, 0.6, 0.75), (6.53, 6.6, 6.72, 6.85, 7.25))
    full = ramp(y, top + 0.03, top - 0.05) * ramp(y, 6.0, 6.1) * ramp(z, 0.6, 0.72)
    parts = {"none": [], "mustache": [mustache], "goatee": [mustache, chin, corner]}
    return np.max([np.zeros(len(p)), *parts.get(kind, [mustache, full, corner])], axis=0)


def choose_facial_hair_color(appearance: dict[str, str]) -> np.ndarray:
    """Brows and beard: the hair's colour, darkened; a natural one for dyed hair and the bald."""
    name = BEARD_COLORS.get(appearance["hair_color"], appearance["hair_color"])
    return color(HAIR_COLORS, name) * (0.62 if appearance["age"] != "old" else 0.8)


def compute_complexion(p: np.ndarray, lids: np.ndarray, appearance: dict[str, str], oldness: float,
               noise: np.ndarray) -> np.ndarray:
    """Albedo (N, 3) of bare skin: blush, lids, freckles, wrinkles."""
    x, y, z = p.T
    tone = color(SKIN_TONES, appearance["skin_tone"])
    albedo = np.tile(tone, (len(p), 1)) * (0.97 + 0.06 * noise[:, None])
    blush = 0.25 * np.exp(-((np.abs(x) - 0.45) ** 2 + (y - 6.95) ** 2) / 0.04) * (z > 0.7)
    albedo = mix(albedo, tone * [1.05, 0.75, 0.72], blush + 0.3 * is_nose(p) * (y < 7.0))
    albedo = mix(albedo, tone * 0.65, 0.5 * (lids > 0.4))
    if appearance["freckles"] == "yes":
        spots = np.sin(x * 61 + 3 * np.sin(y * 37)) * np.sin(y * 67 + 2 * np.sin(x * 41)) > 0.55
        albedo = mix(albedo, tone * [0.7, 0.55, 0.45], 0.8 * spots * (y > 6.7) * (y < 7.2) * (z > 0.9))
    wrinkles = ramp(np.sin(y * 75 + 2 * np.sin(x * 3)), 0.55, 1.0) * (y > 7.6) * (y < 7.95) * (z > 1.0)
    folds = ramp(np.abs(np.abs(x) - 0.24 - 0.5 * (6.88 - y)), 0.03, 0.0) * (y > 6.6) * (y < 6.88) * (z > 1.2)
    return mix(albedo, tone * 0.6, oldness * (0.5 * wrinkles + 0.8 * folds))


def paint_skin(seen: Pixels, appearance: dict[str, str], oldness: float,
               noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Albedo (N, 3) in [0, 1] and class (N,) of body pixels; ``noise`` (N,) in [0, 1] is their grain."""
    p = seen.extra
    lips, ears, lids, inside = seen.masks.T
    hair = choose_facial_hair_color(appearance)
    albedo = compute_complexion(p, lids, appearance, oldness, noise)
    beard = compute_beard_amount(p, appearance["facial_hair"]) * (lips < 0.4)
    dense = 0.45 if appearance["facial_hair"] == "stubble" else 1.0
    albedo = mix(albedo, hair * (0.75 + 0.5 * noise[:, None]), beard * dense * (0.8 + 0.2 * noise))
    brow = compute_brow_amount(p, appearance["brows"] == "bushy")
    albedo = mix(albedo, hair * 0.85, 0.9 * brow)
    is_lip = (lips > 0.45) & (inside < 0.5)
    albedo[is_lip] = (color(LIPSTICKS, appearance["lipstick"]) if appearance["lipstick"] != "none"
                      else color(SKIN_TONES, appearance["skin_tone"]) * [0.86, 0.58, 0.56])
    albedo[inside >= 0.5] = (0.35, 0.1, 0.1)
    label = label_skin(p, seen.up, brow > 0.5, ears > 0.45, is_lip, inside >= 0.5)
    paint_scalp(albedo, label, p, ears, appearance, noise)
    paint_cloth(albedo, label, p, appearance, noise)
    paint_necklace(albedo, label, p, appearance)
    return albedo, label


def label_skin(p: np.ndarray, up: np.ndarray, brow: np.ndarray, ear: np.ndarray, lip: np.ndarray,
               inside: np.ndarray) -> np.ndarray:
    """Class (N,) of the naked body; the parts of the face are given as bool (N,)."""
    left = p[:, 0] > 0
    label = np.where(is_neck(p, up), Label.neck, Label.skin).astype(np.uint8)
    label[is_nose(p)] = Label.nose
    label[brow] = np.where(left, Label.l_brow, Label.r_brow)[brow]
    label[ear] = np.where(left, Label.l_ear, Label.r_ear)[ear]
    label[lip] = np.where(p[:, 1] > LIP_LINE, Label.u_lip, Label.l_lip)[lip]
    label[inside] = Label.mouth
    return label


def paint_scalp(albedo: np.ndarray, label: np.ndarray, p: np.ndarray, ears: np.ndarray, appearance: dict[str, str],
                noise: np.ndarray) -> None:
    """Hair colour under the strands, so that no skin shows through."""
    if appearance["hair_length"] == "bald":
        return
    height = compute_scalp_height(p, appearance["receding"] == "yes")
    under = (height > 0.04 * (noise - 0.3)) & (ears < 0.3)
    tone = color(HAIR_COLORS, appearance["hair_color"])
    if appearance["hair_length"] == "buzz":
        tone = 0.65 * tone + 0.35 * color(SKIN_TONES, appearance["skin_tone"])
    albedo[under] = tone * (0.55 + 0.4 * noise[under, None])
    label[under] = Label.hair


def paint_necklace(albedo: np.ndarray, label: np.ndarray, p: np.ndarray, appearance: dict[str, str]) -> None:
    """A golden band low on the neck, over the clothes, with a round pendant."""
    if appearance["necklace"] == "no":
        return
    x, y, z = p.T
    drop = y - (5.98 - 0.34 * z)
    band = (np.abs(drop) < 0.06) & (y < 6.2)
    band |= (np.hypot(x, drop + 0.1) < 0.11) & (z > 0.3)
    bead = np.sin(np.arctan2(x, z - 0.2) * 40) > -0.6
    albedo[band] = np.where(bead[band, None], GOLD, 0.5 * GOLD)
    label[band] = Label.neck_l


def paint_cloth(albedo: np.ndarray, label: np.ndarray, p: np.ndarray, appearance: dict[str, str],
                noise: np.ndarray) -> None:
    """Clothes below their neckline; a suit shows a white shirt and a tie."""
    depth = compute_cloth_height(p, appearance["clothes"])
    cloth = (depth > 0) & (p[:, 1] < 6.3)
    tone = color(COLORS, appearance["clothes_color"])
    shade = compute_cloth_shade(p, depth, appearance["clothes"]) * (0.96 + 0.06 * noise)
    albedo[cloth] = tone * shade[cloth, None]
    if appearance["clothes"] == "suit":
        half = 0.33 - 0.5 * (5.75 - p[:, 1])
        shirt = cloth & (np.abs(p[:, 0]) < half) & (p[:, 2] > 0.2)
        albedo[shirt] = 0.92
        albedo[shirt & (np.abs(p[:, 0]) < 0.09) & (depth > 0.05)] = tone * 0.6
    label[cloth] = Label.cloth


def compute_cloth_shade(p: np.ndarray, depth: np.ndarray, clothes: str) -> np.ndarray:
    """Knit, seams and buttons: a factor (N,) of the cloth's colour."""
    if clothes in ("sweater", "turtleneck"):
        return 0.93 + 0.1 * np.sin(p[:, 0] * 70)
    if clothes == "shirt":
        return 1 - 0.15 * (np.abs(depth - 0.1) < 0.012) - 0.2 * ((np.abs(p[:, 0]) < 0.012) & (p[:, 2] > 0.2))
    return 1 - 0.2 * ((depth > 0.2) & (depth < 0.24)) * (clothes == "hoodie")


def paint_eye(p: np.ndarray, center: np.ndarray, gaze: np.ndarray, eye_color: str) -> np.ndarray:
    """Albedo (N, 3) of eyeball pixels: sclera, limbus, iris, pupil."""
    out = p - center
    cosine = (out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-6)) @ gaze
    angle = np.arccos(np.clip(cosine, -1, 1))
    iris = color(EYE_COLORS, eye_color)
    albedo = np.tile(np.array([0.93, 0.91, 0.89]), (len(p), 1))
    albedo = mix(albedo, iris * 0.55, ramp(angle, 0.56, 0.5))
    albedo = mix(albedo, iris, ramp(angle, 0.46, 0.4))
    return mix(albedo, np.full(3, 0.03), ramp(angle, 0.24, 0.19))


def hat_color(extra: np.ndarray, appearance: dict[str, str]) -> np.ndarray:
    """Albedo (N, 3) of hat pixels: a beanie has ribs, a cap seams."""
    angle, _, shade = extra.T
    if appearance["hat"] == "beanie":
        shade = shade * (0.88 + 0.12 * np.sin(angle * 45))
    elif appearance["hat"] == "cap":
        shade = shade * (1 - 0.3 * (np.abs(np.sin(3 * angle)) < 0.04))
    return color(COLORS, appearance["hat_color"]) * shade[:, None]


def compute_strand_color(extra: np.ndarray, appearance: dict[str, str]) -> np.ndarray:
    """Albedo (N, 3) of hair pixels."""
    along, strand, clump = extra.T
    shade = (0.72 + 0.28 * strand) * (0.8 + 0.35 * clump) * (0.75 + 0.3 * along)
    return color(HAIR_COLORS, appearance["hair_color"]) * shade[:, None] * 1.05


def paint_surface(head: Head, appearance: dict[str, str], seen: Pixels, gaze: np.ndarray,
                  grain: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Albedo (N, 3) and class (N,) of the covered pixels."""
    albedo = np.zeros((len(seen.kind), 3))
    label = np.zeros(len(seen.kind), np.uint8)

    def put(material: int, colors: np.ndarray | tuple, classes: np.ndarray | int) -> None:
        albedo[seen.kind == material] = colors
        label[seen.kind == material] = classes

    skin = seen[seen.kind == SKIN]
    colors, classes = paint_skin(skin, appearance, head.oldness, grain.random(len(skin.kind)))
    put(SKIN, colors, classes)
    for material, part, name in ((LEFT_EYE, L_EYE, Label.l_eye), (RIGHT_EYE, R_EYE, Label.r_eye)):
        center = head.bust.vertices[head.bust.find_part_vertices(part)].mean(0)
        put(material, paint_eye(seen.extra[seen.kind == material], center, gaze, appearance["eye_color"]), name)
    put(LASH, 0.06, np.where(seen.extra[seen.kind == LASH, 0] > 0, Label.l_eye, Label.r_eye))
    for material, tone in MOUTH_TONES.items():
        put(material, tone, Label.mouth)
    if appearance["hat"] != "none":
        put(HAT, hat_color(seen.extra[seen.kind == HAT], appearance), Label.hat)
    if appearance["glasses"] != "none":
        put(FRAME, color(COLORS, appearance["glasses_color"]), Label.eye_g)
    put(EARRING, GOLD, Label.ear_r)
    if appearance["hair_length"] != "bald":
        put(HAIR, compute_strand_color(seen.extra[seen.kind == HAIR], appearance), Label.hair)
    return albedo, label
