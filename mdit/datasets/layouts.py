"""Detects the layout of a data set's folder and opens it."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

from ..labelmap import CLASSES, find_class
from ..shared.text_files import read_text
from .decoding import IMAGE_SUFFIXES, Size
from .faces import FaceDataset, FileFace, MaskFace, PartFace, RenderedFace
from .renders import list_shards, read_shard
from .survey import raise_faults, survey

CELEBA_IMAGES = "CelebA-HQ-img"
CELEBA_PARTS = "CelebAMask-HQ-mask-anno"
LAYOUTS = (f"face/NAME.jpg, mask/NAME.png and text/NAME.txt; {CELEBA_IMAGES}/NUMBER.jpg and "
           f"{CELEBA_PARTS}/*/NUMBER_PART.png; shards *.tar of webdataset; or shards *.npz of python dev.py render")


def open_dataset(source: Path | str, size: int | None = None, classes: Sequence[str] | None = None) -> Dataset:
    """Opens a folder of faces with label maps in any of four layouts and checks every sample.

    source: a folder with
        * face/NAME.jpg (or another of IMAGE_SUFFIXES), mask/NAME.png and text/NAME.txt with one caption a line
          (MM-CelebA-HQ), or
        * CelebA-HQ-img/NUMBER.jpg, CelebAMask-HQ-mask-anno/*/NNNNN_part.png and text/NUMBER.txt, or
        * *.tar: webdataset shards with NAME.jpg|png, NAME.mask.png and NAME.txt (or others of IMAGE_SUFFIXES), or
        * *.npz: the renderer's shards, which are held in memory.
      The whole folder text/ may be absent; in tars, the caption of any sample may be.
    size: side of the square that images are resized and cut to. None leaves each image in its size.
    classes: names of the classes in the order of the label maps' values. None takes the lines of classes.txt in the
        folder, or CelebAMask-HQ's order if there is no such file.
    Returns a `FaceDataset`, for tars an iterable `TarDataset`. Samples are dict(image (3, H, W) uint8, labels
    (H, W) uint8 in CelebAMask-HQ order, captions list[str], name).
    Raises FileNotFoundError for a folder without such files. Raises ValueError with the first ten samples that lack
    a file, cannot be read, differ in aspect from their label map, or have labels of no class.
    """
    source = Path(source)
    if size is not None and size < 1:
        raise ValueError(f"size {size}: images are at least 1 pixel wide")
    order = read_order(source, classes)
    if (source / "face").is_dir() and (source / "mask").is_dir():
        return open_files(source, list_mask_faces(source, order), size)
    if (source / CELEBA_IMAGES).is_dir() and (source / CELEBA_PARTS).is_dir():
        return open_files(source, list_part_faces(source), size)
    if any(source.glob("*.tar")):
        from .tars import open_tars  # no other layout needs webdataset
        return open_tars(source, size, order)
    if list_shards(source):
        return open_renders(source, size)
    raise FileNotFoundError(f"{source}: no data set here. There must be {LAYOUTS}.")


def open_faces(source: Path, size: int | None = None) -> FaceDataset:
    """`open_dataset` with random access: raises ValueError for tar shards, too."""
    faces = open_dataset(source, size)
    if not isinstance(faces, FaceDataset):
        raise ValueError(f"data: {source} holds tar shards, which can only be read in order: name the folder that "
                         "they were packed from")
    return faces


def read_order(source: Path, classes: Sequence[str] | None) -> tuple[int, ...]:
    """The class of each label value."""
    if classes is not None:
        names = classes
        origin = "classes"
    else:
        listed = source / "classes.txt"
        if not listed.is_file():
            return tuple(range(len(CLASSES)))
        names = read_text(listed).splitlines()
        origin = str(listed)
    return tuple(find_class(name, origin) for name in names if name.strip())


def open_files(source: Path, faces: list[FileFace], size: int | None) -> FaceDataset:
    """The data set of checked image files."""
    return make_dataset(source, faces, survey(source, faces, lambda face: face.check()), size)


def make_dataset(source: Path, faces: Sequence, sizes: Sequence[Size], size: int | None) -> FaceDataset:
    if not faces:
        raise FileNotFoundError(f"{source}: the folders are there, but no image is in them")
    return FaceDataset(faces, [(size, size)] * len(faces) if size else sizes)


def list_mask_faces(source: Path, order: tuple[int, ...]) -> list[MaskFace]:
    """The samples of the MM-CelebA-HQ layout, with those that lack a file."""
    images = list_files(source / "face")
    masks = list_files(source / "mask")
    faces = []
    for name in order_names(images.keys() | masks.keys()):
        image = images.get(name, source / "face" / f"{name}.jpg")
        mask = masks.get(name, source / "mask" / f"{name}.png")
        faces.append(MaskFace(name, image, find_caption_file(source, name), mask, order))
    return faces


def list_part_faces(source: Path) -> list[PartFace]:
    """The samples of CelebAMask-HQ's own layout."""
    parts = defaultdict(list)
    folders = sorted(folder for folder in (source / CELEBA_PARTS).iterdir() if folder.is_dir())
    for folder in folders:
        check_formats(folder)
        for name, file in list_files(folder).items():
            number, _, part = name.partition("_")
            parts[number].append((find_class(part, str(file)), file))
    images = list_files(source / CELEBA_IMAGES)
    return [PartFace(name, images[name], find_caption_file(source, name), tuple(parts[name.zfill(5)]))
            for name in order_names(images)]


def list_files(folder: Path) -> dict[str, Path]:
    """Image files by their names without suffix. Raises ValueError if two files have one name."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    named = {file.stem: file for file in files}
    doubled = [f"{file} and {named[file.stem]} have one name" for file in files if named[file.stem] != file]
    raise_faults(folder, doubled, len(files))
    return named


def check_formats(folder: Path) -> None:
    """Raises ValueError for images in formats that are not read: their classes would be missing without a word."""
    files = sorted(folder.iterdir())
    unread = Image.registered_extensions().keys() - set(IMAGE_SUFFIXES)
    faults = [f"{file} has a format that is not read: convert it" for file in files if file.suffix.lower() in unread]
    raise_faults(folder, faults, len(files))


def order_names(names: Iterable[str]) -> list[str]:
    """Shorter names first: numbers come in the order of the published splits, with or without leading zeros."""
    return sorted(names, key=lambda name: (len(name), name))


def find_caption_file(source: Path, name: str) -> Path | None:
    return source / "text" / f"{name}.txt" if (source / "text").is_dir() else None


def open_renders(source: Path, size: int | None) -> FaceDataset:
    """The renderer's shards."""
    files = list_shards(source)
    faces = []
    for file, shard in zip(files, survey(source, files, read_shard, "shard")):
        faces += [RenderedFace(f"{file.stem}-{row:04d}", shard, row) for row in range(len(shard["label"]))]
    return make_dataset(source, faces, [face.shard["label"].shape[1:] for face in faces], size)
