"""Attributes -> deformed bust, with the eye centers at their template positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .mesh import L_EYE, R_EYE, Bust, load_bust, compute_vertex_normals

ANCESTRIES = ("african", "asian", "caucasian")
AGE_OLDNESS = {"young": (0.0, 0.12), "middle-aged": (0.4, 0.6), "old": (0.85, 1.0)}
SIDES = ("left", "right")
LOCAL_SPREAD = 0.17
LOCAL_LIMIT = 0.5


@dataclass
class Head:
    """Deformed vertices (V, 3), their normals, the bust and the oldness in [0, 1]."""

    vertices: np.ndarray
    normals: np.ndarray
    bust: Bust
    oldness: float


def compute_blend_weights(level: float, stem: str) -> dict[str, float]:
    """Blend weights of the min / average / max shapes at ``level`` in [0, 1]."""
    return {f"min{stem}": max(0.0, 1 - 2 * level), f"average{stem}": 1 - abs(2 * level - 1),
            f"max{stem}": max(0.0, 2 * level - 1)}


def macro_weights(appearance: dict[str, str], oldness: float, mix: np.ndarray,
                  rng: np.random.Generator) -> dict[str, float]:
    """Weights of the whole-head targets: sex, age, muscle, weight and ancestry."""
    strong = rng.uniform(0, 0.12)
    male = 1 - strong if appearance["sex"] == "man" else strong
    female = strong if appearance["sex"] == "man" else 1 - strong
    sexes = {"male": male, "female": female}
    ages = {"young": 1 - oldness, "old": oldness}
    muscles = compute_blend_weights(float(np.clip(rng.normal(0.5, 0.2), 0, 1)), "muscle")
    heavy = rng.uniform(0.85, 1.0) if appearance["chubby"] == "yes" else rng.uniform(0.15, 0.6)
    loads = compute_blend_weights(float(heavy), "weight")
    weights = {}
    for sex, s in sexes.items():
        for age, a in ages.items():
            for muscle, m in muscles.items():
                for load, w in loads.items():
                    weights[f"universal-{sex}-{age}-{muscle}-{load}"] = s * a * m * w
            for ancestry, part in zip(ANCESTRIES, mix):
                weights[f"{ancestry}-{sex}-{age}"] = s * a * part
    return weights


def expression_units(appearance: dict[str, str], rng: np.random.Generator) -> dict[str, float]:
    """Strengths of the expression units."""
    units: dict[str, float] = {}
    strength = rng.uniform(0.7, 1.1)
    if appearance["expression"] == "smiling":
        units = {"mouth-corner-puller": strength, "mouth-upward-retraction": 0.2,
                 "mouth-open": rng.choice([0.0, 0.25, 0.45]), "mouth-part-later": rng.choice([0.0, 0.5])}
    elif appearance["expression"] == "frowning":
        units = {"mouth-depression": 0.8 * strength}
        units.update({f"eyebrows-{s}-down": strength for s in SIDES})
    elif appearance["expression"] == "surprised":
        units = {"mouth-open": 0.75 * strength}
        units.update({f"eyebrows-{s}-up": strength for s in SIDES})
        units.update({f"eye-{s}-opened-up": 0.8 for s in SIDES})
    elif rng.random() < 0.3:
        units = {"mouth-open": rng.uniform(0.1, 0.4)}
    squint = rng.uniform(0, 0.25)
    units.update({f"eye-{s}-closure": squint for s in SIDES if f"eye-{s}-opened-up" not in units})
    return units


def sample_local_weights(bust: Bust, rng: np.random.Generator) -> dict[str, float]:
    """Random local shape controls, alike on both sides of the face."""
    weights = {}
    draws = {}
    for name in bust.targets:
        folder, slash, stem = name.partition("/")
        if not slash or folder in ANCESTRIES or "trans" in stem and folder in ("head", "neck"):
            continue
        shared = stem[2:] if stem[:2] in ("l-", "r-") else stem
        if shared not in draws:
            draws[shared] = float(np.clip(rng.normal(0, LOCAL_SPREAD), 0, LOCAL_LIMIT))
        weights[name] = draws[shared]
    return weights


def build_head(appearance: dict[str, str], rng: np.random.Generator) -> Head:
    """Deform the bust to an appearance."""
    bust = load_bust()
    low, high = AGE_OLDNESS[appearance["age"]]
    oldness = rng.uniform(low, high)
    mix = rng.dirichlet([0.6, 0.6, 0.6])
    weights = macro_weights(appearance, oldness, mix, rng) | sample_local_weights(bust, rng)
    for unit, strength in expression_units(appearance, rng).items():
        weights.update({f"{a}/{unit}": strength * part for a, part in zip(ANCESTRIES, mix)})
    return deform_bust(bust, weights, oldness)


def deform_bust(bust: Bust, weights: dict[str, float], oldness: float) -> Head:
    """The bust moved by the named targets of these ``weights``."""
    vertices = bust.vertices.copy()
    for name, weight in weights.items():
        if weight > 0.004:
            index, delta = bust.targets[name]
            vertices[index] += weight * delta
    vertices = align_eyes(hollow_mouth(vertices, bust), bust)
    return Head(vertices, compute_vertex_normals(vertices, bust.triangles), bust, oldness)


def hollow_mouth(vertices: np.ndarray, bust: Bust) -> np.ndarray:
    """Move the inside of the mouth back and together, so that a wide smile does not push it through the cheeks."""
    depth = np.clip((bust.masks["inside-mouth"] - 0.5) / 0.5, 0, 1)[:, None]
    return vertices * (1 - depth * np.array([0.1, 0, 0])) - depth * np.array([0, 0, 0.1])


def align_eyes(vertices: np.ndarray, bust: Bust) -> np.ndarray:
    """Scale and move so that both eye centers stand where the template has them."""
    left = bust.find_part_vertices(L_EYE)
    right = bust.find_part_vertices(R_EYE)
    l_now = vertices[left].mean(0)
    r_now = vertices[right].mean(0)
    l_goal = bust.vertices[left].mean(0)
    r_goal = bust.vertices[right].mean(0)
    scale = np.linalg.norm(l_goal - r_goal) / np.linalg.norm(l_now - r_now)
    return ((vertices - (l_now + r_now) / 2) * scale + (l_goal + r_goal) / 2).astype(np.float32)
