"""Draw the painter's gallery: parts of faces, as the renderer sees them on one head from the front.

    python dev.py run -- python -m devtools.gallery [FILE]

The file holds label maps as the painter's text, each cut to its part, with its place on a square of SIZE pixels; the
head below all parts; and the row of the line below a hat on that square. The same command writes the same bytes.
"""
from __future__ import annotations

import fnmatch
import json
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, label

from devtools.gallery_parts import FACE_PARTS, PARTS, STRIPS
from devtools.templates import AHEAD, PLAIN, draw_classes, smooth
from mdit.labelmap import encode_drawing
from mdit.render.appearance import sample_appearance
from mdit.render.dress import HAT_AXIS_Z, add_band, add_crown, add_pompom, make_hat_rim, mount_glasses, trace_lens
from mdit.render.fur import add_beard
from mdit.render.head import ANCESTRIES, Head, deform_bust, macro_weights
from mdit.render.mesh import load_bust
from mdit.render.paint import LIP_LINE, Label
from mdit.render.scene import Camera, build_scene, make_rotation_matrix
from mdit.render.soup import HAT, Mesh, Soup

FILE = Path(__file__).parents[1] / "web" / "painter" / "gallery.json"
SEED = 1
SIZE = 448  # pixels
CAMERA = Camera(make_rotation_matrix(0, 0, 0), np.array([0, 0.38]), 4.2)
OLDNESS = 0.1
SPECK = 40  # pixels
BEARD_SMOOTHING = 4  # pixels
HAT_LINE = np.array([[0, 7.66, HAT_AXIS_Z]])
BARE = sample_appearance(np.random.default_rng(SEED)) | PLAIN | dict(hair_length="bald")
WORN = dict(hat="hat", glasses="glasses")  # what is worn is seen as this
FEATURES = [Label[name] for name in ("nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")]
SHOWN = {
    "heads": ("skin", "l_ear", "r_ear"), "noses": ("nose",), "eyes": ("l_eye", "r_eye"), "brows": ("l_brow", "r_brow"),
    "mouths": ("mouth", "u_lip", "l_lip"), "ears": ("l_ear", "r_ear"), "hair": ("hair",), "glasses": ("eye_g",),
    "hats": ("hat",), "beards": ("hat",),
}  # the classes of each group; a beard is drawn as if it were a hat, and kept as skin


# Scenes


def make_head(targets: dict[str, float]) -> Head:
    """The gallery's head with weights of targets, by patterns of their names."""
    bust = load_bust()
    weights = macro_weights(BARE, OLDNESS, np.full(3, 1 / 3), np.random.default_rng(SEED))
    for pattern, weight in targets.items():
        share = 1 / len(ANCESTRIES) if pattern.startswith("*an/") else 1
        names = fnmatch.filter(bust.targets, pattern)
        assert names, f"no target is named {pattern}"
        weights |= dict.fromkeys(names, share * weight)
    return deform_bust(bust, weights, OLDNESS)


def draw(head: Head, appearance: dict[str, str] = BARE, worn: Soup | None = None) -> np.ndarray:
    """Classes (SIZE, SIZE) of a head, with what it wears."""
    mesh, _ = build_scene(head, appearance, AHEAD, np.random.default_rng(SEED))
    if worn is not None:
        mesh = join(mesh, worn.mesh())
    return smooth(draw_classes(head, appearance | WORN, mesh, CAMERA, size=SIZE))


def join(*meshes: Mesh) -> Mesh:
    soup = Soup()
    for mesh in meshes:
        soup.add(mesh.position, mesh.normal, mesh.extra, mesh.triangles, mesh.materials)
    return soup.mesh()


def put_on_hat(head: Head, puff: float | None, rise: float | None, pompom: float, strips: tuple[str, ...]) -> Soup:
    soup = Soup()
    angle = np.linspace(-np.pi, np.pi, 49)
    reach = np.linspace(0, 1, 6)
    rim, away = make_hat_rim(head, angle)
    top = add_crown(soup, head, puff, rise) if puff is not None else None
    if pompom:
        add_pompom(soup, top, pompom)
    for name in strips:
        out, rise, low = STRIPS[name]
        toward = np.array([0, 0, 1]) * np.cos(angle * np.pi / 2.3)[:, None] + 0.15 * away if name == "peak" else away
        ahead = np.abs(angle) < (1.15 if name == "peak" else 4)
        add_band(soup, rim[ahead], angle[ahead], toward[ahead], out * np.sqrt(reach), low + rise * reach, 1)
    return soup


def put_on_glasses(head: Head, width: float, height: float, power: float, thick: float, dark: bool) -> Soup:
    soup = Soup()
    mount_glasses(soup, soup if dark else Soup(), head, trace_lens(width, height, power), thick)
    return soup


def grow_beard(head: Head, kind: str, stretch: float) -> Soup:
    """Facial hair as a thing that is worn; ``stretch`` makes it longer from the lips down."""
    soup = Soup()
    add_beard(soup, head, BARE | dict(facial_hair=kind), AHEAD, np.random.default_rng(SEED))
    strands = soup.mesh()
    below = np.maximum(0, LIP_LINE - strands.position[:, 1:2])
    position = strands.position - (stretch - 1) * below * [0, 1, 0]
    worn = Soup()
    worn.add(position, strands.normal, strands.extra, strands.triangles, HAT)
    return worn


PUT_ON = {"glasses": put_on_glasses, "hats": put_on_hat, "beards": grow_beard}


# Parts


def draw_part(group: str, name: str) -> np.ndarray:
    """The classes of one part, background elsewhere, (SIZE, SIZE)."""
    recipe = PARTS[group][name]
    if group in FACE_PARTS:
        labels = draw(make_head(recipe), BARE | dict(brows="bushy" if name == "bushy" else "normal"))
    elif group == "hair":
        labels = draw(make_head({}), BARE | recipe)
    else:
        head = make_head({})
        labels = draw(head, BARE, PUT_ON[group](head, *recipe))
    if group == "heads":
        labels[np.isin(labels, FEATURES)] = Label.skin
    shown = np.isin(labels, [Label[name] for name in SHOWN[group]])
    if group == "beards":
        labels[:] = Label.skin
        shown = gaussian_filter(shown.astype(np.float32), BEARD_SMOOTHING) > 0.5
    return np.where(drop_specks(shown), labels, Label.background).astype(np.uint8)


def drop_specks(shown: np.ndarray) -> np.ndarray:
    """The pixels (SIZE, SIZE) without connected ones that are fewer than SPECK."""
    pieces, _ = label(shown)
    return shown & (np.bincount(pieces.ravel()) >= SPECK)[pieces]


def describe(part: np.ndarray) -> list[int | str]:
    """What the file holds of a part: left, top, label map."""
    top, left = (int(part.any(axis).argmax()) for axis in (1, 0))
    bottom, right = (len(part) - int(part.any(axis)[::-1].argmax()) for axis in (1, 0))
    return [left, top, encode_drawing(torch.from_numpy(part[top:bottom, left:right].copy()))]


def main(file: Path) -> None:
    parts = {group: {name: describe(draw_part(group, name)) for name in names} for group, names in PARTS.items()}
    below = encode_drawing(torch.from_numpy(draw(make_head({}))))
    hat_line = round(float(CAMERA.screen(HAT_LINE, SIZE)[0, 1]), 1)
    file.write_text(json.dumps({"size": SIZE, "hatLine": hat_line, "head": below, "parts": parts}, indent=0) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)
