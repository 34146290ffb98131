"""Draw the template faces of the label-map painter: label maps of MakeHuman heads, seen from the front.

    python dev.py run -- python -m devtools.templates [FOLDER]

Each is an indexed PNG in CelebAMask-HQ colours and order. The same command writes the same bytes.
"""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from mdit.labelmap import PALETTE
from mdit.render.head import Head, build_head
from mdit.render.appearance import sample_appearance
from mdit.render.paint import Label, paint_surface
from mdit.render.raster import rasterize
from mdit.render.scene import Camera, build_scene, gather, make_rotation_matrix
from mdit.render.soup import LENS, Mesh

FOLDER = Path(__file__).parents[1] / "web" / "painter" / "templates"
SIZE = 512
SMOOTHING = np.full(len(PALETTE), 2.0)  # pixels, for each class
SMOOTHING[[Label.background, Label.hair]] = 7  # strands of hair have an outline that nobody would paint
AHEAD = np.array([0, 0, 1.0])
PLAIN = dict(
    sex="woman", age="young", chubby="no", expression="neutral", brows="normal", facial_hair="none", lipstick="none",
    hair_length="long", hair_style="loose", hair_texture="straight", hair_color="brown", bangs="no", receding="no",
    clothes="shirt", glasses="none", glasses_color="black", hat="none", hat_color="black", earrings="no",
    necklace="no",
)
# Name, seed of the head's shape, changes to PLAIN.
FACES = (
    ("long-hair", 3, {}),
    ("short-hair", 5, dict(sex="man", hair_length="short")),
    ("curly", 8, dict(hair_length="medium", hair_style="afro", hair_texture="curly", clothes="top")),
    ("round", 11, dict(chubby="yes", hair_length="medium", hair_texture="wavy", expression="smiling")),
    ("bald", 14, dict(sex="man", age="middle-aged", hair_length="bald", brows="bushy", clothes="suit")),
    ("glasses", 17, dict(sex="man", age="old", hair_length="short", receding="yes", glasses="glasses")),
    ("hat", 20, dict(hat="hat", hair_length="medium", earrings="yes", necklace="yes", clothes="top")),
)


def label_map(seed: int, changes: dict[str, str]) -> np.ndarray:
    """Classes (SIZE, SIZE) uint8 of one head."""
    rng = np.random.default_rng(seed)
    appearance = sample_appearance(rng) | PLAIN | changes
    head = build_head(appearance, rng)
    mesh, _ = build_scene(head, appearance, AHEAD, rng)
    tall = appearance["hat"] != "none"
    camera = Camera(make_rotation_matrix(0, 0, 0), np.array([0, 0.05 + 0.2 * tall]), 3.3 + 0.3 * tall)
    return smooth(draw_classes(head, appearance, mesh, camera))


def draw_classes(head: Head, appearance: dict[str, str], mesh: Mesh, camera: Camera, *, size: int = SIZE) -> np.ndarray:
    """Classes (size, size) uint8 of what the camera sees."""
    _, owner, weights = rasterize(camera.screen(mesh.position, size), mesh.triangles, size, size)
    hit = owner >= 0
    surface = gather(head, mesh, owner[hit], weights[hit])
    labels = np.zeros((size, size), np.uint8)
    labels[hit] = paint_surface(head, appearance, surface, AHEAD, np.random.default_rng(0))[1]
    labels[hit] = np.where(surface.kind == LENS, Label.eye_g, labels[hit])
    return labels


def smooth(labels: np.ndarray) -> np.ndarray:
    """Each pixel takes the class of most of its neighbours."""
    scale = len(labels) / SIZE
    fractions = [gaussian_filter((labels == k).astype(np.float32), sigma * scale) for k, sigma in enumerate(SMOOTHING)]
    return np.argmax(fractions, axis=0).astype(np.uint8)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed, changes in FACES:
        image = Image.fromarray(label_map(seed, changes))
        image.putpalette(np.array(PALETTE, np.uint8).tobytes())
        image.save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
