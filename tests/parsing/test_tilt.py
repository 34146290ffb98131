"""Tilted faces: the angle from their eyes, the upright crop, and the way back."""
import math

import numpy as np
import pytest
import torch

from mditface.mdit.labelmap import PALETTE, find_class, to_image, to_indices
from mditface.mdit.labelmap.landmarks import OUTLINES
from mditface.mdit.parsing import region, tilt
from mditface.mdit.parsing.region import Region
from mditface.nodes.parsing import CropFace, PasteFace

ANGLES = (0, 20, -60, 90, 150, 180)
SIZE = 160
BOX = dict(x=40, y=50, width=60, height=60)
MIDDLE = np.array([70.0, 80.0])


def turn(offset, angle: float) -> np.ndarray:
    """The place in the picture of an offset from the middle of the face, which is turned clockwise."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return MIDDLE + np.array([c * offset[0] - s * offset[1], s * offset[0] + c * offset[1]])


def waves(angle: float) -> torch.Tensor:
    """A picture (SIZE, SIZE, 3) of smooth colors that are turned about the face's middle."""
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    across, down = columns - MIDDLE[0], rows - MIDDLE[1]
    u, v = across * c + down * s, down * c - across * s
    channels = [0.5 + 0.4 * np.sin(u / 9), 0.5 + 0.4 * np.sin(v / 7 + 1), 0.5 + 0.004 * u]
    return torch.from_numpy(np.stack(channels, -1).clip(0, 1)).float()


def landmarks(angle: float, scale: float = 1.0) -> dict:
    mesh = np.full((478, 2), 5.0)
    for name, offset in (("r_eye", (-12, -8)), ("l_eye", (12, -8))):
        mesh[list(OUTLINES[name])] = turn(offset, angle) * scale
    side = int(SIZE * scale)
    return {"frames": [[{"landmarks_xy": mesh + 300}, {"landmarks_xy": mesh}]], "image_size": (side, side)}


def key_points(angle: float) -> dict:
    points = np.zeros((18, 3))
    points[[14, 15]] = [[*turn((-12, -8), angle), 0.9], [*turn((12, -8), angle), 0.9]]
    people = [{}, {"pose_keypoints_2d": [0.0] * 54}, {"pose_keypoints_2d": points.reshape(-1).tolist()}]
    return {"canvas_width": SIZE, "canvas_height": SIZE, "people": people}


def label_map(angle: float, places: dict) -> torch.Tensor:
    labels = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    for name, offset in places.items():
        x, y = (int(round(at - 0.5)) for at in turn(offset, angle))
        labels[0, y - 2:y + 3, x - 2:x + 3] = find_class(name)
    return to_image(labels)


FACE = {"r_eye": (-14, -8), "l_eye": (14, -8), "u_lip": (0, 18)}
SWAPPED = {"l_eye": (-14, -8), "r_eye": (14, -8), "mouth": (0, 18)}
BROWS = {"r_brow": (-14, -8), "l_brow": (14, -8), "r_eye": (-14, 0)}


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("source, tolerance", [
    (landmarks, 0.01), (lambda angle: landmarks(angle, 0.5), 0.01), (key_points, 0.01),
    (lambda angle: label_map(angle, FACE), 2.5), (lambda angle: label_map(angle, SWAPPED), 2.5),
    (lambda angle: label_map(angle, BROWS), 2.5)],
    ids=["mesh", "smaller mesh", "key points", "labels", "swapped", "brows"])
def test_eyes_tell_the_tilt(source, tolerance, angle):
    [[found]] = tilt.find_tilts(source(angle), [[BOX]], (SIZE, SIZE))
    assert abs((found - angle + 180) % 360 - 180) <= tolerance


@pytest.mark.parametrize("source", [
    landmarks(20), key_points(20), label_map(20, FACE), label_map(20, {"r_eye": (0, 0)})])
def test_boxes_without_eyes_have_no_tilt(source):
    assert tilt.find_tilts(source, [[dict(x=120, y=120, width=30, height=30)], []], (SIZE, SIZE)) == [[None], []]


def test_a_source_of_other_images_is_refused():
    for source in (landmarks(0), key_points(0), label_map(0, FACE)):
        assert len(tilt.find_tilts(source, [[BOX]] * 3, (SIZE, SIZE))) == 3
    with pytest.raises(ValueError, match="tilt: it shows 2 images, but there are 3"):
        tilt.find_tilts([key_points(0)] * 2, [[BOX]] * 3, (SIZE, SIZE))
    with pytest.raises(ValueError, match="tilt: the frames have another form"):
        tilt.find_tilts(["person"], [[BOX]], (SIZE, SIZE))
    with pytest.raises(ValueError, match="^tilt: expected images of shape"):
        tilt.find_tilts(torch.zeros(8, 8, 3), [[BOX]], (SIZE, SIZE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("angle", ANGLES)
def test_a_tilted_face_is_set_upright_and_put_back(angle, dtype):
    picture = torch.cat([waves(angle), torch.rand(SIZE, SIZE, 1)], -1)[None].to(dtype)
    faces, regions, report, _ = CropFace.execute(picture, 0, 0.1, 72, BOX, tilt=landmarks(angle)).args
    assert faces.dtype == dtype and regions[0][0].get("tilt", 0) == angle % 360 - 360 * (angle % 360 > 180)
    expected = region.crop(waves(0), Region(34, 44, 72, 72))
    torch.testing.assert_close(faces[0, ..., :3].float(), expected, atol=0.01, rtol=0)
    back, = PasteFace.execute(picture, faces, regions, 0.1).args
    assert back.dtype == dtype and torch.equal(back[..., 3], picture[..., 3])
    torch.testing.assert_close(back, picture, atol=0.02, rtol=0)
    assert (f"turned by {angle} degrees" in report) == (angle != 0)


def test_without_tilt_nothing_changes():
    picture = torch.rand(1, SIZE, SIZE, 3)
    plain = CropFace.execute(picture, 0, 0.3, 64, BOX).args
    level = CropFace.execute(picture, 0, 0.3, 64, BOX, tilt=landmarks(0)).args
    eyeless = CropFace.execute(picture, 0, 0.3, 64, BOX, tilt=label_map(0, {})).args
    assert torch.equal(plain[0], level[0]) and torch.equal(plain[0], eyeless[0])
    assert plain[1:3] == level[1:3] and plain[1] == eyeless[1] == [[dict(x=22, y=32, width=96, height=96)]]
    assert eyeless[2].splitlines()[1] == "image 0, face 0: no eyes found, so it is not set upright"


def inside(place: dict, size: int, margin: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels well inside of and well outside of a turned square."""
    square = Region.of_box(place)
    x, y = region.locate_in(square, Region(0, 0, size, size))
    depth = torch.stack([x, square.width - x, y, square.height - y]).amin(0)
    return depth > margin, depth < -margin


def test_a_hard_border_lies_along_the_turned_square():
    place = dict(x=40, y=50, width=60, height=60, tilt=30.0)
    for label_map_mode in (False, True):
        pasted, = PasteFace.execute(torch.zeros(1, SIZE, SIZE, 3), torch.ones(1, 8, 8, 3), [[place]], 0.0,
                                    label_map_mode).args
        within, without = inside(place, SIZE)
        assert (pasted[0][within] == 1).all() and not pasted[0][without].any()
    assert set(pasted.unique().tolist()) == {0, 1}, "label maps have no mixed colors"


@pytest.mark.parametrize("angle", [0.001, 15.0, 45.0, -100.0])
def test_sides_outside_of_the_image_do_not_fade(angle):
    """The square reaches beyond the image on all sides, so nothing of the old image shows."""
    place = dict(x=-60, y=-60, width=220, height=220, tilt=angle)
    pasted, = PasteFace.execute(torch.zeros(1, 100, 100, 3), torch.ones(1, 8, 8, 3), [[place]], 0.5).args
    torch.testing.assert_close(pasted, torch.ones_like(pasted))


def test_a_hardly_turned_square_fades_as_one_that_is_not():
    for x, y in ((-20, 30), (30, 30), (60, 70), (-30, -40)):
        place = dict(x=x, y=y, width=60, height=60)
        plain, turned = (PasteFace.execute(torch.zeros(1, 100, 100, 3), torch.ones(1, 8, 8, 3), [[box]], 0.2).args[0]
                         for box in (place, {**place, "tilt": 0.001}))
        torch.testing.assert_close(turned, plain, atol=0.01, rtol=0)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_tilted_neighbours_keep_their_own_faces(order):
    places = [dict(x=20, y=30, width=70, height=70, tilt=25.0), dict(x=70, y=40, width=60, height=60, tilt=-60.0)]
    faces = torch.stack([torch.full((8, 8, 3), value) for value in (0.4, 0.8)])
    pasted, = PasteFace.execute(torch.zeros(1, SIZE, SIZE, 3), faces[list(order)], [[places[i] for i in order]],
                                0.1).args
    for value, place in zip((0.4, 0.8), places):
        middle = Region.of_box(place).middle
        x, y = map(round, middle)
        own = pasted[0, y - 12:y + 12, x - 12:x + 12]
        torch.testing.assert_close(own, torch.full_like(own, value))


def test_a_tilted_face_is_pasted_in_the_shape_of_its_mask():
    place = dict(x=40, y=40, width=80, height=80, tilt=90.0)
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1  # the upper half, which points to the right in the picture
    pasted, = PasteFace.execute(torch.zeros(1, SIZE, SIZE, 3), torch.ones(1, 8, 8, 3), [[place]], 0.0, True, mask).args
    assert (pasted[0, 41:119, 81:119] == 1).all() and not pasted[0, :, :79].any()


def test_label_maps_are_cropped_with_the_faces():
    maps = label_map(40, FACE)
    picture = torch.rand(1, SIZE, SIZE, 3)
    faces, regions, _, cropped = CropFace.execute(picture, 0, 0.1, 96, BOX, tilt=maps, label_map=maps[:, ::2, ::2]).args
    assert faces.shape == cropped.shape == (1, 96, 96, 3)
    assert {tuple(color) for color in (cropped * 255).round().int().flatten(0, 2).tolist()} <= set(PALETTE)
    right, left, lip = ((to_indices(cropped)[0] == find_class(name)).nonzero().float().mean(0)
                        for name in ("r_eye", "l_eye", "u_lip"))
    assert abs(right[0] - left[0]) < 4 and right[1] < lip[1] < left[1] and lip[0] > left[0] + 20
    with pytest.raises(ValueError, match="label_map: there are 2 label maps for 3 images"):
        CropFace.execute(picture.expand(3, -1, -1, -1), bboxes=BOX, label_map=maps.repeat(2, 1, 1, 1))


def test_regions_at_bboxes_give_the_same_squares():
    picture = torch.rand(1, SIZE, SIZE, 3)
    faces, regions, *_ = CropFace.execute(picture, -1, 0.2, 64, [[BOX]], tilt=landmarks(33)).args
    again, same, *_ = CropFace.execute(picture, -1, 0.0, 64, regions).args
    assert same == regions and torch.equal(again, faces)
