"""Values that links bring, of any type and size: each is refused at once, by the name of its input."""
import json
import time

import pytest
import torch

from mditface.mdit.dynast.pose import from_keypoints
from mditface.mdit.interactdiffusion.text import LONGEST, parse_interactions
from mditface.mdit.labelmap import find_classes
from mditface.mdit.parsing.tilt import find_tilts
from mditface.mdit.pt_dit.config import PTDiTSettings
from mditface.mdit.shared.boxes import read_boxes
from mditface.nodes import (
    adapter, parsing)
from mditface.tests.parsing import weights

BOX = "[0, 0, 1, 1]"
UNIT = [0, 0, 1, 1]
WORDS = {"subject": "a", "action": "b", "object": "c"}
NAN = float("nan")
IMAGE = torch.zeros(1, 8, 8, 3)
TEXT = [[torch.ones(1), {}]]


def pose(points, **canvas):
    frame = {"canvas_width": 64, "canvas_height": 64, "people": [{"pose_keypoints_2d": points}], **canvas}
    return lambda: from_keypoints([frame], 64)


def landmarks(**changes):
    face = {"image_size": [64, 64], "frames": [[{"landmarks_xy": [[1, 2]] * 468}]], **changes}
    return lambda: parsing.LabelMapFromLandmarks.execute(face)


def boxes(value, units="auto"):
    return lambda: read_boxes(value, (64, 64), "bboxes", units)


def interactions(text):
    return lambda: parse_interactions(text)


REFUSED = {
    "spaces before a bracket": (interactions("a" + " " * (LONGEST - 20) + "[ = x = y"), "text: .* brackets in the"),
    "a long text": (interactions("a" * (LONGEST + 1)), "text: it has 100001 letters"),
    "many fences": (interactions("```" + "a" * (LONGEST - 5)), "text: .* has 1 parts"),
    "deep JSON": (interactions("[" * LONGEST), "text: it begins like JSON"),
    "a large number": (interactions(json.dumps([{**WORDS, "subject_box": [0, 0, 10 ** 400, 1], "object_box": UNIT}])),
                       "text: interaction 1 must be"),
    "a box of many numbers": (interactions(f"a [{'1 ' * 40_000}] = b = c {BOX}"), "text: .* is not a box"),
    "many classes": (lambda: find_classes("hair," * 10_000), "classes: the list has 10000 names"),
    "a far point": (pose([1e6, 5, 1] * 2 + [5, 5, 1] * 16), "keypoints: .* more than 10 images away"),
    "a tiny canvas": (pose([5, 5, 1] * 18, canvas_width=1e-9), "keypoints: .* no canvas_width"),
    "a canvas of text": (pose([5, 5, 1] * 18, canvas_width="wide"), "keypoints: .* not numbers"),
    "points of text": (pose(["x"] * 54), "keypoints: .* not numbers"),
    "people of numbers": (lambda: from_keypoints([{"people": [5]}], 64), "keypoints: .* no list of people"),
    "no frames": (lambda: from_keypoints(7, 64), "keypoints: .* another form"),
    "a box of text": (boxes([{"x": "1", "y": 2, "width": 3, "height": 4}]), "bboxes: .* is not a box"),
    "a box without end": (boxes([[0, 0, 10 ** 9, 10 ** 9]], "pixels"), "bboxes: .* lies outside"),
    "a box of a large number": (boxes([[0, 0, 10 ** 400, 1]]), "bboxes: .* is not a box"),
    "landmarks of few points": (landmarks(frames=[[{"landmarks_xy": [[1, 2]]}]]), "face_landmarks: .* 468 vertices"),
    "landmarks far away": (landmarks(frames=[[{"landmarks_xy": [[1e9, 2]] * 468}]]), "face_landmarks: .* far away"),
    "landmarks of no image": (landmarks(frames=[]), "face_landmarks: .* 0 images"),
    "landmarks of a huge image": (landmarks(image_size=[10 ** 6, 10 ** 6]), "face_landmarks: .* 1000000 x 1000000"),
    "landmarks of an image": (lambda: parsing.LabelMapFromLandmarks.execute(IMAGE), "face_landmarks: .* another form"),
    "landmarks of text": (landmarks(image_size="ab"), "face_landmarks: .* another form"),
    "a tilt without faces": (lambda: find_tilts({"frames": 5}, [[]], (64, 64)), "tilt: .* another form"),
    "a wide window": (lambda: PTDiTSettings((1, 10 ** 9, 8)), "window: .* each side has 1 to 1024"),
    "a condition's side": (lambda: adapter.ApplyAdapter.execute(None, None, 1.0, 17), "condition_size: 17 pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    start = time.process_time()
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        call()
    assert time.process_time() - start < 1
    assert len(str(caught.value)) < 500


def test_what_is_far_but_real_is_read():
    assert pose([-60, 600, 1] * 2 + [5, 5, 1] * 16)().size == 64
    assert boxes([[-100, -100, 200, 200]], "pixels")()[0][0]["width"] == 300
    known = weights.known_face()
    assert landmarks(image_size=known["image_size"], frames=[[{"landmarks_xy": known["landmarks"]}]])()
