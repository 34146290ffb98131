"""One training sample: look -> scene -> picture, label map, caption and attributes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .caption import Caption
from .dress import add_earrings, add_glasses, add_hat, dressed_vertices
from .hair import add_hair
from .head import Head, build_head
from .look import COLORS, HAIR_COLORS, sample_look
from .mesh import BODY, L_EYE as L_EYE_PART, LASHES, LOWER_TEETH, R_EYE as R_EYE_PART, TONGUE, UPPER_TEETH
from .mesh import vertex_normals
from . import paint
from .raster import interpolate, rasterise
from .soup import (EARRING, FRAME, HAIR, HAT, LASH, LEFT_EYE, LOWER_TOOTH, RIGHT_EYE, SKIN, TONGUE_FLESH,
                   UPPER_TOOTH, Soup)

SUPERSAMPLING = 2
SHADOW_SIZE = 128
CLASSES = 19
PIVOT = np.array([0, 7.1, 0.5])
THIN_CLASS_WEIGHT = 1.5
THIN_CLASSES = (paint.L_BROW, paint.R_BROW, paint.EYE_G, paint.EAR_R, paint.NECK_L)
PART_MATERIALS = {BODY: SKIN, L_EYE_PART: LEFT_EYE, R_EYE_PART: RIGHT_EYE, LASHES: LASH,
                  UPPER_TEETH: UPPER_TOOTH, LOWER_TEETH: LOWER_TOOTH, TONGUE: TONGUE_FLESH}


@dataclass
class Sample:
    """``image`` uint8 (S, S, 3), ``label`` uint8 (S, S) in CelebAMask-HQ order, and the words."""

    image: np.ndarray
    label: np.ndarray
    caption: str
    attributes: dict[str, str]


@dataclass
class Camera:
    """Rotation about the head and a window ``width`` units wide around ``centre``."""

    rotation: np.ndarray
    centre: np.ndarray
    width: float

    def turn(self, vectors: np.ndarray) -> np.ndarray:
        return vectors @ self.rotation.T

    def screen(self, position: np.ndarray, size: int) -> np.ndarray:
        """Column, row and nearness (V, 3) on a ``size`` pixel square, with slight perspective."""
        seen = self.turn(position - PIVOT)
        near = seen[:, 2]
        seen = seen[:, :2] * (12 / (12 - near))[:, None] - self.centre
        column, row = (0.5 + seen[:, 0] / self.width) * size, (0.5 - seen[:, 1] / self.width) * size
        return np.column_stack([column, row, near]).astype(np.float32)


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Roll after pitch after yaw, radians, (3, 3)."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    around_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    around_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ around_x @ around_y


def sample_camera(rng: np.random.Generator) -> Camera:
    """CelebA-like crop and pose."""
    yaw = np.clip(rng.normal(0, 0.22), -0.6, 0.6)
    turn = rotation(yaw, rng.normal(0, 0.09), rng.normal(0, 0.06))
    centre = np.array([rng.normal(0, 0.05), rng.uniform(-0.28, 0.0)])
    return Camera(turn, centre, rng.uniform(2.6, 3.2))


def build_scene(head: Head, look: dict[str, str], camera: Camera,
                rng: np.random.Generator) -> tuple[Soup, Soup]:
    """The opaque soup and the lenses."""
    soup, lenses = Soup(), Soup()
    bust = head.bust
    vertices = dressed_vertices(head, look["clothes"])
    kinds = np.array([PART_MATERIALS[p] for p in range(7)], np.int8)[bust.parts]
    soup.add(vertices, vertex_normals(vertices, bust.triangles), bust.vertices, bust.triangles, kinds)
    add_hat(soup, head, look, rng)
    add_glasses(soup, lenses, head, look, rng)
    add_earrings(soup, head, look, rng)
    add_hair(soup, head, look, camera.rotation[2], rng)
    return soup, lenses


def shadow(position: np.ndarray, triangles: np.ndarray, points: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Share of light (N,) in [0, 1] that reaches ``points`` (N, 3) from direction ``light``."""
    right = np.cross([0, 1, 0], light)
    basis = np.stack([right / np.linalg.norm(right), np.cross(light, right), light])

    def project(v: np.ndarray) -> np.ndarray:
        seen = (v - PIVOT) @ basis.T
        seen[:, :2] = (seen[:, :2] / 3.6 + 0.5) * SHADOW_SIZE
        return seen.astype(np.float32)

    near, _, _ = rasterise(project(position), triangles, SHADOW_SIZE, SHADOW_SIZE)
    seen = project(points)
    lit = np.zeros(len(points), np.float32)
    for dx, dy in ((-0.8, -0.8), (0.8, -0.8), (-0.8, 0.8), (0.8, 0.8)):
        column = np.clip((seen[:, 0] + dx).astype(int), 0, SHADOW_SIZE - 1)
        row = np.clip((seen[:, 1] + dy).astype(int), 0, SHADOW_SIZE - 1)
        lit += near[row, column] < seen[:, 2] + 0.07
    return lit / 4


def background(size: int, look: dict[str, str], rng: np.random.Generator) -> np.ndarray:
    """Plain colour with a faint gradient, in a quarter of the pictures with soft blobs, (size, size, 3)."""
    tone = np.clip(paint.color(COLORS, look["background_color"]) + rng.normal(0, 0.02, 3), 0, 1)
    row, column = np.mgrid[0:size, 0:size] / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    shade = 1 + rng.uniform(0, 0.2) * (np.cos(angle) * row + np.sin(angle) * column)
    if rng.random() < 0.25:
        for _ in range(8):
            x, y = rng.uniform(-0.5, 0.5, 2)
            spot = np.exp(-((column - x) ** 2 + (row - y) ** 2) / rng.uniform(0.003, 0.03))
            shade = shade + rng.uniform(-0.18, 0.18) * spot
    return np.clip(tone * shade[:, :, None], 0, 1)


def paint_surface(head: Head, look: dict[str, str], facts: dict[str, np.ndarray],
                  rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Albedo (N, 3) and class (N,) of the covered pixels."""
    kind, extra = facts["kind"], facts["extra"]
    albedo = np.zeros((len(kind), 3))
    label = np.zeros(len(kind), np.uint8)
    skin = kind == SKIN
    albedo[skin], label[skin] = paint.paint_skin(extra[skin], facts["masks"][skin],
                                                 facts["template_up"][skin], look, head.oldness, rng)
    gaze = np.array([rng.normal(0, 0.13), rng.normal(0, 0.06), 1.0])
    gaze /= np.linalg.norm(gaze)
    for material, part, name in ((LEFT_EYE, L_EYE_PART, paint.L_EYE), (RIGHT_EYE, R_EYE_PART, paint.R_EYE)):
        centre = head.bust.vertices[head.bust.part_vertices(part)].mean(0)
        albedo[kind == material] = paint.paint_eye(extra[kind == material], centre, gaze, look["eye_color"])
        label[kind == material] = name
    lash = kind == LASH
    albedo[lash] = 0.06
    label[lash] = np.where(extra[lash, 0] > 0, paint.L_EYE, paint.R_EYE)
    for material, tone in ((UPPER_TOOTH, (0.93, 0.91, 0.85)), (LOWER_TOOTH, (0.85, 0.82, 0.76)),
                           (TONGUE_FLESH, (0.7, 0.3, 0.3))):
        albedo[kind == material], label[kind == material] = tone, paint.MOUTH
    plain = ((HAT, "hat_color", paint.HAT_CLASS), (FRAME, "glasses_color", paint.EYE_G))
    for material, key, name in plain:
        if look[key] != "none":
            albedo[kind == material], label[kind == material] = paint.color(COLORS, look[key]), name
    albedo[kind == EARRING], label[kind == EARRING] = paint.GOLD, paint.EAR_R
    hair = kind == HAIR
    if hair.any():
        along, strand, clump = extra[hair].T
        shade = (0.72 + 0.28 * strand) * (0.8 + 0.35 * clump) * (0.75 + 0.3 * along)
        albedo[hair] = paint.color(HAIR_COLORS, look["hair_color"]) * shade[:, None] * 1.05
        label[hair] = paint.HAIR_CLASS
    return albedo, label


def light_surface(albedo: np.ndarray, facts: dict[str, np.ndarray], camera: Camera, lit: np.ndarray,
                  light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ambient, wrapped key light with a red shift for skin, strand highlights, (N, 3)."""
    normal, kind = facts["normal"], facts["kind"]
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    hair = kind == HAIR
    facing = camera.turn(normal)[:, 2:3]
    normal = np.where((facing < 0) & ~hair[:, None], -normal, normal)
    cosine = normal @ light
    wrapped = np.clip((cosine + 0.3) / 1.3, 0, 1)
    wrapped[hair] = np.sqrt(np.clip(1 - cosine[hair] ** 2, 0, 1)) * 0.8
    key = (wrapped * (0.25 + 0.75 * lit))[:, None]
    warm = np.where((kind == SKIN)[:, None], np.array([1.0, 0.93, 0.9]), 1.0)
    ambient = rng.uniform(0.42, 0.52) * (0.85 + 0.15 * normal[:, 1:2]) * (0.8 + 0.2 * np.abs(facing))
    ambient = np.where(hair[:, None], 0.5, ambient)
    color = albedo * (ambient + rng.uniform(0.58, 0.68) * key * warm)
    half = light + camera.rotation[2]
    half /= np.linalg.norm(half)
    along = normal @ half
    shine = np.where(hair, np.clip(1 - along ** 2, 0, 1) ** 20 * 0.15, np.clip(along, 0, 1) ** 24 * 0.1)
    glossy = np.isin(kind, (LEFT_EYE, RIGHT_EYE, EARRING, FRAME))
    shine = np.where(glossy, np.clip(along, 0, 1) ** 60 * 0.6, shine)
    return color + (shine * lit)[:, None]


def put_lenses(image: np.ndarray, label: np.ndarray, near: np.ndarray, lenses: Soup, camera: Camera,
               look: dict[str, str], rng: np.random.Generator) -> None:
    """Tint the pixels behind the lenses; label them unless only the frame counts."""
    filled = look["glasses"] == "sunglasses" or rng.random() < 0.7
    if look["glasses"] == "none":
        return
    position, _, _, triangles, _ = lenses.arrays()
    size = image.shape[0]
    lens_near, owner, _ = rasterise(camera.screen(position, size), triangles, size, size)
    seen = (owner >= 0) & (lens_near > near)
    if look["glasses"] == "sunglasses":
        glint = 0.1 * (np.mgrid[0:size, 0:size].sum(0) / size)[seen, None]
        image[seen] = 0.08 * image[seen] + 0.05 + glint * 0.6
    else:
        image[seen] = 0.9 * image[seen] + 0.07
    if filled:
        label[seen] = paint.EYE_G


def shrink(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour and weighted majority class over the supersamples."""
    k, size = SUPERSAMPLING, image.shape[0] // SUPERSAMPLING
    blocks = label.reshape(size, k, size, k).transpose(0, 2, 1, 3).reshape(size, size, k * k)
    weights = np.ones(CLASSES)
    weights[list(THIN_CLASSES)] = THIN_CLASS_WEIGHT
    votes = (blocks[..., None] == np.arange(CLASSES)).sum(2) * weights  # (S, S, CLASSES)
    small = image.reshape(size, k, size, k, 3).mean((1, 3))
    return (np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8), fill_holes(votes.argmax(-1).astype(np.uint8))


def fill_holes(label: np.ndarray) -> np.ndarray:
    """Give lone pixels whose neighbours mostly are hair to the hair, and lone hair to its surroundings."""
    hair = np.pad(label == paint.HAIR_CLASS, 1, mode="edge")
    around = sum(hair[1 + dy:hair.shape[0] - 1 + dy, 1 + dx:hair.shape[1] - 1 + dx].astype(int)
                 for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx)
    out = label.copy()
    out[(around >= 6) & np.isin(label, (paint.BACKGROUND, paint.SKIN_CLASS, paint.NECK, paint.CLOTH))] \
        = paint.HAIR_CLASS
    return out


def render(head: Head, look: dict[str, str], size: int,
           rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Picture uint8 (size, size, 3) and label map uint8 (size, size)."""
    camera = sample_camera(rng)
    soup, lenses = build_scene(head, look, camera, rng)
    position, normal, extra, triangles, materials = soup.arrays()
    big = size * SUPERSAMPLING
    near, owner, weights = rasterise(camera.screen(position, big), triangles, big, big)
    hit = owner >= 0
    who, how = owner[hit], weights[hit]
    bust = head.bust
    pad = ((0, len(position) - len(bust.vertices)), (0, 0))
    up = vertex_normals(bust.vertices, bust.triangles)[:, 1:2]
    masks = np.stack([bust.masks[m] for m in ("lips", "ears", "eyelids", "inside-mouth")], 1)
    everything = np.concatenate([position, normal, extra, np.pad(np.hstack([masks, up]), pad)], 1)
    values = interpolate(everything.astype(np.float32), triangles, who, how)
    facts = dict(point=values[:, :3], normal=values[:, 3:6], extra=values[:, 6:9], masks=values[:, 9:13],
                 template_up=values[:, 13], kind=materials[who])
    albedo, classes = paint_surface(head, look, facts, rng)
    light = np.array([rng.normal(0, 0.5), rng.uniform(0.2, 0.8), 1.0]) @ camera.rotation
    light /= np.linalg.norm(light)
    lit = shadow(position, triangles, facts["point"], light)
    image = background(big, look, rng)
    label = np.zeros((big, big), np.uint8)
    image[hit] = light_surface(albedo, facts, camera, lit, light, rng)
    label[hit] = classes
    put_lenses(image, label, near, lenses, camera, look, rng)
    return shrink(image, label)


def make_sample(seed: int, index: int, size: int) -> Sample:
    """Sample ``index`` of the set ``seed`` at ``size`` pixels; the same bytes on every call."""
    rng = np.random.default_rng([seed, index])
    look = sample_look(rng)
    head = build_head(look, rng)
    image, label = render(head, look, size, rng)
    return Sample(image, label, Caption()(look, rng), look)
