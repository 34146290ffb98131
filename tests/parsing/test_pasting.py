"""Faces pasted into images: borders, neighbours, masks and alpha."""
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mditface.mdit.parsing import pasting, region
from mditface.mdit.parsing.pasting import Patch
from mditface.mdit.parsing.region import Region
from mditface.nodes.parsing import CropFace, PasteFace
from mditface.tests.parsing.test_region import numbered, regions, sizes


def paint(value: float, square: Region, feather: float, size: tuple[int, int]) -> Patch:
    colors = torch.full((square.height, square.width, 3), value)
    return pasting.make_patch(colors, square, size, feather, smooth=True)


@given(regions, sizes)
def test_what_was_cut_goes_back_where_it_was(place, size):
    image = numbered(*size).expand(-1, -1, 3).contiguous()
    restored = torch.full_like(image, -1)
    pasting.paste(restored, [pasting.make_patch(region.crop(image, place), place, size, 0, smooth=True)], 0)
    inside = torch.zeros(size, dtype=torch.bool)
    inside[max(0, place.y):max(0, place.y + place.height), max(0, place.x):max(0, place.x + place.width)] = True
    assert torch.equal(restored[inside], image[inside]) and (restored[~inside] == -1).all()


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 0.5))
def test_feathers_fall_to_the_edges(width, height, part):
    alpha = pasting.make_feather(Region(1, 1, width, height), part, height + 2, width + 2)
    assert alpha.shape == (height, width) and 0 < alpha.min() and alpha.max() <= 1
    assert torch.equal(alpha, alpha.flip(0)) and torch.equal(alpha, alpha.flip(1))
    assert (alpha.diff(dim=0)[:height // 2] >= 0).all() and (alpha.diff(dim=1)[:, :width // 2] >= 0).all()
    assert part > 0 or (alpha == 1).all()


@pytest.mark.parametrize("square, fading", [
    (Region(0, 4, 8, 8), "top bottom right"), (Region(-3, -3, 8, 8), "bottom right"),
    (Region(8, 8, 8, 8), "top left"), (Region(9, 4, 8, 8), "top left bottom"), (Region(0, 0, 16, 16), ""),
    (Region(1, 1, 14, 14), "top bottom left right")])
def test_sides_at_or_beyond_the_border_do_not_fade(square, fading):
    alpha = pasting.make_feather(square, 0.25, 16, 16)
    middle = square.height // 2
    ends = dict(top=alpha[0, middle], bottom=alpha[-1, middle], left=alpha[middle, 0], right=alpha[middle, -1])
    assert {side for side, value in ends.items() if value < 1} == set(fading.split())


def test_a_face_as_large_as_its_picture_leaves_no_frame():
    portrait = torch.zeros(1, 512, 512, 3)
    face = dict(x=126, y=120, width=260, height=260)
    faces, squares, *_ = CropFace.execute(portrait, bboxes=face, context=0.6).args
    pasted, = PasteFace.execute(portrait, torch.ones_like(faces), squares, 0.1).args
    assert (pasted == 1).all()


@pytest.mark.parametrize("feather", [0.0, 0.1])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_each_face_keeps_its_own_box_against_the_squares_of_its_neighbours(order, feather):
    boxes = [dict(x=30, y=40, width=30, height=40), dict(x=75, y=42, width=24, height=32)]
    picture = torch.zeros(1, 120, 160, 3)
    _, squares, *_ = CropFace.execute(picture, -1, 0.6, 64, [[boxes[i] for i in order]]).args
    assert squares[0][0]["x"] < boxes[1]["x"] + boxes[1]["width"], "the larger face comes first"
    faces = torch.stack([torch.full((8, 8, 3), value) for value in (0.4, 0.8)])
    pasted, = PasteFace.execute(picture, faces, squares, feather).args
    for value, box in zip((0.4, 0.8), boxes):
        own = pasted[0, box["y"]:box["y"] + box["height"], box["x"]:box["x"] + box["width"]]
        torch.testing.assert_close(own, torch.full_like(own, value))


tilted = st.builds(Region, st.integers(-30, 30), st.integers(-30, 30), st.integers(1, 40), st.integers(1, 40),
                   st.sampled_from((0.0, 33.0, -90.0)))


@given(st.lists(tilted, min_size=1, max_size=4), st.sampled_from((0.0, 0.1, 0.5)))
def test_the_image_shines_through_no_seam(places, seam):
    size = (40, 40)
    image = torch.zeros(*size, 3)
    pasting.paste(image, [paint(1.0, place, 0, size) for place in places], seam)
    covered = torch.zeros(size, dtype=torch.bool)
    for place in places:
        x, y = region.locate_in(place, Region(0, 0, 40, 40))
        covered |= (x > 0.499) & (x < place.width - 0.499) & (y > 0.499) & (y < place.height - 0.499)
    torch.testing.assert_close(image[covered], torch.ones_like(image[covered]), atol=0.003, rtol=0)
    assert image.max() <= 1.0001


def test_seams_are_soft_for_faces_and_hard_for_label_maps():
    places = [dict(x=2, y=2, width=20, height=20), dict(x=12, y=2, width=20, height=20)]
    faces = torch.stack([torch.full((4, 4, 3), value) for value in (0.25, 0.75)])
    soft, hard = (PasteFace.execute(torch.zeros(1, 24, 40, 3), faces, places, 0.2, label_map).args[0]
                  for label_map in (False, True))
    assert set(hard.unique().tolist()) == {0, 0.25, 0.75}
    assert hard[0, 10, 16, 0] == 0.25 and hard[0, 10, 17, 0] == 0.75, "halfway between the middles"
    row = soft[0, 12, 10:24, 0]
    assert (row.diff() >= 0).all() and row.diff().max() < 0.3 and len(row.unique()) > 3


def test_a_face_is_pasted_in_the_shape_of_its_mask():
    picture = torch.zeros(1, 40, 40, 3)
    places = [dict(x=4, y=4, width=32, height=32)]
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:12, 4:12] = 1  # pixels 12 to 28
    white = torch.ones(1, 8, 8, 3)
    hard, = PasteFace.execute(picture, white, places, 0.25, True, mask).args
    assert hard[0, 12:28, 12:28].eq(1).all() and hard.sum() == 3 * 16 ** 2
    soft, = PasteFace.execute(picture, white, places, 0.25, False, mask).args
    across = soft[0, 20, :, 0]
    assert across[20] == 1 and not across[:7].any() and 0.3 < across[12] < 0.7
    assert (across[:20].diff() >= 0).all()


def test_a_pixel_outside_of_its_own_mask_takes_the_neighbours_face():
    places = [dict(x=0, y=0, width=16, height=16)] * 2
    left = torch.zeros(16, 16)
    left[:, :8] = 1
    faces = torch.stack([torch.full((4, 4, 3), value) for value in (0.25, 0.75)])
    mask = torch.stack([left, 1 - left])
    pasted, = PasteFace.execute(torch.zeros(1, 16, 16, 3), faces, places, 0.0, False, mask).args
    assert (pasted[0, :, :8] == 0.25).all() and (pasted[0, :, 8:] == 0.75).all()


@pytest.mark.parametrize("count, said", [(3, "mask: there are 3 masks for 2 faces")])
def test_masks_of_other_faces_are_refused(count, said):
    places = [dict(x=0, y=0, width=16, height=16)] * 2
    with pytest.raises(ValueError, match=said):
        PasteFace.execute(torch.zeros(1, 16, 16, 3), torch.ones(2, 4, 4, 3), places, mask=torch.ones(count, 4, 4))


@pytest.mark.parametrize("channels", [3, 4])
def test_the_alpha_of_an_image_stays(channels):
    image = torch.rand(1, 24, 24, 4)
    faces, places, *_ = CropFace.execute(image, bboxes=dict(x=8, y=8, width=8, height=8), context=0.0, size=64).args
    assert faces.shape[-1] == 4
    pasted, = PasteFace.execute(image, torch.ones_like(faces)[..., :channels], places, 0.0).args
    assert torch.equal(pasted[..., 3], image[..., 3]) and (pasted[0, 8:16, 8:16, :3] == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_images_keep_their_type(dtype):
    places = [dict(x=2, y=2, width=9, height=9)]
    pasted, = PasteFace.execute(torch.zeros(1, 16, 16, 3, dtype=dtype), torch.ones(1, 4, 4, 3), places, 0.1).args
    assert pasted.dtype == dtype and pasted[0, 6, 6, 0] == 1


def test_large_faces_keep_their_pixels():
    picture = torch.rand(1, 200, 200, 3)
    place = dict(x=20, y=20, width=100, height=100)
    small, _, report, _ = CropFace.execute(picture, 0, 0.0, 64, place).args
    assert small.shape[1:3] == (64, 64) and "100 to 64 pixels, 64% of the resolution is left" in report
    kept, _, report, _ = CropFace.execute(picture, 0, 0.0, 64, place, None, True).args
    assert kept.shape[1:3] == (104, 104) and report == "image 0, face 0: 100 to 104 pixels"
