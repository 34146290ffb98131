"""Light at 256 px and more, in linear values: backdrop, soft shadows, occlusion, scattering, tone curve."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from .light import SHADOW_CENTER, SHADOW_WIDTH, Light, background
from .lighting import MIRRORS, light_pixels, look_up_shadow
from .paint import Label
from .raster import rasterize
from .soup import EARRING, SKIN, Mesh, Pixels
from .surface import Surface

GAMMA = np.float32(2.2)
SHOULDER = 0.65
KEY = np.float32(1.27)  # linear strength for one of the plain shading; flat colours look alike in both
AMBIENT = np.float32(0.532)
TAPS = 16
SHADOW_RADIUS = 0.009  # of the map's width
SCATTERING = (0.0075, 0.004, 0.0025)  # of the image's width: red, green, blue
SCATTERED = 0.75  # fraction of the light on skin that scatters
SKIN_CLASSES = [Label.skin, Label.nose, Label.l_brow, Label.r_brow, Label.l_ear, Label.r_ear, Label.u_lip, Label.l_lip,
                Label.neck]


def draw_backdrop(size: int, appearance: dict[str, str], rng: np.random.Generator,
                  detail: np.random.Generator) -> np.ndarray:
    """The plain background with discs out of focus and a darker rim, all in the named colour, (size, size, 3)."""
    small = size // 4
    row, column = np.mgrid[0:small, 0:small].astype(np.float32) / small - 0.5
    brightness = 1.05 - 0.3 * (row ** 2 + column ** 2)
    for _ in range(detail.integers(0, 12)):
        x, y = detail.uniform(-0.5, 0.5, 2)
        distance = np.hypot(column - x, row - y) / detail.uniform(0.02, 0.12)
        brightness += detail.uniform(-0.03, 0.07) * expit(14 * (1 - distance))
    image = background(small, appearance, rng).astype(np.float32) * brightness[..., None]
    planes = [Image.fromarray(image[..., c]).resize((size, size), Image.Resampling.BILINEAR) for c in range(3)]
    return np.clip(np.stack([np.asarray(plane) for plane in planes], -1), 0, 1)


def measure_soft_shadow(mesh: Mesh, seen: Pixels, light: np.ndarray, size: int) -> np.ndarray:
    """Fraction (N,) of the key light from direction ``light`` (3,) that reaches the pixels, by a map ``size`` wide."""
    right = np.cross([0, 1, 0], light)
    basis = np.stack([right / np.linalg.norm(right), np.cross(light, right), light]).astype(np.float32)
    scale = np.array([size / SHADOW_WIDTH, size / SHADOW_WIDTH, 1], np.float32)
    middle = np.array([size / 2, size / 2, 0], np.float32) - SHADOW_CENTER.astype(np.float32) @ basis.T * scale
    near, _, _ = rasterize(mesh.position @ basis.T * scale + middle, mesh.triangles, size, size)
    lifted = seen.point + np.float32(0.03) * seen.normal * ~seen.is_strand[:, None]
    radius = SHADOW_RADIUS * size * np.sqrt((np.arange(TAPS) + 0.5) / TAPS)
    turn = np.arange(TAPS) * np.pi * (3 - np.sqrt(5))  # the golden angle
    taps = np.stack([radius * np.cos(turn), radius * np.sin(turn)], 1).astype(np.float32)
    return look_up_shadow(near, lifted @ basis.T * scale + middle, taps)


def halve(plane: np.ndarray) -> np.ndarray:
    return plane[::2, ::2]


def double(plane: np.ndarray) -> np.ndarray:
    return plane.repeat(2, 0).repeat(2, 1)


def measure_openness(near: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Fraction (N,) of the ambient light at the pixels ``hit`` (H, W): nearness (H, W) against its own blur."""
    depth = halve(np.where(hit, near, near[hit].min()))
    closed = np.zeros_like(depth)
    for radius, strength, limit in ((0.008, 3.0, 0.25), (0.03, 1.1, 0.4)):
        blurred = gaussian_filter(depth, radius * len(depth), mode="nearest", truncate=2.5)
        closed += np.clip(strength * (blurred - depth), 0, limit)
    return 1 - double(closed)[hit]


def scatter(diffuse: np.ndarray, skin: np.ndarray, hit: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Light (N, 3) on the pixels ``hit`` (H, W) after ``strength`` (N,) of it spread over those of ``skin`` (N,)."""
    plane = np.zeros(hit.shape, np.float32)
    plane[hit] = skin
    mask = halve(plane).copy()
    out = diffuse.copy()
    for c, radius in enumerate(SCATTERING):
        plane[hit] = diffuse[:, c] * skin
        light, weight = (gaussian_filter(layer, radius * len(mask), truncate=2.5) for layer in (halve(plane), mask))
        spread = double(light / np.maximum(weight, 1e-3))[hit]
        out[:, c] += (spread - diffuse[:, c]) * skin * strength
    return out


def glint(size: int) -> np.ndarray:
    """Brightness of what glasses reflect of a window: slanted stripes over the picture, (size, size)."""
    row, column = np.mgrid[0:size, 0:size].astype(np.float32) / size
    stripes = np.sin(34 * (row + 0.6 * column)) + 0.35 * np.sin(71 * (row + 0.6 * column))
    return np.clip(stripes - 0.35, 0, 1)


def to_linear(display: np.ndarray) -> np.ndarray:
    return np.power(np.maximum(display, 0), GAMMA)


def to_display(linear: np.ndarray) -> np.ndarray:
    """Display values in [0, 1]: a soft shoulder above SHOULDER, then the inverse of the gamma."""
    room = 1 - SHOULDER
    shoulder = room * -np.expm1(-np.maximum(linear - SHOULDER, 0) / room)
    return np.power(np.maximum(np.minimum(linear, SHOULDER) + shoulder, 0), 1 / GAMMA)


def shade_fine(surface: Surface, seen: Pixels, near: np.ndarray, lit: np.ndarray, light: Light, axis: np.ndarray,
               hair: np.ndarray) -> np.ndarray:
    """Display colours (N, 3) of the covered pixels.

    near: nearness (H, W), below -1e8 where nothing is. lit: fraction of the key light, (N,). axis: to the camera, (3,).
    hair: colour of the hair in [0, 1], (3,).
    """
    hit = near > -1e8
    skin = np.isin(surface.label, SKIN_CLASSES) & (seen.kind == SKIN)
    openness = measure_openness(near, hit)
    diffuse, shine = light_pixels(
        seen.normal, surface.slope, seen.point, seen.kind, surface.gloss, lit, openness, skin,
        to_linear(hair.astype(np.float32)), light.direction.astype(np.float32), axis.astype(np.float32),
        KEY * np.float32(light.key), AMBIENT * np.float32(light.ambient))
    kept = np.where(surface.label == Label.nose, SCATTERED / 2, SCATTERED).astype(np.float32)  # else the nose is lost
    diffuse = scatter(diffuse, skin, hit, kept)
    albedo = to_linear(surface.albedo)
    metal = ((seen.kind == EARRING) | (surface.gloss == MIRRORS))[:, None]
    return to_display(np.where(metal, albedo * (0.45 * diffuse + 4 * shine), albedo * diffuse + shine))
