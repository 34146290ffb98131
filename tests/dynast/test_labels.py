"""Labels out of the host's key points and of the pack's label maps."""
import numpy as np
import pytest
import torch

import comfy.model_management as management
from mditface.mdit.dynast import face, pose
from mditface.mdit.dynast.label import distances
from mditface.mdit.labelmap import find_class, to_image
from mditface.nodes.dynast import ExemplarSynthesis, FaceEdgeLabel, PoseLabel

STANDING = [(128, 30), (128, 60), (100, 60), (90, 100), (85, 140), (156, 60), (166, 100), (171, 140), (112, 140),
            (110, 190), (108, 240), (144, 140), (146, 190), (148, 240), (123, 25), (133, 25), (116, 28), (140, 28)]


def frame(points=STANDING, width=256, height=256, people=1, missing=()):
    """POSE_KEYPOINT of one picture, its points on a canvas of 256 pixels."""
    flat = [number for i, (x, y) in enumerate(points)
            for number in (x * width / 256, y * height / 256, 0.0 if i in missing else 0.9)]
    return {"canvas_width": width, "canvas_height": height, "people": [{"pose_keypoints_2d": flat}] * people}


def test_points_of_any_canvas_make_one_label():
    small, large = (pose.from_keypoints([frame(width=w, height=h)], 64) for w, h in ((256, 256), (512, 128)))
    assert small.channels.shape == (1, 20, 64, 64) and torch.equal(small.channels, large.channels)


def test_the_nose_is_a_blue_disc():
    label = pose.from_keypoints([frame(missing=range(1, 18))], 256).channels[0]
    assert (label[2] > 0).sum() == 9 + 2 * (7 + 7 + 5 + 1) and label[:3, 30, 128].tolist() == [0, 0, 255]
    assert not label[:2].any() and (label[3:] == 255).all()


def test_a_missing_point_takes_its_limbs_with_it():
    label = pose.from_keypoints([frame(missing=(4,))], 256).channels[0]
    far = (label[3:].flatten(1) == 255).all(1)
    assert far.nonzero().flatten().tolist() == [pose.LIMBS.index((3, 4))]


def test_persons_and_frames():
    frames = [frame(people=2), frame(missing=(0,), people=2)]
    assert len(pose.from_keypoints(frames, 32, person=1).channels) == 2


@pytest.mark.parametrize("frames, person, told", [
    ([], 0, "keypoints: there is no frame"),
    ([frame(), frame(people=0)], 0, "keypoints: frame 1 shows 0 people"),
    ([frame()], 1, "keypoints: frame 0 shows 1 people, but person 1"),
    ([frame(points=STANDING[:5])], 0, "has 15 numbers for a person's body, expected 54"),
    ([frame(missing=range(18))], 0, "frame 0 shows no point of person 0"),
])
def test_poses_that_are_not_there(frames, person, told):
    with pytest.raises(ValueError, match=told):
        pose.from_keypoints(frames, 32, person)


def limb_pixels(a, b):
    return pose.limb(a, b, 64, 64)


def test_limbs_are_ellipses_along_their_points():
    rows, columns = np.nonzero(limb_pixels((10, 20), (50, 20)))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (10, 50, 16, 24)
    assert np.array_equal(limb_pixels((10, 20), (50, 20)), limb_pixels((20, 10), (20, 50)).T)
    assert not limb_pixels(None, (3, 3)).any() and limb_pixels((-30, 5), (-5, 5)).sum() == 0


def test_distances_count_blocks():
    marked = np.zeros((1, 1000), bool)
    assert (distances(marked) == 255).all()
    marked[0, 0] = True
    assert distances(marked)[0, [0, 2, 3, 5, 6, 764, 765, 999]].tolist() == [0, 0, 1, 1, 2, 254, 255, 255]


# Faces


def painted(size=64):
    """A label map (1, size, size) of a face of skin with an eye, and hair above."""
    labels = torch.zeros(1, size, size, dtype=torch.uint8)
    labels[:, :size // 4] = find_class("hair")
    labels[:, size // 4:, size // 4:-size // 4] = find_class("skin")
    labels[:, size // 2:size // 2 + 8, size // 2:size // 2 + 8] = find_class("l_eye")
    return labels


def stripes(size=64):
    """A picture with edges everywhere."""
    lines = (torch.arange(size) // 4 % 2).float()
    return lines[None, None, :, None].expand(1, size, size, 3)


def test_edges_of_the_picture_count_outside_the_face():
    label = face.from_label_maps(stripes(), painted(), 64).channels[0].bool()
    from_picture = label[0] & ~label[14]
    inside = (painted()[0] == find_class("skin")) | (painted()[0] == find_class("l_eye"))
    assert from_picture[~inside].any() and not from_picture[inside].any()


def test_what_lies_on_the_skin_has_skin_under_it():
    parts = dict(zip(face.PARTS, face.parts_of(painted()[0].numpy(), 0)))
    assert parts["skin"][34, 34] and parts["l_eye"][34, 34] and not parts["hair"][34, 34]
    label = face.from_label_maps(stripes(), painted(), 64).channels[0]
    absent = [name for name, channel in zip(face.PARTS, label[1:14]) if (channel == 255).all()]
    assert set(face.PARTS) - set(absent) == {"skin", "l_eye", "hair"}


def test_pictures_and_maps_in_batches():
    label = face.from_label_maps(stripes().expand(3, -1, -1, -1), painted(), 32)
    assert label.channels.shape == (3, 15, 32, 32) and (label.channels[0] == label.channels[2]).all()


@pytest.mark.parametrize("pictures, maps, size, told", [
    (stripes(), painted() * 0, 64, "label_map: map 0 shows no face, no pixel of it is one of skin"),
    (stripes(), torch.full_like(painted(), find_class("hair")), 64, "shows no face"),
    (stripes().expand(3, -1, -1, -1), painted().expand(2, -1, -1), 64, "image: 3 pictures for 2 label maps"),
    (stripes()[:0], painted(), 64, "image: 0 pictures"),
    (stripes(), painted(), 8, "size: 8 pixels"),
    (stripes(), painted(), 60, "size: 60 pixels, .* a multiple of 8"),
])
def test_faces_that_are_not_there(pictures, maps, size, told):
    with pytest.raises(ValueError, match=told):
        face.from_label_maps(pictures, maps, size)


def test_a_long_batch_can_be_cancelled(monkeypatch):
    drawn = []
    monkeypatch.setattr(face, "face_label", lambda *_: (drawn.append(1), management.interrupt_current_processing()))
    with pytest.raises(management.InterruptProcessingException):
        face.from_label_maps(stripes().expand(9, -1, -1, -1), painted(), 64)
    assert len(drawn) == 1


# Nodes


def test_nodes_give_labels_and_previews():
    label, preview = FaceEdgeLabel.execute(stripes(), to_image(painted()), size=64).result
    assert label.nc == 15 and preview.shape == (1, 64, 64, 3) and set(preview.unique().tolist()) == {0.0, 1.0}
    label, preview = PoseLabel.execute([frame()], size=64).result
    assert label.nc == 20 and torch.equal(preview[0].movedim(-1, 0) * 255, label.channels[0, :3].float())


def test_a_label_of_another_pack_is_refused():
    with pytest.raises(ValueError, match="exemplar_label: it comes from another pack's node"):
        label, _ = PoseLabel.execute([frame()], size=64).result
        ExemplarSynthesis.execute(None, label, None, "cat")
