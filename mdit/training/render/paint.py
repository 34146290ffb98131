"""Colours and class labels of the visible body surface, from its template coordinates."""

from __future__ import annotations

import numpy as np

from .dress import cloth_height
from .hair import scalp_height
from .look import COLORS, EYE_COLORS, HAIR_COLORS, LIPSTICKS, SKIN_TONES

(BACKGROUND, SKIN_CLASS, NOSE, EYE_G, L_EYE, R_EYE, L_BROW, R_BROW, L_EAR, R_EAR, MOUTH, U_LIP, L_LIP,
 HAIR_CLASS, HAT_CLASS, EAR_R, NECK_L, NECK, CLOTH) = range(19)
LIP_LINE = 6.61
GOLD = np.array([0.9, 0.72, 0.25])


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
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    half = np.interp(y, (6.77, 6.8, 6.9, 7.0, 7.2, 7.32), (0.1, 0.19, 0.21, 0.16, 0.09, 0.075))
    return (y > 6.77) & (y < 7.32) & (x < half) & (z > 1.3)


def is_neck(p: np.ndarray, normal_y: np.ndarray) -> np.ndarray:
    """Below the jaw line or on the underside of the jaw; ``normal_y`` is the template normal's height."""
    y, z = p[:, 1], p[:, 2]
    jaw = np.interp(z, (0.0, 0.45, 0.6, 0.85, 1.25, 1.5), (6.95, 6.85, 6.52, 6.33, 6.17, 6.1))
    return (y < jaw) | ((normal_y < -0.62) & (y < 6.45) & (z < 1.33))


def brow_amount(p: np.ndarray, bushy: bool) -> np.ndarray:
    """Density of the eyebrows in [0, 1]."""
    x, y = np.abs(p[:, 0]), p[:, 1]
    centre = np.interp(x, (0.1, 0.2, 0.38, 0.54), (7.505, 7.52, 7.53, 7.45))
    half = np.interp(x, (0.1, 0.2, 0.38, 0.54), (0.03, 0.036, 0.03, 0.012)) * (1.5 if bushy else 1.0)
    inside = (x > 0.11) & (x < 0.53) & (p[:, 2] > 0.9)
    return inside * ramp(np.abs(y - centre), 1.15 * half, 0.85 * half)


def beard_amount(p: np.ndarray, kind: str) -> np.ndarray:
    """Density of the facial hair in [0, 1]."""
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    mustache = ramp(y, 6.64, 6.66) * ramp(y, 6.80, 6.775) * ramp(x, 0.32, 0.27) * (z > 1.2)
    chin = ramp(y, 6.56, 6.5) * ramp(x, 0.27, 0.22) * ramp(y, 6.02, 6.08) * (z > 0.95)
    corner = ramp(np.abs(x - 0.28), 0.07, 0.045) * ramp(y, 6.25, 6.3) * ramp(y, 6.78, 6.74) * (z > 1.1)
    top = np.interp(x, (0.0, 0.25, 0.35, 0.6, 0.75), (6.53, 6.6, 6.72, 6.85, 7.25))
    full = ramp(y, top + 0.03, top - 0.05) * ramp(y, 6.0, 6.1) * ramp(z, 0.6, 0.72)
    parts = {"none": [], "mustache": [mustache], "goatee": [mustache, chin, corner]}
    return np.max([np.zeros(len(p)), *parts.get(kind, [mustache, full, corner])], axis=0)


def facial_hair_color(look: dict[str, str]) -> np.ndarray:
    """Brows and beard: the hair's colour, darkened; brown for the bald."""
    name = look["hair_color"] if look["hair_color"] != "none" else "brown"
    return color(HAIR_COLORS, name) * (0.62 if look["age"] != "old" else 0.8)


def paint_skin(p: np.ndarray, masks: np.ndarray, normal_y: np.ndarray, look: dict[str, str], oldness: float,
               rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Albedo (N, 3) in [0, 1] and class (N,) of body pixels.

    ``p`` is the template position (N, 3), ``masks`` the lips, ears, eyelids, inside-mouth masks (N, 4).
    """
    x, y, z = p.T
    lips, ears, lids, inside = masks.T
    tone = color(SKIN_TONES, look["skin_tone"])
    hair = facial_hair_color(look)
    noise = rng.random(len(p))
    albedo = np.tile(tone, (len(p), 1)) * (0.97 + 0.06 * noise[:, None])
    blush = 0.25 * np.exp(-((np.abs(x) - 0.45) ** 2 + (y - 6.95) ** 2) / 0.04) * (z > 0.7)
    albedo = mix(albedo, tone * [1.05, 0.75, 0.72], blush + 0.3 * is_nose(p) * (y < 7.0))
    albedo = mix(albedo, tone * 0.65, 0.5 * (lids > 0.4))
    if look["freckles"] == "yes":
        spots = np.sin(x * 61 + 3 * np.sin(y * 37)) * np.sin(y * 67 + 2 * np.sin(x * 41)) > 0.55
        albedo = mix(albedo, tone * [0.7, 0.55, 0.45], 0.8 * spots * (y > 6.7) * (y < 7.2) * (z > 0.9))
    wrinkles = ramp(np.sin(y * 75 + 2 * np.sin(x * 3)), 0.55, 1.0) * (y > 7.6) * (y < 7.95) * (z > 1.0)
    folds = ramp(np.abs(np.abs(x) - 0.24 - 0.5 * (6.88 - y)), 0.03, 0.0) * (y > 6.6) * (y < 6.88) * (z > 1.2)
    albedo = mix(albedo, tone * 0.6, oldness * (0.5 * wrinkles + 0.8 * folds))
    beard = beard_amount(p, look["facial_hair"]) * (lips < 0.4)
    dense = 0.45 if look["facial_hair"] == "stubble" else 1.0
    albedo = mix(albedo, hair * (0.75 + 0.5 * noise[:, None]), beard * dense * (0.8 + 0.2 * noise))
    brow = brow_amount(p, look["brows"] == "bushy")
    albedo = mix(albedo, hair * 0.85, 0.9 * brow)
    painted = look["lipstick"] != "none"
    is_lip = (lips > 0.45) & (inside < 0.5)
    albedo[is_lip] = color(LIPSTICKS, look["lipstick"]) if painted else tone * [0.86, 0.58, 0.56]
    albedo[inside >= 0.5] = (0.35, 0.1, 0.1)

    label = np.full(len(p), SKIN_CLASS, np.uint8)
    label[is_neck(p, normal_y)] = NECK
    label[is_nose(p)] = NOSE
    label[brow > 0.5] = np.where(x > 0, L_BROW, R_BROW)[brow > 0.5]
    label[ears > 0.45] = np.where(x > 0, L_EAR, R_EAR)[ears > 0.45]
    label[is_lip] = np.where(y > LIP_LINE, U_LIP, L_LIP)[is_lip]
    label[inside >= 0.5] = MOUTH
    paint_scalp(albedo, label, p, ears, look, noise)
    paint_necklace(albedo, label, p, look)
    paint_cloth(albedo, label, p, look, noise)
    return albedo, label


def paint_scalp(albedo: np.ndarray, label: np.ndarray, p: np.ndarray, ears: np.ndarray, look: dict[str, str],
                noise: np.ndarray) -> None:
    """Hair colour under the strands, so that no skin shows through."""
    if look["hair_length"] == "bald":
        return
    height = scalp_height(p, look["receding"] == "yes")
    under = (height > 0.04 * (noise - 0.3)) & (ears < 0.3)
    tone = color(HAIR_COLORS, look["hair_color"])
    if look["hair_length"] == "buzz":
        tone = 0.65 * tone + 0.35 * color(SKIN_TONES, look["skin_tone"])
    albedo[under] = tone * (0.55 + 0.4 * noise[under, None])
    label[under] = HAIR_CLASS


def paint_necklace(albedo: np.ndarray, label: np.ndarray, p: np.ndarray, look: dict[str, str]) -> None:
    """A golden or pearly band low on the neck."""
    if look["necklace"] == "no":
        return
    band = np.abs(p[:, 1] - (5.98 - 0.34 * p[:, 2])) < 0.045
    band &= p[:, 1] < 6.2
    bead = np.sin(np.arctan2(p[:, 0], p[:, 2] - 0.2) * 60) > -0.6
    albedo[band] = np.where(bead[band, None], GOLD, 0.5 * GOLD)
    label[band] = NECK_L


def paint_cloth(albedo: np.ndarray, label: np.ndarray, p: np.ndarray, look: dict[str, str],
                noise: np.ndarray) -> None:
    """Clothes below their neckline; a suit shows a white shirt and a tie."""
    depth = cloth_height(p, look["clothes"])
    cloth = (depth > 0) & (p[:, 1] < 6.3)
    tone = color(COLORS, look["clothes_color"])
    shade = np.full(len(p), 1.0)
    if look["clothes"] in ("sweater", "turtleneck"):
        shade = 0.93 + 0.1 * np.sin(p[:, 0] * 70)
    if look["clothes"] == "shirt":
        shade = 1 - 0.15 * (np.abs(depth - 0.1) < 0.012) - 0.2 * ((np.abs(p[:, 0]) < 0.012) & (p[:, 2] > 0.2))
    if look["clothes"] == "hoodie":
        shade = 1 - 0.2 * ((depth > 0.2) & (depth < 0.24))
    albedo[cloth] = (np.tile(tone, (len(p), 1)) * (shade * (0.96 + 0.06 * noise))[:, None])[cloth]
    if look["clothes"] == "suit":
        half = 0.33 - 0.5 * (5.75 - p[:, 1])
        shirt = cloth & (np.abs(p[:, 0]) < half) & (p[:, 2] > 0.2)
        albedo[shirt] = 0.92
        tie = shirt & (np.abs(p[:, 0]) < 0.09) & (depth > 0.05)
        albedo[tie] = tone * 0.6
    label[cloth] = CLOTH


def paint_eye(p: np.ndarray, centre: np.ndarray, gaze: np.ndarray, eye_color: str) -> np.ndarray:
    """Albedo (N, 3) of eyeball pixels: sclera, limbus, iris, pupil."""
    out = p - centre
    cosine = (out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-6)) @ gaze
    angle = np.arccos(np.clip(cosine, -1, 1))
    iris = color(EYE_COLORS, eye_color)
    albedo = np.tile(np.array([0.93, 0.91, 0.89]), (len(p), 1))
    albedo = mix(albedo, iris * 0.55, ramp(angle, 0.56, 0.5))
    albedo = mix(albedo, iris, ramp(angle, 0.46, 0.4))
    return mix(albedo, np.full(3, 0.03), ramp(angle, 0.24, 0.19))
