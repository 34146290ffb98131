"""Finding out how a data set is laid out, and its samples."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from torch.utils.data import Dataset

from ..labelmap import CLASSES, find_class
from .faces import FaceDataset, FileFace, MaskFace, PartFace, RenderedFace
from .pictures import Size
from .survey import refuse, survey

PICTURES = (".jpg", ".jpeg", ".png")
CELEBA_PICTURES, CELEBA_PARTS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno"
LAYOUTS = (f"face/NAME.jpg, mask/NAME.png and text/NAME.txt; {CELEBA_PICTURES}/NUMBER.jpg and "
           f"{CELEBA_PARTS}/*/NUMBER_PART.png; shards *.tar of webdataset; or shards *.npz of "
           "python -m mdit.render")


def open_dataset(source: Path | str, size: int | None = None, classes: Sequence[str] | None = None) -> Dataset:
    """Opens a folder of faces with label maps, in whatever layout it is, and checks every sample.

    source: a folder with
        * face/NAME.jpg|png, mask/NAME.png and text/NAME.txt with one caption a line (MM-CelebA-HQ), or
        * CelebA-HQ-img/NUMBER.jpg, CelebAMask-HQ-mask-anno/*/NNNNN_part.png and text/NUMBER.txt, or
        * *.tar: webdataset shards with NAME.jpg|png, NAME.mask.png and NAME.txt, or
        * *.npz: the renderer's shards, which are held in memory.
      Captions may be left out with the whole folder text/, in tars sample by sample.
    size: side of the square that pictures are resized and cut to; their own sizes without.
    classes: names of the classes in the order of the label maps' values; else the lines of classes.txt in the
        folder, else CelebAMask-HQ's order.
    Returns a `FaceDataset`, for tars an iterable `TarDataset`. Samples are dict(image (3, H, W) uint8, labels
    (H, W) uint8 in CelebAMask-HQ order, captions list[str], name).
    Raises FileNotFoundError for a folder without such files and ValueError with the first ten samples that miss
    a file, cannot be read, differ in aspect from their label map, or have labels of no class.
    """
    source = Path(source)
    if size is not None and size < 1:
        raise ValueError(f"size {size}: pictures are at least 1 pixel wide")
    order = read_order(source, classes)
    if (source / "face").is_dir() and (source / "mask").is_dir():
        return _open_files(source, mask_faces(source, order), size)
    if (source / CELEBA_PICTURES).is_dir() and (source / CELEBA_PARTS).is_dir():
        return _open_files(source, part_faces(source), size)
    if any(source.glob("*.tar")):
        from .tars import open_tars  # webdataset is needed for no other layout
        return open_tars(source, size, order)
    if any(_shards(source)):
        return open_renders(source, size)
    raise FileNotFoundError(f"{source}: no data set here. There must be {LAYOUTS}.")


def open_faces(source: Path, size: int | None = None) -> FaceDataset:
    """`open_dataset`, for what reads samples in any order. Raises ValueError for tar shards as well."""
    faces = open_dataset(source, size)
    if not isinstance(faces, FaceDataset):
        raise ValueError(f"data: {source} holds tar shards, which cannot be read in any order: name the folder that "
                         "they were packed from")
    return faces


def read_order(source: Path, classes: Sequence[str] | None) -> tuple[int, ...]:
    """Class ids by label value."""
    listed = source / "classes.txt"
    if classes is None and not listed.is_file():
        return tuple(range(len(CLASSES)))
    names = listed.read_text().split("\n") if classes is None else classes
    return tuple(find_class(name, str(listed) if classes is None else "classes") for name in names if name.strip())


def _open_files(source: Path, faces: list[FileFace], size: int | None) -> FaceDataset:
    return _dataset(source, faces, survey(source, faces, lambda face: face.check()), size)


def _dataset(source: Path, faces: Sequence, sizes: Sequence[Size], size: int | None) -> FaceDataset:
    if not faces:
        raise FileNotFoundError(f"{source}: the folders are there, but no picture is in them")
    return FaceDataset(faces, [(size, size)] * len(faces) if size else sizes)


def mask_faces(source: Path, order: tuple[int, ...]) -> list[MaskFace]:
    """The samples of the MM-CelebA-HQ layout, also those that have lost a file."""
    pictures, masks = _by_name(source / "face"), _by_name(source / "mask")
    return [MaskFace(name, pictures.get(name, source / "face" / f"{name}.jpg"), _text(source, name),
                     masks.get(name, source / "mask" / f"{name}.png"), order)
            for name in _in_order(pictures.keys() | masks.keys())]


def part_faces(source: Path) -> list[PartFace]:
    """The samples of CelebAMask-HQ's own layout."""
    parts = defaultdict(list)
    for file in (source / CELEBA_PARTS).glob("*/*_*.png"):
        number, part = file.stem.split("_", 1)
        parts[number].append((find_class(part, str(file)), file))
    pictures = _by_name(source / CELEBA_PICTURES)
    return [PartFace(name, pictures[name], _text(source, name), tuple(parts[name.zfill(5)]))
            for name in _in_order(pictures)]


def _by_name(folder: Path) -> dict[str, Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)
    named = {file.stem: file for file in files}
    refuse(folder, [f"{file} and {named[file.stem]} have one name" for file in files if named[file.stem] != file],
           len(files))
    return named


def _in_order(names: Iterable[str]) -> list[str]:
    """Shorter names first: numbers come in the order of the published splits, with or without leading zeros."""
    return sorted(names, key=lambda name: (len(name), name))


def _text(source: Path, name: str) -> Path | None:
    return source / "text" / f"{name}.txt" if (source / "text").is_dir() else None


def _shards(source: Path) -> list[Path]:
    return sorted(file for file in source.glob("*.npz") if not file.name.endswith(".part.npz"))


def open_renders(source: Path, size: int | None) -> FaceDataset:
    """The renderer's shards."""
    files = _shards(source)
    shards = survey(source, files, read_render_shard, "shard")
    faces = [RenderedFace(f"{file.stem}-{row:04d}", shard, row)
             for file, shard in zip(files, shards) for row in range(len(shard["label"]))]
    return _dataset(source, faces, [face.shard["label"].shape[1:] for face in faces], size)


def read_render_shard(file: Path) -> dict[str, np.ndarray]:
    """Image (N, H, W, 3) and label (N, H, W) uint8, caption (N,). Raises ValueError, naming the file."""
    try:
        with np.load(file, allow_pickle=False) as shard:
            arrays = {key: shard[key] for key in ("image", "label", "caption")}
    except (KeyError, OSError, EOFError, ValueError, BadZipFile) as error:
        raise ValueError(f"{file} cannot be read ({error})") from error
    image, label, caption = arrays.values()
    bytes_only = image.dtype == label.dtype == np.uint8
    if not bytes_only or image.shape != (*label.shape, 3) or caption.shape != label.shape[:1]:
        raise ValueError(f"{file}: images {image.shape} {image.dtype}, labels {label.shape} {label.dtype} and captions "
                         f"{caption.shape} do not fit together")
    if (top := label.max(initial=0)) >= len(CLASSES):
        raise ValueError(f"{file}: label values up to {top}, there are classes for 0 to {len(CLASSES) - 1}")
    return arrays
