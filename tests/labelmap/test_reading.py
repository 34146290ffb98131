"""Label maps as people bring them: other palettes, index images, compressed and resampled maps."""
import io
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mditface.mdit.labelmap import (
    AUTO, CLASSES, ORDERS, PALETTE, PALETTES, read_label_maps, resize_nearest, to_image, to_indices)
from mditface.mdit.labelmap.palettes import FOREIGN

SIDE = 256
SHAPES = (  # class, and its box in 256ths
    ("cloth", (20, 210, 236, 256)), ("hair", (50, 10, 206, 230)), ("neck", (100, 190, 156, 225)),
    ("skin", (70, 40, 186, 215)), ("l_brow", (140, 84, 172, 92)), ("r_brow", (84, 84, 116, 92)),
    ("l_eye", (144, 98, 168, 112)), ("r_eye", (88, 98, 112, 112)), ("nose", (116, 104, 140, 146)),
    ("mouth", (104, 164, 152, 180)), ("u_lip", (104, 156, 152, 166)), ("l_lip", (104, 176, 152, 188)))


def face(side=SIDE):
    """A label map (1, side, side) of a face with 12 classes and the background."""
    canvas = Image.new("L", (side, side))
    for name, box in SHAPES:
        scaled = [edge * side / 256 for edge in box]
        ImageDraw.Draw(canvas).ellipse(scaled, fill=CLASSES.index(name))
    return torch.from_numpy(np.array(canvas))[None]


def rows_in(order):
    """The face in the numbers of an order; classes that the order lacks are its background."""
    classes = ORDERS[order].classes
    table = torch.tensor([classes.index(k) if k in classes else 0 for k in range(19)])
    rows = table[face().long()]
    return rows, torch.tensor(classes, dtype=torch.uint8)[rows]


def paint(rows, colors):
    return torch.tensor(colors, dtype=torch.float32)[rows] / 255


def saved(image, **options):
    """An image (1, H, W, 3) after a way through a file."""
    file = io.BytesIO()
    Image.fromarray((image[0] * 255).round().byte().numpy()).save(file, **options)
    return torch.from_numpy(np.array(Image.open(file).convert("RGB")))[None] / 255


def resampled(image, width, height, method):
    pixels = Image.fromarray((image[0] * 255).round().byte().numpy()).resize((width, height), method)
    return torch.from_numpy(np.array(pixels))[None] / 255


def classes_in(indices):
    return set(indices.unique().tolist())


# Other palettes

@pytest.mark.parametrize("chosen", ["colours", "index picture"])
def test_grey_indices_in_another_palette_are_refused_with_the_right_one(chosen):
    image = paint(face().long(), PALETTES["grey indices"].colors)
    with pytest.raises(ValueError, match='^label_map: .*"grey indices", not in .* Choose the palette "grey indices"'):
        to_indices(image, chosen)


@pytest.mark.parametrize("levels", [(0, 1), (0, 1, 2), (0, 13, 14, 18), (0, 5)])
def test_grey_indices_of_few_classes_are_no_background(levels):
    rows = torch.tensor(levels).repeat_interleave(20)[None, None].repeat(1, 30, 1)
    image = paint(rows, PALETTES["grey indices"].colors)
    with pytest.raises(ValueError, match="grey indices"):
        to_indices(image)
    assert torch.equal(to_indices(image, AUTO), rows.byte())


def test_dark_areas_that_would_all_be_background_are_refused():
    image = torch.full((1, 64, 64, 3), 2 / 255)
    image[:, 16:48, 16:48] = torch.tensor([9, 7, 12]) / 255
    with pytest.raises(ValueError, match='background alone, .*"grey indices"'):
        to_indices(image)


def test_swapped_channels_are_named_and_read_by_auto():
    image = to_image(face()).flip(-1)
    with pytest.raises(ValueError, match='red and blue swapped", not in the palette "colours"'):
        to_indices(image)
    indices, notes = read_label_maps(image, AUTO)
    assert torch.equal(indices, face())
    assert notes == ['The label map was read as "colours with red and blue swapped", class order "CelebAMask-HQ".']


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("name", FOREIGN)
def test_colors_of_other_programs_are_named_and_read_by_auto(name, swapped):
    foreign = FOREIGN[name]
    rows, classes = rows_in(foreign.order or "CelebAMask-HQ")
    image = paint(rows, foreign.colors)
    image = image.flip(-1) if swapped else image
    with pytest.raises(ValueError, match=f'"{name}.*Choose the palette "auto"'):
        to_indices(image)
    indices, notes = read_label_maps(image, AUTO)
    assert torch.equal(indices, classes)
    assert f'"{name}' in notes[0] and ("swapped" in notes[0]) == swapped


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("palette", ["colours", "grey indices"])
def test_auto_reads_the_palettes_in_every_order(palette, order):
    rows, classes = rows_in(order)
    colors = PALETTES[palette].colors if palette == "colours" else [(k, k, k) for k in range(28)]
    if rows.max() < 19:
        indices, notes = read_label_maps(paint(rows, colors), AUTO, order)
        assert torch.equal(indices, classes) and f'"{palette}", class order "{order}"' in notes[0]


def test_areas_in_a_few_colors_of_no_palette_are_refused():
    image = to_image(face())
    image[:, :20, :30] = torch.tensor([120, 200, 240]) / 255  # under a hundredth of the pixels
    with pytest.raises(ValueError, match=r'flat areas, 0.8% .* "colours", for example \(120, 200, 240\) .*"auto"'):
        to_indices(image)


def test_auto_refuses_photographs_with_what_it_saw():
    noise = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"fits no known palette, its commonest colours are .* 'Parse Face' before"):
        to_indices(noise, AUTO)
    with pytest.raises(ValueError, match="fits no known palette, its grey levels go up to 2"):
        to_indices(noise[..., :1].expand(-1, -1, -1, 3), AUTO)


@pytest.mark.parametrize("white", [1.0, 254 / 255])
@pytest.mark.parametrize("palette", [AUTO, "colours", "grey indices"])
def test_a_black_and_white_mask_is_no_label_map(palette, white):
    image = torch.zeros(1, 64, 64, 3)
    image[:, 16:48, 16:48] = white
    image[:, 15, 16:48] = 0.5  # a smooth edge
    with pytest.raises(ValueError, match="black and white only, .*'Masks to Label Map'"):
        to_indices(image, palette)


def test_black_and_white_as_index_picture_says_how_it_was_read():
    image = torch.zeros(1, 64, 64, 3)
    image[:, 16:48, 16:48] = 1
    indices, (note,) = read_label_maps(image, "index picture")
    assert classes_in(indices) == {0, 18} and "it was read as background and clothes" in note


def test_ambiguous_grey_levels_say_how_they_were_read():
    image = torch.zeros(1, 32, 32, 3)
    image[:, 8:24, 8:24] = 14 / 255
    indices, notes = read_label_maps(image, AUTO)
    assert classes_in(indices) == {0, CLASSES.index("skin")}
    assert '"index picture"' in notes[0] and 'also fit the palette "grey indices", as background, hat' in notes[1]


@pytest.mark.parametrize("colors, palette, said", [
    ([(0, 0, 0), (255, 0, 0)], "colours", "as background, right ear in .* also fit .*\"face-parsing colours\", as "
     "background, skin. Repaint them"),
    ([(0, 0, 0), (204, 0, 0), (0, 0, 204)], "colours", "also fit .* swapped\", as background, hair, skin"),
    ([(0, 0, 0), (14, 14, 14)], "grey indices", "as background, hat .*\"index picture\", as background, skin. Choose"),
    ([(0, 0, 0), (14, 14, 14)], "index picture", "as background, skin .*\"grey indices\", as background, hat. Choose")])
def test_a_map_that_fits_two_palettes_says_how_it_was_read(colors, palette, said):
    rows = torch.arange(len(colors)).repeat_interleave(20)[None, None].repeat(1, 30, 1)
    _, (note,) = read_label_maps(paint(rows, colors), palette)
    assert re.search(said, note)


@pytest.mark.parametrize("palette", [*PALETTES, AUTO])
def test_a_map_of_background_alone_is_said(palette):
    indices, notes = read_label_maps(torch.zeros(2, 40, 50, 3), palette)
    assert not indices.any() and "The label map is background alone. If it should show a face" in notes[-1]
    speck = torch.zeros(1, 200, 200, 3)
    speck[:, 100, 100:103] = torch.tensor([204, 0, 0]) / 255
    if palette == "colours":
        assert "background to 99.99%" in read_label_maps(speck, palette).notes[-1]


def test_classes_that_cannot_be_mapped_are_said():
    rows = torch.tensor([0, 1, 3, 5]).repeat_interleave(16)[None, None].repeat(1, 64, 1)
    indices, notes = read_label_maps(paint(rows, PALETTES["grey indices"].colors), "grey indices", "MediaPipe")
    assert [CLASSES[k] for k in indices[0, 0, ::16]] == ["background", "hair", "skin", "background"]
    assert notes == ["No class fits these areas, so they became background: others (25.0%)."]


def test_all_indices_of_sapiens_are_read():
    rows = torch.arange(28).repeat_interleave(8)[None, None].repeat(1, 32, 1)
    indices, notes = read_label_maps(paint(rows, [(k, k, k) for k in range(28)]), "grey indices", "Sapiens")
    assert torch.equal(indices, torch.tensor(ORDERS["Sapiens"].classes, dtype=torch.uint8)[rows])
    assert "torso (3.6%)" in notes[0]


# Index images of 16 bit, as the host gives them

def sixteen_bit(indices, dtype=torch.float32):
    return (indices[..., None].to(dtype) / 65535).expand(-1, -1, -1, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("palette", ["grey indices", AUTO])
def test_indices_of_sixteen_bit_are_read(palette, dtype):
    indices, notes = read_label_maps(sixteen_bit(face(), dtype), palette)
    assert torch.equal(indices, face()) and "16 bit" in notes[0]


@pytest.mark.parametrize("palette", ["colours", "index picture"])
def test_indices_of_sixteen_bit_are_refused_in_other_palettes(palette):
    with pytest.raises(ValueError, match='16 bit, the grey levels 0 to 18 .* Choose the palette "grey indices"'):
        to_indices(sixteen_bit(face()), palette)


def test_indices_of_sixteen_bit_beyond_the_order_are_refused():
    with pytest.raises(ValueError, match='16 bit up to 18, but the class order "LaPa" ends at 13'):
        to_indices(sixteen_bit(face()), AUTO, "LaPa")


# Blended edges

FILES = {
    "jpeg 92": dict(format="JPEG", quality=92), "jpeg 75": dict(format="JPEG", quality=75),
    "jpeg 95 4:4:4": dict(format="JPEG", quality=95, subsampling=0),
    "webp 80": dict(format="WEBP", quality=80), "webp lossless": dict(format="WEBP", lossless=True)}


@pytest.mark.parametrize("options", FILES.values(), ids=FILES)
def test_compressed_maps_have_no_classes_of_their_own(options):
    indices = to_indices(saved(to_image(face()), **options))
    assert classes_in(indices) == classes_in(face())
    assert (indices == face()).float().mean() > 0.985


@pytest.mark.parametrize("method", [Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
@pytest.mark.parametrize("width, height", [(350, 350), (700, 520), (192, 192), (256, 255), (180, 256)])
def test_resampled_maps_have_no_classes_of_their_own(width, height, method):
    indices = to_indices(resampled(to_image(face()), width, height, method))
    assert classes_in(indices) == classes_in(face())
    assert (indices == resize_nearest(face(), height, width)).float().mean() > 0.985


@pytest.mark.parametrize("palette", ["colours", AUTO])
def test_smooth_drawing_has_no_classes_of_its_own(palette):
    large = to_image(face(4 * SIDE)).movedim(-1, 1)
    smooth = torch.nn.functional.avg_pool2d(large, 4).movedim(1, -1)
    indices = to_indices(smooth, palette)
    assert classes_in(indices) == classes_in(face()) and (indices == face()).float().mean() > 0.98


@pytest.mark.parametrize("name", ["LaPa colours", "iBug colours", "face-parsing colours"])
def test_edges_in_the_colors_of_other_programs_are_repaired(name):
    rows, classes = rows_in(FOREIGN[name].order)
    indices = to_indices(saved(paint(rows, FOREIGN[name].colors), format="JPEG", quality=92), AUTO)
    assert classes_in(indices) == classes_in(classes) and (indices == classes).float().mean() > 0.98


def test_a_blend_takes_the_class_of_one_of_its_neighbours():
    """A quarter of clothes on black is exactly a necklace, three quarters of hair on black exactly a lower lip."""
    indices = torch.zeros(1, 40, 60, dtype=torch.uint8)
    indices[:, :, 20:40], indices[:, :, 40:] = CLASSES.index("cloth"), CLASSES.index("hair")
    image = to_image(indices)
    image[:, :, 19] = torch.tensor([0, 51, 0]) / 255
    image[:, :20, 39] = torch.tensor([0, 102, 102]) / 255
    image[:, 20:, 39] = torch.tensor([0, 51, 153]) / 255
    read = to_indices(image)
    expected = indices.clone()
    expected[:, 20:, 39] = CLASSES.index("hair")
    assert torch.equal(read[:, :, :39], expected[:, :, :39]) and classes_in(read) == classes_in(indices)
    assert torch.equal(read[:, 20:], expected[:, 20:])


def test_thin_regions_of_a_blended_map_stay():
    indices = torch.full((1, 64, 64), CLASSES.index("skin"), dtype=torch.uint8)
    indices[:, 30, 10:50], indices[:, 40:42, 10:50] = CLASSES.index("l_brow"), CLASSES.index("l_lip")
    image = to_image(indices)
    image[:, :, 0] = torch.tensor([102, 0, 0]) / 255  # makes the map a blended one
    assert torch.equal(to_indices(image)[:, :, 1:], indices[:, :, 1:])


def test_specks_of_a_blended_map_vanish():
    image = to_image(face())
    image[:, 5, 5] = torch.tensor(PALETTE[CLASSES.index("hat")]) / 255
    image[:, 60:62, 128] = torch.tensor(PALETTE[CLASSES.index("eye_g")]) / 255
    assert torch.equal(to_indices(image)[0, 5, 5], torch.tensor(CLASSES.index("hat"), dtype=torch.uint8))
    blended = saved(image, format="PNG")
    blended[:, :, 0] = 60 / 255
    assert classes_in(to_indices(blended)) == classes_in(face())


# Clean maps stay what they are

@st.composite
def clean_rows(draw, count):
    """(1, H, W) numbers below count, in blocks of any size down to a pixel."""
    h, w, block = draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    coarse = torch.randint(0, count, (1, -(-h // block), -(-w // block)), generator=generator)
    return coarse.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :h, :w]


@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("palette", PALETTES)
@given(data=st.data())
def test_clean_maps_of_every_palette_and_size_are_exact(palette, order, data):
    rows = data.draw(clean_rows(min(19, len(ORDERS[order].classes))))
    read = to_indices(paint(rows, PALETTES[palette].colors), palette, order)
    assert torch.equal(read, torch.tensor(ORDERS[order].classes, dtype=torch.uint8)[rows])


@settings(max_examples=40, deadline=None)
@given(rows=clean_rows(19), dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
def test_clean_maps_of_every_float_type_are_exact(rows, dtype):
    assert torch.equal(to_indices(paint(rows, PALETTE).to(dtype)), rows.byte())


@settings(max_examples=40, deadline=None)
@given(rows=clean_rows(19), name=st.sampled_from(sorted(FOREIGN)))
def test_clean_maps_of_other_programs_are_exact_under_auto(rows, name):
    foreign = FOREIGN[name]
    rows = rows % len(foreign.colors)
    if len(rows.unique()) >= 6:
        order = foreign.order or "CelebAMask-HQ"
        read = to_indices(paint(rows, foreign.colors), AUTO)
        assert torch.equal(read, torch.tensor(ORDERS[order].classes, dtype=torch.uint8)[rows])


def test_alpha_is_ignored_also_where_it_hides_colors():
    alpha = (face() > 0).float()[..., None]
    assert torch.equal(to_indices(torch.cat([to_image(face()), alpha], dim=-1)), face())
