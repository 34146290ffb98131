import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mditface.mdit.labelmap import (
    CLASSES, DISPLAY_NAMES, ORDERS, PALETTE, PALETTES, PARSER_ORDER, find_classes, find_doubts, find_size, from_masks,
    grow, move, remove, replace, resize_nearest, scale, to_image, to_indices, to_masks)
from mditface.mdit.labelmap.classes import CHINESE_NAMES

SKIN, NOSE, L_EYE, HAIR, CLOTH = (CLASSES.index(name) for name in ("skin", "nose", "l_eye", "hair", "cloth"))


@st.composite
def label_maps(draw, least=1):
    """(B, H, W) uint8 indices of any batch and size, in blocks so that classes have an inside."""
    b, h, w = draw(st.integers(1, 3)), draw(st.integers(least, 24)), draw(st.integers(least, 24))
    block = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    coarse = torch.randint(0, 19, (b, -(-h // block), -(-w // block)), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :h, :w]


def image_of(indices, palette, order):
    """The image that someone would save of these indices in a palette and a class order."""
    rows = torch.tensor(ORDERS[order].classes).argsort()[indices.long()]
    return torch.tensor(PALETTES[palette].colors, dtype=torch.float32)[rows] / 255


def rows_of(indices, order, limit=19):
    """Numbers that an order has, in the blocks of the indices, and the classes of these numbers."""
    classes = torch.tensor(ORDERS[order].classes, dtype=torch.uint8)
    rows = indices.long() % min(limit, len(classes))
    return rows, classes[rows]


def on_skin(size=40):
    """Skin everywhere, an eye well inside."""
    indices = torch.full((1, size, size), SKIN, dtype=torch.uint8)
    indices[:, 15:20, 12:22] = L_EYE
    return indices


def blurred(image, radius):
    return torch.nn.functional.avg_pool2d(
        image.movedim(-1, 1), 2 * radius + 1, 1, radius, count_include_pad=False).movedim(1, -1)


# Classes, palettes, orders

def test_the_orders_and_palettes_are_the_documented_ones():
    assert len(set(CLASSES)) == len(set(DISPLAY_NAMES)) == len(set(PALETTE)) == 19
    assert sorted(PARSER_ORDER) == list(range(19))
    assert [CLASSES[k] for k in PARSER_ORDER] == (
        "background skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r nose mouth u_lip l_lip neck "
        "neck_l cloth hair hat").split()
    assert PALETTE[HAIR] == (0, 0, 204) and PALETTE[SKIN] == (204, 0, 0) and PALETTE[CLOTH] == (0, 204, 0)


COMMA, SEMICOLON, IDEOGRAPHIC, OPEN, CLOSE = "\uff0c", "\uff1b", "\u3001", "\u201c", "\u201d"


@pytest.mark.parametrize("text", [
    "hair, hat", f"hair{COMMA}hat", f"hair{SEMICOLON}hat", f"hair{IDEOGRAPHIC}hat", "hair;hat", "hair | hat",
    "hair\nhat",
    '"hair", "hat"', "'hair','hat'", '["hair", "hat"]', f"{OPEN}hair{CLOSE}{COMMA}{OPEN}hat{CLOSE}", "HAIR, Hat.",
    "13, 14", "\uff11\uff13\uff0c\uff11\uff14", "\u5934\u53d1\u3001\u5e3d\u5b50", "\u5934\u53d1, hat", "\uff28air, hat",
    "- hair\n- hat", "\ufeffhair\u200f, \u200b\u2066hat\u2069, \u200b",
    "\u300c\u5934\u53d1\u300d\u300c\u300d,\u5e3d\u5b50\u3002"])
def test_class_lists_take_every_usual_separator_quote_and_language(text):
    assert find_classes(text) == [13, 14]


@pytest.mark.parametrize("name", [
    "l_eye", "left eye", "left_eye", "left-eye", "LeftEye", "L_Eye", "4", "\u5de6\u773c", "'l_eye'"])
def test_a_class_has_an_id_names_and_a_number(name):
    assert find_classes(name) == [4]


def test_the_chinese_names_are_those_of_the_painter():
    from pathlib import Path
    words = Path(__file__).parents[2].joinpath("web/painter/words_zh.js").read_text("utf-8")
    assert len(set(CHINESE_NAMES)) == 19
    assert [name for k, name in enumerate(CHINESE_NAMES) if f'{CLASSES[k]}: "{name}"' not in words] == []


@pytest.mark.parametrize("text", ["all", " ALL ", "'all'", "\u5168\u90e8"])
def test_everything_is_all_classes(text):
    assert find_classes(text) == list(range(19))


def test_class_lists_take_names_display_names_and_all():
    assert find_classes("hair, hat") == [13, 14]
    assert find_classes(" Left Eye;\nl_eye,\n") == [4, 4]
    assert find_classes("all") == list(range(19))


@pytest.mark.parametrize("text, said", [("hair, hare", "'hare'"), (" ,\n", "empty"), ("all, hair", "'all'")])
def test_bad_class_lists_are_refused(text, said):
    with pytest.raises(ValueError, match=said):
        find_classes(text)


# Pictures to indices and back

@given(label_maps())
def test_a_label_map_survives_the_way_to_an_image_and_back(indices):
    image = to_image(indices)
    assert image.dtype == torch.float32 and image.shape == (*indices.shape, 3)
    back = to_indices(image)
    assert back.dtype == torch.uint8 and torch.equal(back, indices)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("palette", PALETTES)
@settings(deadline=None)
@given(indices=label_maps())
def test_every_palette_and_order_is_read(palette, order, indices):
    rows, classes = rows_of(indices, order)
    image = torch.tensor(PALETTES[palette].colors, dtype=torch.float32)[rows] / 255
    assert torch.equal(to_indices(image, palette, order), classes)


@given(label_maps(), st.integers(0, 2**31))
def test_colors_a_little_off_snap_to_the_nearest_entry(indices, seed):
    noise = torch.rand(*indices.shape, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    # The closest two colors are 51 apart: 24 in any direction and the rounding stay below the middle.
    noise = noise / noise.norm(dim=-1, keepdim=True).clamp(min=1) * 24 / 255
    assert torch.equal(to_indices(to_image(indices) + noise), indices)


def test_blended_edges_pass_and_leave_the_inside_as_it_was():
    indices = on_skin(64)
    indices[:, 40:] = CLOTH
    back = to_indices(blurred(to_image(indices), 1))
    assert torch.equal(back[:, 22:38], indices[:, 22:38]) and torch.equal(back[:, 42:], indices[:, 42:])


def test_a_compressed_label_map_passes(tmp_path):
    from PIL import Image
    indices = torch.zeros(1, 256, 256, dtype=torch.uint8)
    for k in range(1, 19):
        indices[:, 12 * k:12 * k + 20, 5 * k:200 + 3 * k] = k
    pixels = (to_image(indices)[0] * 255).byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "map.jpg", quality=90)
    compressed = torch.from_numpy(np.array(Image.open(tmp_path / "map.jpg")))[None] / 255
    assert (to_indices(compressed) == indices).float().mean() > 0.9


def test_a_fourth_channel_is_ignored():
    indices = on_skin()
    image = torch.cat([to_image(indices), torch.rand(1, 40, 40, 1)], dim=-1)
    assert torch.equal(to_indices(image), indices)


def test_far_colors_are_refused_with_share_samples_and_remedy():
    image = to_image(on_skin())
    image[:, :, :10] = 1.0
    image[:, :4, :10] = torch.tensor([128, 128, 128]) / 255
    with pytest.raises(ValueError) as refusal:
        to_indices(image)
    message = str(refusal.value)
    samples = "(255, 255, 255) and (128, 128, 128)"
    for part in ("label_map", "25%", '"colours"', samples, "Choose the palette"):
        assert part in message


@pytest.mark.parametrize("share, refused", [(0.08, False), (0.12, True)])
def test_far_colors_are_refused_above_a_tenth_of_one_image(share, refused):
    image = to_image(torch.full((3, 10, 50), SKIN))
    image[1].view(-1, 3)[:int(500 * share)] = 1.0
    if refused:
        with pytest.raises(ValueError, match="12%"):
            to_indices(image)
    else:
        to_indices(image)


@pytest.mark.parametrize("saved, read", [
    ("index picture", "colours"), ("colours", "grey indices"), ("index picture", "grey indices"),
    ("colours", "index picture")])
def test_a_map_read_in_a_wrong_palette_is_refused(saved, read):
    indices = torch.arange(1, 19, dtype=torch.uint8).reshape(1, 3, 6)
    with pytest.raises(ValueError, match="Choose the palette"):
        to_indices(image_of(indices, saved, "CelebAMask-HQ"), read)


@pytest.mark.parametrize("image, said", [
    (torch.zeros(0, 8, 8, 3), "batch is empty"), (torch.zeros(8, 8, 3), r"got \(8, 8, 3\)"),
    (torch.zeros(1, 8, 8, 1), r"got \(1, 8, 8, 1\)"), (torch.full((1, 8, 8, 3), float("nan")), "NaN or infinite")])
def test_images_of_a_wrong_kind_are_refused(image, said):
    with pytest.raises(ValueError, match=f"^label_map: .*{said}"):
        to_indices(image)


# Sizes of what masks make

def test_the_size_is_that_of_the_label_map_or_of_the_largest_mask():
    stand_in, hair = torch.zeros(1, 64, 64), torch.ones(1, 40, 30)
    assert find_size([stand_in, torch.ones(1, 1024, 768)]) == (1024, 768)
    assert find_size([torch.ones(512, 256), torch.ones(1, 1, 300, 700)]) == (300, 700)
    assert find_size([stand_in, hair]) == (40, 30) and find_size([stand_in]) == (64, 64)
    assert find_size([stand_in, torch.ones(1, 64, 64), hair]) == (64, 64)
    assert find_size([hair], torch.zeros(2, 512, 500)) == (512, 500)


def test_soft_masks_are_told_from_smooth_edges():
    hard = torch.zeros(1, 64, 64)
    hard[:, 16:48, 16:48] = 1
    edge = hard.clone()
    edge[:, 16, 16:48] = 0.5
    ramp = torch.linspace(0, 1, 64).expand(1, 64, 64)
    for mask in (hard, edge):
        assert find_doubts(mask) == []
    assert find_doubts(ramp) == ["is soft. Its pixels above 0.5 count, all others do not."]


@pytest.mark.parametrize("batch", [(), (2,), (2, 1)])
def test_masks_that_are_empty_or_inverted_are_told(batch):
    face = torch.zeros(*batch, 48, 32)
    face[..., 10:30, 8:24] = 1
    assert find_doubts(face) == []
    inverted, = find_doubts(1 - face)
    assert "covers all corners and most of the image" in inverted and "'Invert Mask'" in inverted
    background = torch.ones(*batch, 48, 32)
    assert find_doubts(background) == [], "a whole image may be one class"
    assert find_doubts(0 * face) == ["is empty. Connect a mask with pixels above 0.5."]
    stand_in, = find_doubts(torch.zeros(*batch, 64, 64))
    assert "'Load Image' gives it for an image without transparency" in stand_in


# Sizes

@given(label_maps(), st.integers(1, 40), st.integers(1, 40))
def test_resizing_takes_the_pixel_under_each_centre(indices, h, w):
    _, height, width = indices.shape
    rows = ((torch.arange(h) + 0.5) * height / h).floor().long()
    columns = ((torch.arange(w) + 0.5) * width / w).floor().long()
    resized = resize_nearest(indices, h, w)
    assert resized.dtype == torch.uint8
    # A centre that falls on a border between two pixels may take either: single precision decides there.
    on_border = ((((torch.arange(h) + 0.5) * height / h) % 1 < 1e-4)[:, None]
                 | (((torch.arange(w) + 0.5) * width / w) % 1 < 1e-4))
    expected = indices[:, rows][:, :, columns]
    assert torch.equal(resized.masked_fill(on_border, 0), expected.masked_fill(on_border, 0))


@given(label_maps(), st.integers(1, 4))
def test_enlarging_and_reducing_by_a_whole_number_is_exact(indices, times):
    _, h, w = indices.shape
    assert torch.equal(resize_nearest(resize_nearest(indices, h * times, w * times), h, w), indices)


# Masks

@given(label_maps(), st.permutations(range(19)))
def test_masks_of_all_classes_rebuild_the_map(indices, classes):
    masks = to_masks(indices, classes)
    assert masks.shape == (len(indices), 19, *indices.shape[1:])
    assert torch.equal(masks.sum(dim=1), torch.ones(indices.shape))
    rebuilt = from_masks([(k, masks[:, i]) for i, k in enumerate(classes)], *indices.shape[1:])
    assert torch.equal(rebuilt, indices)


def test_later_masks_lie_on_top_and_half_is_outside():
    low, high = torch.zeros(1, 4, 4), torch.zeros(4, 4)
    low[:, :3], high[2:] = 1, 0.5
    high[1, 1] = 0.51
    indices = from_masks([(SKIN, low), (HAIR, high)], 4, 4)
    expected = torch.tensor([[SKIN] * 4, [SKIN, HAIR, SKIN, SKIN], [SKIN] * 4, [0] * 4], dtype=torch.uint8)
    assert torch.equal(indices[0], expected)


def test_masks_of_other_sizes_and_batches_meet_on_the_canvas():
    left = torch.zeros(1, 2, 2)
    left[:, :, 0] = 1
    tops = torch.zeros(3, 1, 8, 8)
    tops[1, :, :4] = 1
    indices = from_masks([(SKIN, left), (HAIR, tops)], 4, 6)
    assert indices.shape == (3, 4, 6) and indices.dtype == torch.uint8
    assert torch.equal(indices[0], torch.tensor([SKIN] * 3 + [0] * 3, dtype=torch.uint8).expand(4, 6))
    assert (indices[1, :2] == HAIR).all() and torch.equal(indices[1, 2:], indices[0, 2:])


@pytest.mark.parametrize("masks, said", [
    ([], "no mask"), ([torch.zeros(0, 4, 4)], "mask 1 is empty"),
    ([torch.zeros(4)], r"mask 1 has shape \(4,\)"),
    ([torch.zeros(3, 4, 4), torch.zeros(2, 4, 4)], "mask 2 is a batch of 2, another mask is a batch of 3")])
def test_masks_that_cannot_be_painted_are_refused(masks, said):
    with pytest.raises(ValueError, match=f"^masks: .*{said}"):
        from_masks([(SKIN, mask) for mask in masks], 4, 4)


# Edits

EDITS = {
    "move": lambda y, k: move(y, k, 3, -2), "enlarge": lambda y, k: scale(y, k, 1.7, 1.3),
    "reduce": lambda y, k: scale(y, k, 0.5, 0.4), "grow": lambda y, k: grow(y, k, 2),
    "shrink": lambda y, k: grow(y, k, -2), "remove": remove, "replace": lambda y, k: replace(y, k, HAIR)}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@given(indices=label_maps(), k=st.integers(0, 18))
def test_edits_touch_the_class_alone(edit, indices, k):
    before = indices.clone()
    after = edit(indices, k)
    assert after.shape == indices.shape and after.dtype == torch.uint8
    assert torch.equal(indices, before), "the input was written to"
    untouched = (before != k) & (after != k)
    assert torch.equal(after[untouched], before[untouched])
    for image, edited in zip(before, after):
        new = set(edited.unique().tolist()) - set(image.unique().tolist())
        assert new <= ({0, HAIR} if (image == k).all() else {HAIR})


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_images_of_a_batch_are_edited_apart_and_pass_without_the_class(edit):
    indices = torch.cat([on_skin(), torch.full((1, 40, 40), SKIN, dtype=torch.uint8)])
    after = edit(indices, L_EYE)
    assert torch.equal(after[:1], edit(on_skin(), L_EYE)) and not torch.equal(after[0], indices[0])
    assert torch.equal(after[1], indices[1])


@settings(deadline=None)
@given(st.integers(-12, 12), st.integers(-15, 15))
def test_moving_there_and_back_inside_the_image_restores_the_class(dx, dy):
    there = move(on_skin(), L_EYE, dx, dy)
    assert torch.equal(there == L_EYE, (on_skin() == L_EYE).roll((dy, dx), (1, 2)))
    assert torch.equal(move(there, L_EYE, -dx, -dy), on_skin())


def test_a_part_moved_over_the_border_is_cut():
    after = move(on_skin(), L_EYE, 23, -17)
    assert (after == L_EYE).sum() == 3 * 5 and (after[:, :3, 35:] == L_EYE).all()
    assert torch.equal(move(on_skin(), L_EYE, 40, 0), remove(on_skin(), L_EYE))


def test_given_up_pixels_take_the_nearest_other_class():
    indices = torch.full((1, 10, 20), SKIN, dtype=torch.uint8)
    indices[:, :, 12:] = HAIR
    indices[:, :, 5:15] = NOSE
    after = remove(indices, NOSE)
    assert (after[:, :, :10] == SKIN).all() and (after[:, :, 10:] == HAIR).all()
    assert (remove(torch.full((1, 4, 4), HAIR, dtype=torch.uint8), HAIR) == 0).all()


@settings(deadline=None)
@given(label_maps(), st.integers(0, 18), st.integers(0, 6), st.integers(0, 6))
def test_growing_contains_and_adds_up_to_the_radius(indices, k, small, more):
    before, after = indices == k, grow(indices, k, small) == k
    assert (after >= before).all()
    assert ((grow(indices, k, small + more) == k) >= after).all()
    assert ((grow(indices, k, -small) == k) <= before).all()
    ys, xs = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, indices.shape[1:]), indexing="ij"))
    distance = torch.cdist(torch.stack([ys, xs], 1).double(), torch.stack([ys, xs], 1).double())
    for old, new in zip(before.flatten(1), after.flatten(1)):
        if old.any():
            assert torch.equal(new, distance[:, old].amin(dim=1) <= small + 1e-9)


def test_shrinking_leaves_the_image_border_alone():
    indices = torch.full((1, 20, 20), SKIN, dtype=torch.uint8)
    indices[:, 10:] = CLOTH
    after = grow(indices, CLOTH, -3)
    assert (after[:, 13:] == CLOTH).all() and (after[:, :13] == SKIN).all()
    assert (grow(torch.full((1, 4, 4), HAIR, dtype=torch.uint8), HAIR, -9) == HAIR).all()


@given(label_maps(), st.integers(0, 18))
def test_edits_by_nothing_change_nothing(indices, k):
    same = move(indices, k, 0, 0), scale(indices, k, 1, 1), grow(indices, k, 0), replace(indices, k, k)
    assert all(torch.equal(edited, indices) for edited in same)


def test_scaling_keeps_the_centre_and_multiplies_the_sides():
    after = scale(on_skin(), L_EYE, 2, 3)[0] == L_EYE
    rows, columns = after.any(1).nonzero()[:, 0], after.any(0).nonzero()[:, 0]
    assert (rows[0].item(), rows[-1].item()) == (10, 24)
    assert (columns[0].item(), columns[-1].item()) == (7, 26)
    assert after.sum() == 15 * 20


def test_scaling_past_the_border_is_cut():
    assert (scale(on_skin(), L_EYE, 20, 20) == L_EYE).all()
    corner = torch.zeros(1, 9, 9, dtype=torch.uint8)
    corner[:, :3, :3] = SKIN
    after = scale(corner, SKIN, 2, 1)[0] == SKIN
    assert after[:3, :4].all() and after.sum() == 12
