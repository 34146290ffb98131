"""Boxes of every form and unit, and the way to SEGS and lists of corners."""
from collections import namedtuple

import numpy as np
import pytest
import torch

from mditface.mdit.shared.boxes import read_boxes
from mditface.nodes.parsing import ConvertBoxes, CropFace

SEG = namedtuple("SEG", "cropped_image cropped_mask confidence crop_region bbox label control_net_wrapper",
                 defaults=[None])  # as in the Impact Pack
SIZE = (200, 100)
IMAGE = torch.rand(1, 100, 200, 3)
BOX = dict(x=20.0, y=10.0, width=40.0, height=30.0)
CORNERS = [20, 10, 60, 40]


def segs(*corners, shape=(100, 200), label="face", confidence=0.75):
    return shape, [SEG(None, np.ones((4, 4), np.float32), confidence, [0, 0, 99, 99], box, label) for box in corners]


@pytest.mark.parametrize("value", [
    BOX, [BOX], [[BOX]], CORNERS, tuple(CORNERS), [CORNERS], [tuple(CORNERS)], [[CORNERS]], np.array(CORNERS),
    np.array([CORNERS]), torch.tensor([CORNERS]), torch.tensor([[CORNERS]]), [np.array(CORNERS, np.float32)],
    {name: torch.tensor(side) for name, side in BOX.items()}])
def test_boxes_are_read_in_every_form(value):
    assert read_boxes(value, SIZE, "bboxes") == [[BOX]]


@pytest.mark.parametrize("value", [
    [*CORNERS, 0.5, 3], [[*CORNERS, 0.5, 3]], np.array([[*CORNERS, 0.5, 3]]), torch.tensor([[*CORNERS, 0.5, 3.0]])])
def test_detectors_put_score_and_class_behind_the_corners(value):
    assert read_boxes(value, SIZE, "bboxes") == [[{**BOX, "score": 0.5, "label": "3"}]]
    assert read_boxes([[*CORNERS, 0.5]] * 2, SIZE, "bboxes") == [[{**BOX, "score": 0.5}] * 2]


@pytest.mark.parametrize("value, count", [
    (None, [0]), ([], [0]), ([[], []], [0, 0]), ([[], [CORNERS]], [0, 1]), (np.zeros((0, 4)), [0]), (((0, 0), []), [0]),
    ([[BOX, BOX], [BOX]], [2, 1]), ([CORNERS] * 3, [3])])
def test_boxes_of_several_images(value, count):
    assert list(map(len, read_boxes(value, SIZE, "bboxes"))) == count


@pytest.mark.parametrize("corners", [CORNERS, tuple(CORNERS), np.array(CORNERS, np.float32), torch.tensor(CORNERS)])
@pytest.mark.parametrize("confidence", [0.75, np.float32(0.75), np.array(0.75), torch.tensor(0.75), None])
def test_segs_keep_class_name_and_score(corners, confidence):
    score = {} if confidence is None else {"score": 0.75}
    assert read_boxes(segs(corners, confidence=confidence), SIZE, "bboxes") == [[{**BOX, "label": "face", **score}]]


def test_segs_of_another_size_are_scaled():
    [[found]] = read_boxes(segs([40, 20, 120, 80], shape=(200, 400)), SIZE, "bboxes")
    assert {field: found[field] for field in BOX} == BOX


@pytest.mark.parametrize("value, units", [
    ([100, 100, 300, 400], "thousandths"), ([0.1, 0.1, 0.3, 0.4], "fractions"), ([0.1, 0.1, 0.3, 0.4], "auto"),
    (CORNERS, "pixels"), (CORNERS, "auto"), (dict(x=100, y=100, width=200, height=300), "thousandths")])
def test_units(value, units):
    [[found]] = read_boxes(value, SIZE, "bboxes", units)
    assert found == pytest.approx(BOX)


def test_one_small_box_among_large_ones_is_in_pixels():
    assert read_boxes([[0, 0, 1, 1], CORNERS], SIZE, "bboxes")[0][0] == dict(x=0, y=0, width=1, height=1)


def test_fractions_may_reach_beyond_the_image():
    [[found]] = read_boxes(dict(x=-0.1, y=0.5, width=1.15, height=0.6), SIZE, "bboxes")
    assert found == pytest.approx(dict(x=-20, y=50, width=230, height=60))


@pytest.mark.parametrize("value, units, said", [
    ([[10, 10, 50, 50], [150, 48, 334, 79]], "auto", "x 150, y 48.*outside of the image of 200 x 100 pixels.*'units'"),
    ([100, 60, 180, 150], "auto", "outside"), ([300, 60, 380, 90], "pixels", "outside"),
    ([0.4, 1.2, 0.6, 1.5], "fractions", "outside"),
    ([60, 40, 20, 10], "auto", "negative size"), ([1, 2, 3], "auto", "is not a box"), ("face", "auto", "is not a box"),
    ([[1, 2, 3, "x"]], "auto", "is not a box"), (7, "auto", "is not a box"),
    ([1, 2, 3, float("nan")], "auto", "finite")])
def test_wrong_boxes_are_refused(value, units, said):
    with pytest.raises(ValueError, match=f"bboxes: .*{said}"):
        read_boxes(value, SIZE, "bboxes", units)


def test_boxes_of_any_form_crop_the_same_face():
    expected = CropFace.execute(IMAGE, 0, 0.2, 64, BOX).args
    for value in (CORNERS, [[CORNERS]], segs(CORNERS), np.array([CORNERS])):
        faces, regions, *_ = CropFace.execute(IMAGE, 0, 0.2, 64, value).args
        assert torch.equal(faces, expected[0]) and regions == expected[1]
    thousandths = CropFace.execute(IMAGE, 0, 0.2, 64, [100, 100, 300, 400], units="thousandths").args
    assert thousandths[1] == expected[1]


def test_boxes_become_segs_and_corners_and_come_back():
    hand = {**BOX, "x": 150.0, "width": 70.0, "label": "hand", "score": 0.5}
    face = {**BOX, "label": "face", "score": 0.75}
    bboxes, found, corners = ConvertBoxes.execute(IMAGE, [hand, face], order="left to right", context=0.5).args
    assert bboxes == [[face, hand]] and corners == [[20, 10, 60, 40], [150, 10, 220, 40]]
    [(shape, segments)] = found
    assert shape == (100, 200) and [segment.label for segment in segments] == ["face", "hand"]
    assert segments[0].crop_region == [0, 0, 80, 55] and segments[1].crop_region == [115, 0, 200, 55]
    for segment, (x0, y0, x1, y1) in zip(segments, ([20, 10, 60, 40], [150, 10, 200, 40])):
        left, top, right, bottom = segment.crop_region
        assert np.array_equal(segment.cropped_image, IMAGE[:, top:bottom, left:right].numpy())
        canvas = np.zeros((100, 200), np.float32)
        canvas[top:bottom, left:right] = segment.cropped_mask
        assert canvas.sum() == (y1 - y0) * (x1 - x0) and canvas[y0:y1, x0:x1].all()
        assert segment.cropped_mask.dtype == np.float32 and segment.control_net_wrapper is None
    assert ConvertBoxes.execute(IMAGE, found[0], order="left to right").args[0] == bboxes
    assert ConvertBoxes.execute(IMAGE, corners, order="left to right").args[2] == corners


def test_each_image_of_a_batch_has_its_boxes():
    bboxes, found, corners = ConvertBoxes.execute(IMAGE.expand(2, -1, -1, -1), [[BOX], []]).args
    assert bboxes == [[BOX], []] and corners == [[CORNERS], []]
    assert [len(segments) for _, segments in found] == [1, 0]
    with pytest.raises(ValueError, match="boxes: it is for 2 images, but there are 3"):
        ConvertBoxes.execute(IMAGE.expand(3, -1, -1, -1), [[BOX], []])
