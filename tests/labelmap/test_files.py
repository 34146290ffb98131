"""Label maps in files of every kind that people bring: what the painter imports."""
import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from mditface.mdit.labelmap import CLASSES, PALETTE, PALETTES, decode_drawing, find_class, read_file, read_label_maps
from mditface.mdit.labelmap.palettes import AUTO, FOREIGN, voc_color
from mditface.nodes.routes import answer_content
from mditface.tests.labelmap.test_reading import face, rows_in

LEVELS = face()[0].numpy()  # (H, W), classes
NOISE = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
SPREAD = np.array(PALETTES["index picture"].colors, np.uint8)[:, 0]
COLORS = np.array(PALETTE, np.uint8)


def packed(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    file.seek(0)
    return file


def deep_png(levels):
    """A PNG of colors in 16 bit (H, W, 3), which Pillow reads and does not write."""
    height, width, _ = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
              for kind, data in parts]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def with_palette(numbers, colors):
    image = Image.fromarray(numbers.astype(np.uint8), "P")
    image.putpalette(np.array(colors, np.uint8).flatten().tolist())
    return image


def shift_hue(numbers):
    """A file whose colors stand in another order than the classes: number k has the color of class 18 - k."""
    return with_palette(18 - numbers, COLORS[::-1])


KINDS = {
    "colors": lambda: packed(Image.fromarray(COLORS[LEVELS])),
    "grey indices": lambda: packed(Image.fromarray(LEVELS)),
    "grey indices in three channels": lambda: packed(Image.fromarray(LEVELS).convert("RGB")),
    "grey indices with alpha": lambda: packed(Image.fromarray(LEVELS).convert("LA")),
    "grey indices as TIFF": lambda: packed(Image.fromarray(LEVELS), "TIFF"),
    "grey indices of 16 bit": lambda: packed(Image.fromarray(LEVELS.astype(np.uint16))),
    "grey indices of 32 bit": lambda: packed(Image.fromarray(LEVELS.astype(np.int32)), "TIFF"),
    "grey indices as floats": lambda: packed(Image.fromarray(LEVELS.astype(np.float32)), "TIFF"),
    "index picture": lambda: packed(Image.fromarray(SPREAD[LEVELS])),
    "index picture of 16 bit": lambda: packed(Image.fromarray(SPREAD[LEVELS].astype(np.uint16) * 257)),
    "8-bit levels in 16 bit": lambda: packed(Image.fromarray(SPREAD[LEVELS].astype(np.uint16))),
    "palette of our colors": lambda: packed(with_palette(LEVELS, COLORS)),
    "palette in another order": lambda: packed(shift_hue(LEVELS)),
    "palette of unknown colors": lambda: packed(with_palette(LEVELS, NOISE[0])),
    "palette of grey levels": lambda: packed(with_palette(LEVELS, SPREAD[:, None].repeat(3, 1))),
    "palette of PASCAL VOC": lambda: packed(with_palette(LEVELS, [voc_color(k) for k in range(19)])),
    "GIF": lambda: packed(with_palette(LEVELS, COLORS), "GIF"),
    "channels swapped": lambda: packed(Image.fromarray(COLORS[LEVELS][..., ::-1].copy())),
    "lossless WebP": lambda: packed(Image.fromarray(COLORS[LEVELS]), "WEBP", lossless=True),
    "colors of 16 bit": lambda: deep_png(COLORS[LEVELS].astype(np.uint16) * 257),
    "BMP": lambda: packed(Image.fromarray(COLORS[LEVELS]), "BMP"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_every_kind_are_read(kind):
    reading = read_file(KINDS[kind]())
    assert np.array_equal(reading.indices, LEVELS) and not reading.is_stencil
    quiet = ("colors", "palette of our colors", "palette in another order", "GIF", "lossless WebP", "BMP",
             "colors of 16 bit")
    assert bool(reading.notes) == (kind not in quiet), "quiet about our own colors only"


@pytest.mark.parametrize("name", [name for name in FOREIGN if FOREIGN[name].order])
@pytest.mark.parametrize("form", ["RGB", "P"])
def test_colors_of_other_programs_are_read_in_their_order(name, form):
    rows, classes = rows_in(FOREIGN[name].order)
    image = with_palette(rows[0].numpy(), FOREIGN[name].colors)
    indices, notes, _ = read_file(packed(image.convert(form)))
    assert torch.equal(indices, classes[0]) and f'"{name}"' in notes[0]


def test_hidden_colors_count_as_in_the_nodes():
    """Alpha 0 over half of the map: a canvas of a browser would make these pixels black."""
    pixels = np.dstack([COLORS[LEVELS], np.where(np.arange(256) < 128, 0, 255)[None].repeat(256, 0)]).astype(np.uint8)
    indices = read_file(packed(Image.fromarray(pixels))).indices
    assert np.array_equal(indices, LEVELS)
    assert torch.equal(indices, read_label_maps(torch.from_numpy(pixels)[None] / 255).indices[0])


def test_compressed_maps_are_read_as_by_the_nodes():
    file = packed(Image.fromarray(COLORS[LEVELS]), "JPEG", quality=90)
    as_image = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).float() / 255
    file.seek(0)
    indices = read_file(file).indices
    assert torch.equal(indices, read_label_maps(as_image[None], AUTO).indices[0])
    assert set(indices.unique().tolist()) == set(np.unique(LEVELS)) and (indices.numpy() == LEVELS).mean() > 0.99


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "I;16"])
def test_a_stencil_is_told_apart(mode):
    hair = (LEVELS == find_class("hair"))
    image = Image.fromarray(hair)
    if mode == "I;16":
        image = Image.fromarray(hair.astype(np.uint16) * 65535)
    reading = read_file(packed(image if mode == "I;16" else image.convert(mode)))
    assert reading.is_stencil and np.array_equal(reading.indices, hair)


def test_a_stencil_has_smooth_edges_or_covers_all():
    smooth = Image.fromarray((LEVELS == find_class("hair")).astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1))
    reading = read_file(packed(smooth))
    assert reading.is_stencil and np.array_equal(reading.indices, np.asarray(smooth) > 127)
    reading = read_file(packed(Image.new("L", (64, 64), 255)))
    assert reading.is_stencil and reading.indices.all()


@pytest.mark.parametrize("edge", [0, 90])
def test_a_stencil_of_thin_lines_is_none_of_background(edge):
    line = np.zeros((64, 64), np.uint8)
    line[19:23, 12:48] = edge
    line[20:22, 12:48] = 255
    reading = read_file(packed(Image.fromarray(line)))
    assert reading.is_stencil and np.array_equal(reading.indices, line == 255)


def test_lines_too_thin_for_a_colour_are_not_lost_in_silence():
    line = np.zeros((64, 64), np.uint8)
    line[20:22, 12:48] = 255
    with pytest.raises(ValueError, match="background alone, but .* in lines too thin"):
        read_file(packed(Image.fromarray(line).filter(ImageFilter.GaussianBlur(0.8))))


@pytest.mark.parametrize("levels,names,palette", [
    ((0, 1), "background skin", "grey indices"), ((0, 13, 14), "background hair hat", "grey indices"),
    ((0, 14), "background skin", "index picture"), ((0, 14, 28), "background skin nose", "index picture")])
def test_few_grey_levels_say_how_they_were_read(levels, names, palette):
    rows = np.array(levels, np.uint8).repeat(20)[None].repeat(40, 0)
    indices, notes, _ = read_file(packed(Image.fromarray(rows)))
    assert [CLASSES[k] for k in indices[0, ::20]] == names.split()
    assert f'"{palette}"' in notes[0] and len(notes) == 1 + (levels == (0, 14))


@pytest.mark.parametrize("frame", [1, 6, 8])
def test_maps_are_upright(frame):
    exif = Image.Exif()
    exif[0x0112] = frame
    turned = {1: LEVELS, 6: np.rot90(LEVELS), 8: np.rot90(LEVELS, -1)}[frame]
    assert np.array_equal(read_file(packed(Image.fromarray(COLORS[turned]), exif=exif)).indices, LEVELS)


def animated():
    frames = [Image.fromarray(COLORS[LEVELS]), Image.fromarray(COLORS[LEVELS[::-1]])]
    return packed(frames[0], "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("content,part", [
    (lambda: b"", "cannot be read as an image"), (lambda: b"text", "cannot be read as an image"),
    (lambda: KINDS["colors"]().read()[:300], "cannot be read as an image"),
    (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read as an image"),
    (lambda: packed(Image.new("L", (5000, 4))).read(), "5000 x 4 pixels. A drawing has at most 4096"),
    (lambda: animated().read(), "2 frames or pages"),
    (lambda: deep_png(LEVELS[..., None].repeat(3, -1)).read(), "channels of 16 bit, and levels below 256 alone"),
    (lambda: packed(Image.fromarray(NOISE)).read(), "fits no known palette, .* 'Parse Face'"),
    (lambda: packed(Image.fromarray(NOISE).quantize(200)).read(), "fits no known palette"),
    (lambda: packed(Image.fromarray(LEVELS.astype(np.uint16) + 20)).read(), "grey levels go up to 38"),
    (lambda: packed(Image.fromarray(LEVELS - np.float32(0.5)), "TIFF").read(), "levels from -0.5 to 17.5"),
])
def test_what_cannot_be_read_is_refused_in_words(content, part):
    answer = answer_content(content())
    assert set(answer) == {"error"}
    with pytest.raises(ValueError, match=part):
        raise ValueError(answer["error"])
    assert not answer["error"].startswith("label_map")


def test_the_answer_is_a_drawing():
    answer = answer_content(KINDS["grey indices of 16 bit"]().read())
    assert json.loads(json.dumps(answer)) == answer
    assert np.array_equal(decode_drawing(answer["drawing"]), LEVELS)
    assert answer["isStencil"] is False and "grey indices" in answer["notes"][0]
