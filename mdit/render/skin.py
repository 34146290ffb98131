"""Colour and relief of skin and lips from 256 px on, over template coordinates."""

from __future__ import annotations

import numpy as np

from .appearance import LIPSTICKS, SKIN_TONES
from .noise import Fields, sample_groove
from .paint import color, compute_beard_amount, mix, ramp

NOSTRIL = np.array([0.088, 6.858, 1.57], np.float32)
NOSTRIL_HALF = np.array([0.036, 0.022, 0.06], np.float32)


def get_skin_tone(appearance: dict[str, str]) -> np.ndarray:
    return color(SKIN_TONES, appearance["skin_tone"]).astype(np.float32)


def tint(tone: np.ndarray, red: float, green: float, blue: float) -> np.ndarray:
    return tone * np.array([red, green, blue], np.float32)


def color_skin(p: np.ndarray, lids: np.ndarray, ears: np.ndarray, appearance: dict[str, str], oldness: float,
               fields: Fields) -> np.ndarray:
    """Albedo (N, 3) of bare skin at template positions (N, 3); ``lids`` and ``ears`` (N,) in [0, 1]."""
    x, y, z = p.T
    tone = get_skin_tone(appearance)
    broad, middle, fine = (fields(p, frequency, number)[:, 0] for frequency, number in ((3, 1), (11, 2), (34, 3)))
    albedo = tone * (1 + 0.035 * broad + 0.03 * middle + 0.03 * fine)[:, None]
    albedo = mix(albedo, tint(tone, 1.04, 0.76, 0.72), measure_blush(p, ears, middle) * (1 + 0.5 * broad))
    albedo = mix(albedo, tint(tone, 1.0, 0.98, 0.86), 0.35 * ramp(y, 7.55, 7.8) * (z > 0.8))  # yellowish forehead
    hollow = np.exp(-((np.abs(x) - 0.27) ** 2 / 0.03 + (y - 7.12) ** 2 / 0.004)) * (z > 1.0)  # under the eyes
    albedo = mix(albedo, tint(tone, 0.72, 0.6, 0.62), (0.28 + 0.3 * oldness) * hollow)
    albedo = mix(albedo, tint(tone, 0.78, 0.62, 0.58), 0.3 * ramp(lids, 0.2, 0.7))
    if appearance["sex"] == "man" and appearance["facial_hair"] != "beard":
        shaved = compute_beard_amount(p, "beard")
        albedo = mix(albedo, tint(tone, 0.74, 0.76, 0.8), (0.22 + 0.14 * fine) * shaved)
    if appearance["freckles"] == "yes":
        spots = fields(p, 31, 4)[:, 0] + 0.6 * fields(p, 67, 10)[:, 0] + 0.2 * middle
        spots = ramp(spots, 0.5, 0.8) * (z > 0.8) * (np.abs(x) < 0.75)
        albedo = mix(albedo, tint(tone, 0.72, 0.55, 0.44), 0.5 * spots * np.exp(-(y - 7.0) ** 2 / 0.08))
    spots = ramp(fields(p, 15, 5)[:, 0] + 0.4 * fine, 0.66, 0.85)  # of age
    return mix(albedo, tint(tone, 0.72, 0.6, 0.52), 0.2 * oldness * spots)


def measure_blush(p: np.ndarray, ears: np.ndarray, mottling: np.ndarray) -> np.ndarray:
    """How red the skin is, (N,): cheeks, tip of the nose, ears, chin and spots."""
    x, y, z = p.T
    cheeks = 0.3 * np.exp(-((np.abs(x) - 0.45) ** 2 + (y - 6.95) ** 2) / 0.05) * (z > 0.7)
    nose = 0.35 * np.exp(-(x ** 2 / 0.03 + (y - 6.93) ** 2 / 0.02)) * (z > 1.4)
    chin = 0.12 * np.exp(-(x ** 2 + (y - 6.3) ** 2) / 0.03)
    return cheeks + nose + chin + 0.35 * (ears > 0.3) + 0.1 * mottling * (mottling > 0.2)


def slope_skin(p: np.ndarray, oldness: float, fields: Fields) -> tuple[np.ndarray, np.ndarray]:
    """Tilt (N, 3) of the skin's normal from pores, wrinkles and folds, and the darkness (N,) of wrinkles and folds."""
    x, y, z = p.T
    aside = np.abs(x)
    pores = 0.05 * fields(p, 46, 6)[:, 1:] + 0.045 * fields(p, 85, 7)[:, 1:]
    slope = pores * (0.6 + 0.5 * ramp(aside, 0.6, 0.1))[:, None]
    slope += (0.015 + 0.03 * oldness) * fields(p, 13, 8)[:, 1:]
    wobble = fields(p, 4, 9)[:, 0]
    forehead = oldness * np.exp(-((y - 7.8) / 0.16) ** 2) * (z > 0.95) * ramp(aside, 0.6, 0.3)
    phase = 44 * y + 1.6 * np.cos(4 * x) + 1.8 * wobble
    slope[:, 1] -= 0.55 * forehead * np.cos(phase) * np.abs(np.sin(phase))
    fold = measure_fold(p, wobble)
    slope[:, 0] += 0.2 * np.sign(x) * fold * (0.3 + oldness)
    slope[:, 1] += 0.12 * fold * (0.3 + oldness)
    feet = oldness * np.exp(-((aside - 0.6) ** 2 / 0.006 + (y - 7.27) ** 2 / 0.012)) * (z > 0.6)  # crow's feet
    slope[:, 1] += 0.4 * feet * np.sin(110 * (y - 7.27) + 30 * (aside - 0.6) * np.sign(y - 7.27))
    lines = 0.5 * forehead * np.maximum(0, -np.cos(phase)) ** 3
    return slope, lines + (0.1 + 0.3 * oldness) * np.abs(fold)


def measure_fold(p: np.ndarray, wobble: np.ndarray) -> np.ndarray:
    """The fold from the nose to the corner of the mouth, (N,): below 0 on its inner side, above 0 on its outer side."""
    x, y, z = p.T
    middle = np.abs(x) - 0.23 - 0.5 * (6.88 - y) + 0.01 * wobble
    inside = ramp(y, 6.56, 6.64) * ramp(y, 6.93, 6.86) * (z > 1.1)
    return 46 * middle * sample_groove(middle, 0.05) * inside


def darken_nostrils(albedo: np.ndarray, p: np.ndarray, tone: np.ndarray) -> np.ndarray:
    hole = 1 - (((np.abs(p) - NOSTRIL) / NOSTRIL_HALF) ** 2).sum(1)
    return mix(albedo, tint(tone, 0.16, 0.08, 0.07), 0.92 * ramp(hole, 0.0, 0.5))


def paint_lips(albedo: np.ndarray, slope: np.ndarray, gloss: np.ndarray, p: np.ndarray, lips: np.ndarray,
               inside: np.ndarray, appearance: dict[str, str], fields: Fields) -> None:
    """A soft edge, creases and a highlight, in place; ``lips`` and ``inside`` of the mouth (N,) in [0, 1]."""
    at = (lips > 0.2) & (inside < 0.5)
    q, amount = p[at], ramp(lips[at], 0.3, 0.62)
    painted = appearance["lipstick"] != "none"
    tone = (color(LIPSTICKS, appearance["lipstick"]).astype(np.float32) if painted
            else tint(get_skin_tone(appearance), 0.86, 0.58, 0.56))
    crease = fields(q, (52, 7, 5), 12)
    shade = 1 + 0.09 * crease[:, :1] + 0.05 * fields(q, 16, 13)[:, :1]
    albedo[at] = mix(albedo[at], tone * shade, amount * (1.0 if painted else 0.85))
    slope[at] *= 1 - 0.8 * amount[:, None]
    slope[at] += crease[:, 1:] * np.array([0.13, 0.03, 0.03], np.float32) * amount[:, None]
    gloss[at] = 1 + (2.4 if painted else 1.2) * amount
