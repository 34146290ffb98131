"""One training sample: appearance -> scene -> image, label map, caption and attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .caption import Caption
from .dress import add_earrings, add_glasses, add_hat, dress_vertices
from .fur import add_beard, add_brows, add_fine_hair
from .hair import CENTER, add_bun, add_hair, grow
from .head import Head, build_head
from .light import Light, background, sample_light, shade, shadow
from .appearance import HAIR_COLORS, sample_appearance, sample_same_person
from .mesh import BODY, L_EYE, LASHES, LOWER_TEETH, R_EYE, TONGUE, UPPER_TEETH, compute_vertex_normals
from .paint import Label, color, paint_surface
from .raster import interpolate, rasterize, vote
from .shading import draw_backdrop, glint, measure_soft_shadow, shade_fine
from .soup import (LASH, LEFT_EYE, LOWER_TOOTH, RIGHT_EYE, SKIN, TONGUE_FLESH, UPPER_TOOTH, Mesh,
                   Pixels, Soup)
from .strands import add_ribbons, grow_lashes, unit
from .surface import paint_fine_surface

SUPERSAMPLING = 2
SMALLEST_SHADOW = 128
FINE_SIZE = 256  # pixels: from here on strands, pores and lashes are wide enough to be drawn
PIVOT = np.array([0, 7.1, 0.5])
THIN_CLASS_WEIGHT = 1.5
THIN_CLASSES = [Label.l_brow, Label.r_brow, Label.eye_g, Label.ear_r, Label.neck_l]
PART_MATERIALS = {BODY: SKIN, L_EYE: LEFT_EYE, R_EYE: RIGHT_EYE, LASHES: LASH, UPPER_TEETH: UPPER_TOOTH,
                  LOWER_TEETH: LOWER_TOOTH, TONGUE: TONGUE_FLESH}


class Relief(NamedTuple):
    """The shape that the camera sees.

    depth: nearness in units of the head, larger is nearer, -inf where nothing is, float16 (S, S).
    normal: x right, y up, z to the camera, zero where nothing is, float16 (S, S, 3). The normal of a strand of hair is
        that of the hair's bulk.
    """

    depth: np.ndarray
    normal: np.ndarray


class Rendering(NamedTuple):
    """What the camera sees.

    image: uint8 (S, S, 3).
    label: class in CelebAMask-HQ order, uint8 (S, S).
    relief: depth and normals, if they were asked for.
    """

    image: np.ndarray
    label: np.ndarray
    relief: Relief | None


@dataclass
class Sample:
    """A rendering with the caption and the attributes that it was made from."""

    image: np.ndarray
    label: np.ndarray
    relief: Relief | None
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


def build_scene(head: Head, appearance: dict[str, str], view: np.ndarray, rng: np.random.Generator,
                fine: np.random.Generator | None = None) -> tuple[Mesh, Mesh | None]:
    """The opaque mesh with strands facing ``view`` (3,), and the mesh of the lenses, if any.

    With a generator ``fine``, the strands are fine and many, and there are no lash cards.
    """
    soup = Soup()
    lenses = Soup()
    bust = head.bust
    vertices = dress_vertices(head, appearance["clothes"])
    kinds = np.array([PART_MATERIALS[p] for p in range(7)], np.int8)[bust.parts]
    shown = bust.parts != LASHES if fine is not None else slice(None)
    normals = compute_vertex_normals(vertices, bust.triangles)
    soup.add(vertices, normals, bust.vertices, bust.triangles[shown], kinds[shown])
    add_hat(soup, head, appearance, rng)
    add_glasses(soup, lenses, head, appearance, rng)
    add_earrings(soup, head, appearance, rng)
    if appearance["hair_length"] != "bald":
        strands = grow(head, appearance, rng)
        if fine is None:
            add_hair(soup, strands, appearance, view, rng)
        else:
            rng.random((len(strands), 1))  # both kinds of hair leave the generator in the same state
            add_fine_hair(soup, strands, appearance, view, fine)
        if appearance["hair_style"] == "bun" and appearance["hat"] == "none":
            add_bun(soup, head, rng)
    if fine is not None:
        add_beard(soup, head, appearance, view, fine)
        add_brows(soup, head, appearance, view, fine)
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
        slant = 0.06 * (np.mgrid[0:size, 0:size].sum(0) / size)[seen, None]
        image[seen] = 0.08 * image[seen] + 0.05 + slant
    else:
        image[seen] = 0.9 * image[seen] + 0.07
    if size >= FINE_SIZE * SUPERSAMPLING:
        image[seen] += 0.09 * glint(size)[seen, None]
    if filled:
        label[seen] = Label.eye_g


def shrink(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour and weighted majority class over the supersamples."""
    k = SUPERSAMPLING
    size = image.shape[0] // k
    weights = np.ones(len(Label))
    weights[THIN_CLASSES] = THIN_CLASS_WEIGHT
    small = image.reshape(size, k, size, k, 3).mean((1, 3))
    return (np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8), fill_holes(vote(label, weights, k))


def fill_holes(label: np.ndarray) -> np.ndarray:
    """Label pixels as hair that are mostly surrounded by hair, and pixels of the neck as skin likewise."""
    out = label.copy()
    for name, holes in ((Label.hair, (Label.background, Label.skin, Label.neck, Label.cloth)),
                        (Label.skin, (Label.neck,))):
        padded = np.pad(label == name, 1, mode="edge")
        around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).sum((2, 3))
        out[(around >= 6) & np.isin(label, holes)] = name
    return out


class Shot(NamedTuple):
    """How the picture is taken: camera, light, the direction of the eyes, and whether glasses are filled."""

    camera: Camera
    light: Light
    gaze: np.ndarray
    filled: bool


def sample_shot(appearance: dict[str, str], rng: np.random.Generator) -> Shot:
    camera = sample_camera(appearance["hat"] != "none", rng)
    light = sample_light(camera.rotation, rng)
    gaze = np.array([rng.normal(0, 0.13), rng.normal(0, 0.06), 1.0])
    filled = rng.random() < 0.7 or appearance["glasses"] == "sunglasses"
    return Shot(camera, light, gaze / np.linalg.norm(gaze), filled)


def render(head: Head, appearance: dict[str, str], size: int, rng: np.random.Generator,
           relief: bool = False, look: np.random.Generator | None = None) -> Rendering:
    """One rendering of (size, size) pixels, with its ``relief`` on request.

    The scene is the same for every ``size``. Only the grain, which has a generator of its own, differs; and from
    FINE_SIZE on, each traced strand of hair stands for several. A generator ``look`` changes light, background and
    details, but not the shapes.
    """
    source = rng if look is None else look
    grain, = source.spawn(1)
    big = size * SUPERSAMPLING
    shot = sample_shot(appearance, rng)
    if look is not None:
        shot = shot._replace(light=sample_light(shot.camera.rotation, look))
    detail = source.spawn(1)[0] if size >= FINE_SIZE else None
    mesh, lenses = build_scene(head, appearance, shot.camera.rotation[2], rng, detail)
    image = background(big, appearance, source) if detail is None else draw_backdrop(big, appearance, source, detail)
    label = np.zeros((big, big), np.uint8)
    near, owner, weights = rasterize(shot.camera.screen(mesh.position, big), mesh.triangles, big, big)
    hit = owner >= 0
    seen = gather(head, mesh, owner[hit], weights[hit])
    draw = draw_plain if detail is None else draw_fine
    image[hit], label[hit] = draw(head, appearance, mesh, seen, near, shot, grain, size)
    shape = measure_relief(near, hit, seen, shot.camera.rotation) if relief else None
    if detail is not None:
        put_lashes(image, near, head, shot.camera, detail)
    if lenses is not None:
        put_lenses(image, label, near, lenses, shot.camera, appearance["glasses"] == "sunglasses", shot.filled)
    return Rendering(*shrink(image, label), shape)


def draw_plain(head: Head, appearance: dict[str, str], mesh: Mesh, seen: Pixels, near: np.ndarray, shot: Shot,
               grain: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours (N, 3) and classes (N,) of the covered pixels of a small image."""
    albedo, label = paint_surface(head, appearance, seen, shot.gaze, grain)
    lit = shadow(mesh, seen, shot.light.direction, max(SMALLEST_SHADOW, size))
    return shade(albedo, seen, shot.camera.rotation[2], lit, shot.light), label


def draw_fine(head: Head, appearance: dict[str, str], mesh: Mesh, seen: Pixels, near: np.ndarray, shot: Shot,
              grain: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours (N, 3) and classes (N,) of the covered pixels of a large image."""
    surface = paint_fine_surface(head, appearance, seen, shot.gaze, grain)
    lit = measure_soft_shadow(mesh, seen, shot.light.direction, size)
    hair = color(HAIR_COLORS, appearance["hair_color"]) if appearance["hair_color"] != "none" else np.zeros(3)
    return shade_fine(surface, seen, near, lit, shot.light, shot.camera.rotation[2], hair), surface.label


def measure_relief(near: np.ndarray, hit: np.ndarray, seen: Pixels, rotation: np.ndarray) -> Relief:
    """The relief of the pixels ``hit`` (2 S, 2 S) of the nearness ``near``."""
    bulk = unit(np.where(seen.is_strand[:, None], seen.point - CENTER, seen.normal)) @ rotation.T
    whole = np.zeros((*hit.shape, 3), np.float32)
    whole[hit] = np.where(bulk[:, 2:] < 0, -bulk, bulk)
    k = SUPERSAMPLING
    size = len(hit) // k
    depth = np.where(hit, near, -np.inf).reshape(size, k, size, k).max((1, 3))
    normal = unit(whole.reshape(size, k, size, k, 3).mean((1, 3)))
    return Relief(depth.astype(np.float16), normal.astype(np.float16))


def put_lashes(image: np.ndarray, near: np.ndarray, head: Head, camera: Camera, rng: np.random.Generator) -> None:
    """Draw the lashes over what lies behind; the label map keeps what lies behind."""
    size = image.shape[0]
    soup = Soup()
    strands = grow_lashes(head, rng)
    width = 0.0032 * rng.uniform(0.7, 1.2, len(strands))
    add_ribbons(soup, strands, width, np.zeros((len(strands), 2)), camera.rotation[2], LASH)
    lashes = soup.mesh()
    lash_near, owner, _ = rasterize(camera.screen(lashes.position, size), lashes.triangles, size, size)
    image[(owner >= 0) & (lash_near > near)] *= 0.3


def make_sample(seed: int, index: int, size: int, views: int = 1, relief: bool = False, look: int = 0) -> Sample:
    """Sample ``index`` of the set ``seed`` at ``size`` pixels. Every call returns the same bytes.

    Each ``views`` samples in a row show one person with other hair, clothes, pose and light. Each number ``look`` above
    0 shows the same scene in another light, with another background and other details.
    """
    rng = np.random.default_rng([seed, index])
    appearance = sample_appearance(rng)
    if later := index % views:
        appearance = sample_same_person(appearance, sample_appearance(np.random.default_rng([seed, index - later])))
    head = build_head(appearance, rng)
    other = np.random.default_rng([seed, index, look]) if look else None
    rendering = render(head, appearance, size, rng, relief, other)
    return Sample(*rendering, Caption()(appearance, rng), appearance)
