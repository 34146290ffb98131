"""Every palette that people bring, in every encoding, after what programs do to it: the right classes, or words."""
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mditface.mdit.datasets.images import read_labels
from mditface.mdit.labelmap import AUTO, DEFAULT_ORDER, ORDERS, PALETTES, read_label_maps, resize_nearest, to_image
from mditface.mdit.labelmap.edges import is_blended
from mditface.mdit.labelmap.palettes import FOREIGN
from mditface.tests.labelmap.test_reading import face, paint, resampled, rows_in, saved

SIDE = 256
COLORED = [("colours", order, False) for order in ORDERS if order != "Sapiens"]
COLORED += [(name, foreign.order or DEFAULT_ORDER, swapped) for name, foreign in FOREIGN.items()
            for swapped in (False, True)]
METHODS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
SCALES = st.floats(0.4, 8).filter(lambda scale: round(scale * SIDE) != SIDE)
LOSSY = st.one_of(
    st.fixed_dictionaries(
        dict(format=st.just("JPEG"), quality=st.integers(75, 97), subsampling=st.sampled_from([0, 2]))),
    st.fixed_dictionaries(dict(format=st.just("WEBP"), quality=st.integers(60, 97))))


def level_colors(palette):
    return [(k, k, k) for k in range(28)] if palette == "grey indices" else PALETTES[palette].colors


def make(name, order, swapped):
    rows, classes = rows_in(order)
    image = paint(rows, PALETTES[name].colors if name in PALETTES else FOREIGN[name].colors)
    return image.flip(-1) if swapped else image, classes


def check(image, classes, palette, order, least):
    """The classes are read without others of more than a few pixels, and the palette is named."""
    expected = resize_nearest(classes, *image.shape[1:3])
    indices, notes = read_label_maps(image, palette, order)
    foreign = ~torch.isin(indices, expected.unique())
    assert foreign.float().mean() < 3e-4, f"{foreign.sum()} pixels of classes that are not in the map"
    assert (indices == expected).float().mean() > least
    assert palette != AUTO or "The label map was read as" in notes[0]


@pytest.mark.parametrize("name, order, swapped", COLORED)
@settings(max_examples=5, deadline=None)
@given(options=LOSSY)
def test_compressed_colors(name, order, swapped, options):
    image, classes = make(name, order, swapped)
    check(saved(image, **options), classes, AUTO, order, 0.98)


@pytest.mark.parametrize("name, order, swapped", COLORED)
@settings(max_examples=5, deadline=None)
@given(width=st.integers(150, 700), height=st.integers(150, 700), method=st.sampled_from(METHODS))
def test_resampled_colors(name, order, swapped, width, height, method):
    image, classes = make(name, order, swapped)
    check(resampled(image, width, height, method), classes, AUTO, order, 0.97)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_sharp_enlargements_leave_no_ghosts(scale, method):
    image = resampled(to_image(face()), scale * SIDE, scale * SIDE, method)
    check(image, face(), "colours", DEFAULT_ORDER, 0.99)


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=12, deadline=None)
@given(damage=st.one_of(LOSSY, st.tuples(SCALES, st.sampled_from(METHODS))))
def test_blended_indices_are_refused(order, damage):
    rows, _ = rows_in(order)
    image = paint(rows, level_colors("grey indices"))
    if isinstance(damage, dict):
        blended = saved(image, **damage)
    else:
        scale, method = damage
        blended = resampled(image, round(scale * SIDE), round(scale * SIDE), method)
    for palette in ("grey indices", AUTO):
        with pytest.raises(ValueError, match="blended at the edges|no entry of the palette|no known palette"):
            read_label_maps(blended, palette, order)


@pytest.mark.parametrize("side", [64, 96, 128, 256, 512, 1024])
@pytest.mark.parametrize("order", ORDERS)
def test_sharp_indices_of_every_size_are_read(order, side):
    rows, _ = rows_in(order)
    shown = resize_nearest(rows.byte(), side, side)
    assert not is_blended(shown[0].numpy())
    indices, _ = read_label_maps(paint(shown.long(), level_colors("grey indices")), "grey indices", order)
    assert torch.equal(indices, torch.tensor(ORDERS[order].classes, dtype=torch.uint8)[shown.long()])


@settings(max_examples=12, deadline=None)
@given(options=LOSSY)
def test_a_compressed_index_picture_is_repaired_and_said(options):
    image = paint(face().long(), PALETTES["index picture"].colors)
    damaged = saved(image, **options)
    check(damaged, face(), "index picture", DEFAULT_ORDER, 0.96)
    _, notes = read_label_maps(damaged, "index picture")
    assert torch.equal(damaged, image) or "blended at the edges" in notes[0]


def test_blended_indices_of_sixteen_bit_are_refused():
    sharp = (face()[..., None].float() / 65535).expand(-1, -1, -1, 3)
    smooth = torch.nn.functional.interpolate(sharp.movedim(-1, 1), size=(200, 200), mode="bilinear").movedim(1, -1)
    for palette in ("grey indices", AUTO):
        with pytest.raises(ValueError, match="blended at the edges"):
            read_label_maps(smooth, palette)
    rounded = (smooth * 65535).round() / 65535
    with pytest.raises(ValueError, match="blended at the edges"):
        read_label_maps(rounded, "grey indices")


# Files of data sets

def encode(array, mode):
    """A PNG file of levels or colors (H, W[, 3]) in one of Pillow's modes."""
    image = Image.fromarray(array.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        image.putpalette(np.array([(k, k, k) for k in range(256)], np.uint8).tobytes())
    if mode in ("LA", "RGBA", "RGB"):
        image = image.convert(mode)
        if mode != "RGB":
            image.putalpha(0)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file


@pytest.mark.parametrize("mode", ["L", "LA", "P", "I;16", "RGB", "RGBA"])
@pytest.mark.parametrize("palette", ["grey indices", "index picture"])
@pytest.mark.parametrize("order", ["CelebAMask-HQ", "face parser", "LaPa", "MediaPipe"])
def test_files_of_grey_levels_are_read_in_every_mode(order, palette, mode):
    rows, classes = rows_in(order)
    levels = np.array(level_colors(palette))[rows[0].numpy(), 0]
    found = read_labels(encode(levels, mode), ORDERS[order].classes)
    assert torch.equal(found, classes[0])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("name, order, swapped", COLORED)
def test_files_in_colors_are_read_in_every_mode(name, order, swapped, mode):
    image, classes = make(name, order, swapped)
    picture = Image.fromarray((image[0] * 255).round().byte().numpy())
    file = io.BytesIO()
    (picture.quantize(64, dither=Image.Dither.NONE) if mode == "P" else picture.convert(mode)).save(file, "PNG")
    assert torch.equal(read_labels(file, ORDERS[order].classes), classes[0])


@pytest.mark.parametrize("palette", [*PALETTES, AUTO])
def test_an_index_picture_in_the_lowest_levels_of_sixteen_bit_is_refused(palette):
    levels = paint(face().long(), PALETTES["index picture"].colors) * 255
    with pytest.raises(ValueError, match="class indices of 16 bit"):
        read_label_maps(levels / 65535, palette)
