"""Rectangles of images."""
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mditface.mdit.parsing import region
from mditface.mdit.parsing.region import Region

BOX = dict(x=10.0, y=20.0, width=8.0, height=4.0)
SMALL = dict(x=0, y=0, width=2, height=2)

regions = st.builds(Region, st.integers(-30, 30), st.integers(-30, 30), st.integers(1, 40), st.integers(1, 40))
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


@pytest.mark.parametrize("bboxes, expected", [
    (BOX, [[BOX], [BOX]]), ([BOX, SMALL], [[BOX, SMALL]] * 2), ([[BOX], []], [[BOX], []]), ([], [[], []]),
    ([[BOX, SMALL]], [[BOX, SMALL]] * 2)])
def test_boxes_come_in_every_form_of_the_hosts(bboxes, expected):
    assert region.list_boxes(bboxes, 2, "bboxes") == expected


def test_boxes_of_other_images_are_refused():
    with pytest.raises(ValueError, match="regions: the boxes are of 3 images, but there are 2"):
        region.list_boxes([[BOX]] * 3, 2, "regions")


def test_faces_count_from_the_largest():
    assert region.choose_boxes([SMALL, BOX], 0, 0) == [BOX] and region.choose_boxes([SMALL, BOX], 1, 0) == [SMALL]
    assert region.choose_boxes([SMALL, BOX], -1, 0) == [BOX, SMALL] and region.choose_boxes([], -1, 0) == []
    with pytest.raises(ValueError, match=r"index: face 2 does not exist, image 5 has 2 faces \(the first is 0\)"):
        region.choose_boxes([SMALL, BOX], 2, 5)


def test_the_box_of_a_mask_holds_its_pixels():
    mask = torch.zeros(1, 9, 9)
    mask[0, 2:5, 3:8] = 0.6
    assert region.find_boxes(mask, 9, 9) == [[dict(x=3, y=2, width=5, height=3)]]
    assert region.find_boxes(mask[0], 18, 27) == [[dict(x=9, y=4, width=15, height=6)]]
    with pytest.raises(ValueError, match="mask: a mask of the batch is empty"):
        region.find_boxes(torch.cat([mask, mask * 0]), 9, 9)


def test_crops_name_the_resolution_that_is_lost():
    squares = [[Region(0, 0, 1000, 1000), Region(0, 0, 100, 100)], [Region(0, 0, 512, 512)]]
    assert region.find_side(squares, 512, 4096) == 1000 and region.find_side(squares, 512, 800) == 800
    assert region.find_side([[Region(0, 0, 515, 515)]], 512, 4096) == 520
    assert region.describe_crops(squares, 512).splitlines() == [
        "image 0, face 0: 1000 to 512 pixels, 51% of the resolution is left: raise 'size' or switch on 'keep_pixels'",
        "image 0, face 1: 100 to 512 pixels", "image 1, face 0: 512 to 512 pixels"]
