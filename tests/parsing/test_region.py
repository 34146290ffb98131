"""Rectangles of images."""
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mditface.mdit.parsing import region
from mditface.mdit.parsing.region import Region

BOX = dict(x=10.0, y=20.0, width=8.0, height=4.0)
SMALL = dict(x=0, y=0, width=2, height=2)

regions = st.builds(Region, st.integers(-30, 30), st.integers(-30, 30), st.integers(1, 40), st.integers(1, 40),
                    st.just(0.0))
sizes = st.tuples(st.integers(1, 24), st.integers(1, 24))


def numbered(h: int, w: int) -> torch.Tensor:
    return torch.arange(h * w, dtype=torch.float32).reshape(h, w, 1)


@given(regions, sizes)
def test_a_cut_continues_the_edges(place, size):
    image = numbered(*size)
    found = region.crop(image, place)
    assert found.shape == (place.height, place.width, 1)
    for row, column in ((0, 0), (place.height - 1, place.width - 1)):
        y, x = (min(max(at, 0), n - 1) for at, n in zip((place.y + row, place.x + column), size))
        assert found[row, column] == image[y, x]


def test_a_square_stands_about_the_boxs_middle():
    assert region.expand_to_square(BOX, 0) == Region(10, 18, 8, 8)
    assert region.expand_to_square(BOX, 0.5) == Region(6, 14, 16, 16)
    assert region.expand_to_square(dict(x=3, y=3, width=0, height=0), 0.5).width == 1


def test_faces_count_from_the_largest_or_from_the_left():
    right = dict(x=40, y=0, width=3, height=3)
    images = [[SMALL, right, BOX], []]
    assert region.choose_faces(images, -1) == [[BOX, right, SMALL], []]
    assert region.choose_faces(images, -1, "left to right") == [[SMALL, BOX, right], []]
    assert region.choose_faces(images, -1, "as connected") == images
    assert region.choose_faces(images, 1, "left to right", passes=True) == [[BOX], []]
    assert region.choose_faces([[], []], 0, passes=True) == [[], []]
    with pytest.raises(ValueError, match=r"index: face 2 does not exist, image 1 has 2 faces \(the first is 0\)"):
        region.choose_faces([[SMALL, BOX, right], [SMALL, BOX]], 2)


def test_the_box_of_a_mask_holds_its_pixels():
    mask = torch.zeros(1, 9, 9)
    mask[0, 2:5, 3:8] = 0.6
    assert region.find_boxes(mask, 9, 9) == [[dict(x=3, y=2, width=5, height=3)]]
    assert region.find_boxes(mask[0], 18, 27) == [[dict(x=9, y=4, width=15, height=6)]]
    assert list(map(len, region.find_boxes(torch.cat([mask, mask * 0]).half(), 9, 9))) == [1, 0]


def test_crops_name_the_resolution_that_is_lost():
    squares = [[Region(0, 0, 1000, 1000), Region(0, 0, 100, 100)], [Region(0, 0, 512, 512)]]
    assert region.find_side(squares, 512, 4096) == 1000 and region.find_side(squares, 512, 800) == 800
    assert region.find_side([[Region(0, 0, 515, 515)]], 512, 4096) == 520
    assert region.describe_crops(squares, 512) == [
        "image 0, face 0: 1000 to 512 pixels, 51% of the resolution is left: raise 'size' or switch on 'keep_pixels'",
        "image 0, face 1: 100 to 512 pixels", "image 1, face 0: 512 to 512 pixels"]
