"""One training sample: appearance -> scene -> image, label map, caption and attributes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .caption import Caption
from .dress import add_earrings, add_glasses, add_hat, dress_vertices
from .hair import add_hair
from .head import Head, build_head
from .light import background, sample_light, shade, shadow
from .appearance import sample_appearance, sample_same_person
from .mesh import BODY, L_EYE, LASHES, LOWER_TEETH, R_EYE, TONGUE, UPPER_TEETH, compute_vertex_normals
from .paint import Label, paint_surface
from .raster import interpolate, rasterize
from .soup import (LASH, LEFT_EYE, LOWER_TOOTH, RIGHT_EYE, SKIN, TONGUE_FLESH, UPPER_TOOTH, Mesh, Pixels,
                   Soup)

SUPERSAMPLING = 2
SMALLEST_SHADOW = 128
PIVOT = np.array([0, 7.1, 0.5])
THIN_CLASS_WEIGHT = 1.5
THIN_CLASSES = [Label.l_brow, Label.r_brow, Label.eye_g, Label.ear_r, Label.neck_l]
PART_MATERIALS = {BODY: SKIN, L_EYE: LEFT_EYE, R_EYE: RIGHT_EYE, LASHES: LASH, UPPER_TEETH: UPPER_TOOTH,
                  LOWER_TEETH: LOWER_TOOTH, TONGUE: TONGUE_FLESH}


@dataclass
class Sample:
    """``image`` uint8 (S, S, 3), ``label`` uint8 (S, S) in CelebAMask-HQ order, caption and attributes."""

    image: np.ndarray
    label: np.ndarray
    caption: str
    attributes: dict[str, str]


@dataclass
class Camera:
    """Rotation about the head and a window ``width`` units wide around ``center``."""

    rotation: np.ndarray
    center: np.ndarray
    width: float

    def screen(self, position: np.ndarray, size: int) -> np.ndarray:
        """Column, row and nearness (V, 3) on a ``size`` pixel square, with slight perspective."""
        seen = (position - PIVOT) @ self.rotation.T
        near = seen[:, 2]
        seen = seen[:, :2] * (12 / (12 - near))[:, None] - self.center
        column = (0.5 + seen[:, 0] / self.width) * size
        row = (0.5 - seen[:, 1] / self.width) * size
        return np.column_stack([column, row, near]).astype(np.float32)


def make_rotation_matrix(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Roll after pitch after yaw, radians, (3, 3)."""
    cy, cp, cr = np.cos([yaw, pitch, roll])
    sy, sp, sr = np.sin([yaw, pitch, roll])
    around_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    around_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ around_x @ around_y


def sample_camera(hat: bool, rng: np.random.Generator) -> Camera:
    """CelebA-like crop and pose, with room above for a hat."""
    yaw = np.clip(rng.normal(0, 0.22), -0.6, 0.6)
    turn = make_rotation_matrix(yaw, rng.normal(0, 0.09), rng.normal(0, 0.06))
    center = np.array([rng.normal(0, 0.05), rng.uniform(-0.3, -0.04) + 0.12 * hat])
    return Camera(turn, center, rng.uniform(2.7, 3.3) + 0.24 * hat)


def build_scene(head: Head, appearance: dict[str, str], view: np.ndarray,
                rng: np.random.Generator) -> tuple[Mesh, Mesh | None]:
    """The opaque mesh with strands facing ``view`` (3,), and the mesh of the lenses, if any."""
    soup = Soup()
    lenses = Soup()
    bust = head.bust
    vertices = dress_vertices(head, appearance["clothes"])
    kinds = np.array([PART_MATERIALS[p] for p in range(7)], np.int8)[bust.parts]
    soup.add(vertices, compute_vertex_normals(vertices, bust.triangles), bust.vertices, bust.triangles, kinds)
    add_hat(soup, head, appearance, rng)
    add_glasses(soup, lenses, head, appearance, rng)
    add_earrings(soup, head, appearance, rng)
    add_hair(soup, head, appearance, view, rng)
    return soup.mesh(), lenses.mesh() if appearance["glasses"] != "none" else None


def gather(head: Head, mesh: Mesh, owner: np.ndarray, weights: np.ndarray) -> Pixels:
    """The surface seen at N pixels: triangles ``owner`` (N,) at the corner ``weights`` (N, 2)."""
    bust = head.bust
    up = compute_vertex_normals(bust.vertices, bust.triangles)[:, 1:2]
    masks = np.stack([bust.masks[name] for name in ("lips", "ears", "eyelids", "inside-mouth")], 1)
    others = np.zeros((len(mesh.position) - len(up), 5), np.float32)
    values = np.hstack([mesh.position, mesh.normal, mesh.extra, np.vstack([np.hstack([masks, up]), others])])
    at = interpolate(values.astype(np.float32), mesh.triangles, owner, weights)  # (N, 14)
    return Pixels(at[:, :3], at[:, 3:6], at[:, 6:9], at[:, 9:13], at[:, 13], mesh.materials[owner])


def put_lenses(image: np.ndarray, label: np.ndarray, near: np.ndarray, lenses: Mesh, camera: Camera,
               dark: bool, filled: bool) -> None:
    """Tint the pixels behind the lenses. Label them if glasses are ``filled``."""
    size = image.shape[0]
    lens_near, owner, _ = rasterize(camera.screen(lenses.position, size), lenses.triangles, size, size)
    seen = (owner >= 0) & (lens_near > near)
    if dark:
        glint = 0.06 * (np.mgrid[0:size, 0:size].sum(0) / size)[seen, None]
        image[seen] = 0.08 * image[seen] + 0.05 + glint
    else:
        image[seen] = 0.9 * image[seen] + 0.07
    if filled:
        label[seen] = Label.eye_g


def shrink(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour and weighted majority class over the supersamples."""
    k = SUPERSAMPLING
    size = image.shape[0] // k
    blocks = label.reshape(size, k, size, k).transpose(0, 2, 1, 3).reshape(size, size, k * k)
    weights = np.ones(len(Label))
    weights[THIN_CLASSES] = THIN_CLASS_WEIGHT
    votes = (blocks[..., None] == np.arange(len(Label))).sum(2) * weights  # (S, S, 19)
    small = image.reshape(size, k, size, k, 3).mean((1, 3))
    return (np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8), fill_holes(votes.argmax(-1).astype(np.uint8))


def fill_holes(label: np.ndarray) -> np.ndarray:
    """Label pixels as hair that are mostly surrounded by hair, and pixels of the neck as skin likewise."""
    out = label.copy()
    for name, holes in ((Label.hair, (Label.background, Label.skin, Label.neck, Label.cloth)),
                        (Label.skin, (Label.neck,))):
        padded = np.pad(label == name, 1, mode="edge")
        around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).sum((2, 3))
        out[(around >= 6) & np.isin(label, holes)] = name
    return out


def render(head: Head, appearance: dict[str, str], size: int,
           rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (size, size, 3) and label map uint8 (size, size).

    The scene is the same for every ``size``. Only the grain, which has a generator of its own, differs.
    """
    grain, = rng.spawn(1)
    big = size * SUPERSAMPLING
    camera = sample_camera(appearance["hat"] != "none", rng)
    light = sample_light(camera.rotation, rng)
    gaze = np.array([rng.normal(0, 0.13), rng.normal(0, 0.06), 1.0])
    dark = appearance["glasses"] == "sunglasses"
    filled = rng.random() < 0.7 or dark
    mesh, lenses = build_scene(head, appearance, camera.rotation[2], rng)
    image = background(big, appearance, rng)
    label = np.zeros((big, big), np.uint8)
    near, owner, weights = rasterize(camera.screen(mesh.position, big), mesh.triangles, big, big)
    hit = owner >= 0
    seen = gather(head, mesh, owner[hit], weights[hit])
    albedo, label[hit] = paint_surface(head, appearance, seen, gaze / np.linalg.norm(gaze), grain)
    lit = shadow(mesh, seen, light.direction, max(SMALLEST_SHADOW, size))
    image[hit] = shade(albedo, seen, camera.rotation[2], lit, light)
    if lenses is not None:
        put_lenses(image, label, near, lenses, camera, dark, filled)
    return shrink(image, label)


def make_sample(seed: int, index: int, size: int, views: int = 1) -> Sample:
    """Sample ``index`` of the set ``seed`` at ``size`` pixels. Every call returns the same bytes.

    Each ``views`` samples in a row show one person with other hair, clothes, pose and light.
    """
    rng = np.random.default_rng([seed, index])
    appearance = sample_appearance(rng)
    if later := index % views:
        appearance = sample_same_person(appearance, sample_appearance(np.random.default_rng([seed, index - later])))
    head = build_head(appearance, rng)
    image, label = render(head, appearance, size, rng)
    return Sample(image, label, Caption()(appearance, rng), appearance)
