"""Files of images and texts as people have them, read by rules that do not depend on a library's defaults."""
from __future__ import annotations

import glob
import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

Size = tuple[int, int]  # height, width
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
DEEP_GRAY = ("I", "I;16", "I;16B", "I;16L", "I;16N")
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
PNG_ORIENTATION = (b"eXIf", b"tiff:Orientation")
MOST_PIXELS = 2 ** 26
BACKGROUND = (255, 255, 255)  # behind transparent pixels
SRGB = ImageCms.createProfile("sRGB")


def inspect_image(file: Path) -> Size:
    """Upright size of a complete image file. Raises ValueError if the file is missing, cut off or animated.

    A JPEG is decoded at an eighth of its size, of a PNG the checksums are read. Both cost a fraction of decoding the
    whole image. Other formats are decoded.
    """
    if not file.is_file():
        raise ValueError(describe_missing(file))
    try:
        with Image.open(file) as image:
            width, height = image.size
            check_picture(image)
            if image.format == "PNG":
                image.verify()
            else:
                image.draft("L", (width // 8, height // 8))  # does nothing for other formats than JPEG
                image.load()
        is_sideways = read_orientation(file, image.format) in SIDEWAYS
    except Exception as error:  # each decoder raises errors of its own
        raise ValueError(f"{file} cannot be read ({error})") from error
    return (width, height) if is_sideways else (height, width)


def read_orientation(file: Path, form: str) -> int:
    """The EXIF orientation of a file whose size Pillow gives as it is stored.

    Pillow turns TIFF itself. It decodes a PNG to find the orientation, so only files that may have one are opened.
    """
    if form == "TIFF":
        return 1
    if form == "PNG":
        content = file.read_bytes()
        if not any(mark in content for mark in PNG_ORIENTATION):
            return 1
    with Image.open(file) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1)


def describe_missing(file: Path) -> str:
    """Says that a file is missing, and which files of the same name are there."""
    others = sorted(other.name for other in file.parent.glob(f"{glob.escape(file.stem)}.*"))
    if others:
        return f"{file} is missing; {', '.join(others)} is there, but this format is not read: convert it"
    return f"{file} is missing"


def check_picture(image: Image.Image) -> None:
    """Raises ValueError for an animation, and for a picture whose decoding would take gigabytes.

    The further images in a phone's JPEG (MPO) are no frames.
    """
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels, at most {MOST_PIXELS} are read: save it smaller")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ValueError(f"it has {frames} frames or pages: save one of them as an image of its own")


def open_image(file: Path | io.BytesIO) -> Image.Image:
    """An image file, read from memory: Pillow garbles an uncompressed gray TIFF on disk that its EXIF data turns."""
    return Image.open(io.BytesIO(file.read_bytes()) if isinstance(file, Path) else file)


def open_rgb(file: Path | io.BytesIO) -> Image.Image:
    """An image file as 8-bit sRGB, upright.

    16-bit levels are scaled, color profiles and CMYK converted, transparent pixels laid on white. A profile that does
    not fit the image is left out. Raises ValueError for an animation.
    """
    with open_image(file) as image:
        check_picture(image)
        profile = image.info.get("icc_profile")
        upright = ImageOps.exif_transpose(image)
    return apply_profile(flatten(upright), profile)


def flatten(image: Image.Image) -> Image.Image:
    """An image in the mode RGB, L or CMYK: without palette, alpha and 16-bit levels."""
    if image.mode in DEEP_GRAY and not image.has_transparency_data:
        return scale_levels(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        behind = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(behind, image).convert("RGB")
    return image if image.mode in ("RGB", "L", "CMYK") else image.convert("RGB")


def scale_levels(image: Image.Image) -> Image.Image:
    """16-bit gray levels as 8 bit."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"gray levels from {levels.min()} to {levels.max()}: save it with 8 or 16 bits")
    return Image.fromarray(np.round(levels / 257).astype(np.uint8))


def apply_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image as RGB in sRGB."""
    if profile:
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(own):
                return ImageCms.profileToProfile(image, own, SRGB, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile, or one of another color space: the numbers are sRGB, as browsers read them
    return image.convert("RGB")
