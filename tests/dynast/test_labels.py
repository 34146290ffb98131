"""Labels from key points of the host and from label maps."""
import math

import numpy as np
import pytest
import torch

import comfy.model_management as management
from mditface.mdit.dynast import face, pose
from mditface.mdit.dynast.label import measure_distances
from mditface.mdit.labelmap import find_class, to_image
from mditface.mdit.shared.keypoints import Reading
from mditface.nodes.dynast import ExemplarSynthesis, FaceEdgeLabel, PoseLabel

STANDING = [(128, 30), (128, 60), (100, 60), (90, 100), (85, 140), (156, 60), (166, 100), (171, 140), (112, 140),
            (110, 190), (108, 240), (144, 140), (146, 190), (148, 240), (123, 25), (133, 25), (116, 28), (140, 28)]


def frame(points=STANDING, width=256, height=256, people=1, missing=()):
    """POSE_KEYPOINT of one image, its points on a canvas of 256 pixels."""
    flat = [number for i, (x, y) in enumerate(points)
            for number in (x * width / 256, y * height / 256, 0.0 if i in missing else 0.9)]
    return {"canvas_width": width, "canvas_height": height, "people": [{"pose_keypoints_2d": flat}] * people}


def test_the_size_of_the_canvas_does_not_matter():
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


@pytest.mark.parametrize("frames, person, message", [
    ([], 0, "keypoints: there is no frame"),
    ([frame(), frame(people=0)], 0, "keypoints: frame 1 shows 0 people"),
    ([frame()], 1, "keypoints: frame 0 shows 1 people, but person 1"),
    ([frame(points=STANDING[:5])], 0, "has 15 numbers for the body of a person, expected x, y and score of 17, 18, 25"),
    ([frame(missing=range(18))], 0, "frame 0 shows no point of person 0"),
])
def test_frames_without_the_person_are_refused(frames, person, message):
    with pytest.raises(ValueError, match=message):
        pose.from_keypoints(frames, 32, person)


# Conventions of other nodes

def label_of(keypoints, **options):
    return pose.from_keypoints(keypoints, 64, reading=Reading(**options)).channels


def body(points, scores=0.9, canvas=512):
    """A frame with these points (n, 2), on a canvas of that many pixels."""
    scores = np.full(len(points), scores) if np.isscalar(scores) else np.asarray(scores)
    flat = np.concatenate([np.asarray(points, float), scores[:, None]], 1).reshape(-1).tolist()
    return {"canvas_width": canvas, "canvas_height": canvas, "people": [{"pose_keypoints_2d": flat}]}


STANDING_IN_512 = 2.0 * np.array(STANDING)


@pytest.mark.parametrize("scale, units", [
    (1, "auto"), (1, "pixels"), (1 / 512, "auto"), (1 / 512, "fractions"), (1000 / 512, "thousandths")])
def test_pixels_fractions_and_thousandths_make_one_label(scale, units):
    expected = label_of([body(STANDING_IN_512)])
    assert torch.equal(label_of([body(STANDING_IN_512 * scale)], units=units), expected)
    label = pose.from_keypoints([body(STANDING_IN_512 * scale)], 256, reading=Reading(units=units))
    drawn = label.channels[0, :3].amax(0).nonzero()
    assert (drawn.amin(0).tolist(), drawn.amax(0).tolist()) == ([21, 81], [244, 175])


def test_fractions_may_reach_beyond_the_image_and_need_no_canvas():
    points = STANDING_IN_512 / 512
    points[10] = (0.45, 1.2)
    given = body(points)
    assert torch.equal(label_of([given]), label_of([{"people": given["people"]}]))
    beyond = label_of([given])[0, :3].amax(0)
    assert beyond[63].any() and beyond[:16].any()


@pytest.mark.parametrize("keypoints, options, message", [
    ([body(STANDING_IN_512 * 2)], {}, "most points lie outside of the canvas of 512 x 512 .* choose the unit"),
    ([{"people": body(STANDING_IN_512)["people"]}], {}, "points in pixels but no canvas_width"),
    ([{"canvas_width": 512, "canvas_height": 512}], {}, "frame 0 shows 0 people"),
    ([{"people": None}], {}, "frame 0 shows 0 people"),
    ([{"people": [{"face_keypoints_2d": [1, 2, 3]}]}], {}, "frame 0 shows no point of person 0"),
    ([body(STANDING_IN_512, 0.2)], {}, "scores of all points of person 0 are below 0.3: lower 'threshold'"),
    ([body(STANDING_IN_512, 0.5)], {"threshold": 0.6}, "are below 0.6"),
    (["person"], {}, "another form than canvas_width"),
])
def test_key_points_of_another_form_are_refused(keypoints, options, message):
    with pytest.raises(ValueError, match=f"^keypoints: .*{message}"):
        label_of(keypoints, **options)


def test_unsure_points_are_missing():
    scores = np.full(18, 0.9)
    scores[4] = 0.29
    without = np.where(np.arange(18) == 4, 0, 0.9)
    unsure = [body(STANDING_IN_512, scores)]
    assert torch.equal(label_of(unsure), label_of([body(STANDING_IN_512, without)]))
    assert torch.equal(label_of(unsure, threshold=0.0), label_of([body(STANDING_IN_512)]))
    scores[4] = 0.3
    assert torch.equal(label_of([body(STANDING_IN_512, scores)]), label_of([body(STANDING_IN_512)]))


def test_points_without_numbers_are_missing():
    holes = STANDING_IN_512.copy()
    holes[4] = math.nan
    assert torch.equal(label_of([body(holes)]), label_of([body(STANDING_IN_512, np.arange(18) != 4)]))


def test_one_frame_and_lists_of_frames():
    given = body(STANDING_IN_512)
    one = label_of(given)
    assert torch.equal(label_of([[given], [given]]), one.expand(2, -1, -1, -1))
    nested = {**given, "people": [{"pose_keypoints_2d": np.reshape(given["people"][0]["pose_keypoints_2d"],
                                                                   (18, 3)).tolist()}]}
    assert torch.equal(label_of(nested), one)


OPENPOSE_18 = ("nose neck r_shoulder r_elbow r_wrist l_shoulder l_elbow l_wrist r_hip r_knee r_ankle l_hip l_knee "
               "l_ankle r_eye l_eye r_ear l_ear").split()
BODY_25 = ("nose neck r_shoulder r_elbow r_wrist l_shoulder l_elbow l_wrist mid_hip r_hip r_knee r_ankle l_hip l_knee "
           "l_ankle r_eye l_eye r_ear l_ear").split() + ["foot"] * 6
COCO_17 = ("nose l_eye r_eye l_ear r_ear l_shoulder r_shoulder l_elbow r_elbow l_wrist r_wrist l_hip r_hip l_knee "
           "r_knee l_ankle r_ankle").split()


@pytest.mark.parametrize("names", [
    BODY_25, COCO_17, COCO_17 + ["other"] * 116, OPENPOSE_18 + ["other"] * 116],
    ids=["BODY_25", "COCO", "wholebody", "wholebody-openpose"])
def test_bodies_of_other_counts_of_points(names):
    known = dict(zip(OPENPOSE_18, STANDING_IN_512))
    assert (known["neck"] == (known["l_shoulder"] + known["r_shoulder"]) / 2).all()
    points = [known.get(name, (5.0, 5.0)) for name in names]
    assert torch.equal(label_of([body(points)]), label_of([body(STANDING_IN_512)]))


def test_a_neck_between_shoulders_is_as_sure_as_the_less_sure_one():
    known = dict(zip(OPENPOSE_18, STANDING_IN_512))
    scores = np.where(np.array(COCO_17) == "l_shoulder", 0.1, 0.9)
    missing = np.where(np.isin(OPENPOSE_18, ["neck", "l_shoulder"]), 0, 0.9)
    coco = body([known[name] for name in COCO_17], scores)
    assert torch.equal(label_of([coco]), label_of([body(STANDING_IN_512, missing)]))


def limb_pixels(a, b):
    return pose.draw_limb(a, b, 64, 64)


def test_limbs_are_ellipses_along_their_points():
    rows, columns = np.nonzero(limb_pixels((10, 20), (50, 20)))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (10, 50, 16, 24)
    assert np.array_equal(limb_pixels((10, 20), (50, 20)), limb_pixels((20, 10), (20, 50)).T)
    assert not limb_pixels(None, (3, 3)).any() and limb_pixels((-30, 5), (-5, 5)).sum() == 0


def test_distances_are_city_block_distances():
    marked = np.zeros((1, 1000), bool)
    assert (measure_distances(marked) == 255).all()
    marked[0, 0] = True
    assert measure_distances(marked)[0, [0, 2, 3, 5, 6, 764, 765, 999]].tolist() == [0, 0, 1, 1, 2, 254, 255, 255]


# Faces


def painted(size=64):
    """A label map (1, size, size) of a face of skin with an eye, and hair above."""
    labels = torch.zeros(1, size, size, dtype=torch.uint8)
    labels[:, :size // 4] = find_class("hair")
    labels[:, size // 4:, size // 4:-size // 4] = find_class("skin")
    labels[:, size // 2:size // 2 + 8, size // 2:size // 2 + 8] = find_class("l_eye")
    return labels


def stripes(size=64):
    """An image with edges everywhere."""
    lines = (torch.arange(size) // 4 % 2).float()
    return lines[None, None, :, None].expand(1, size, size, 3)


def test_edges_of_the_image_count_only_outside_the_face():
    label = face.from_label_maps(stripes(), painted(), 64).channels[0].bool()
    from_image = label[0] & ~label[14]
    inside = (painted()[0] == find_class("skin")) | (painted()[0] == find_class("l_eye"))
    assert from_image[~inside].any() and not from_image[inside].any()


def test_the_skin_continues_under_the_parts_on_it():
    parts = dict(zip(face.PARTS, face.split_parts(painted()[0].numpy())))
    assert parts["skin"][34, 34] and parts["l_eye"][34, 34] and not parts["hair"][34, 34]
    label = face.from_label_maps(stripes(), painted(), 64).channels[0]
    absent = [name for name, channel in zip(face.PARTS, label[1:14]) if (channel == 255).all()]
    assert set(face.PARTS) - set(absent) == {"skin", "l_eye", "hair"}


def test_batches_of_images_and_label_maps():
    label = face.from_label_maps(stripes().expand(3, -1, -1, -1), painted(), 32)
    assert label.channels.shape == (3, 15, 32, 32) and (label.channels[0] == label.channels[2]).all()


@pytest.mark.parametrize("images, label_maps, size, message", [
    (stripes(), painted() * 0, 64, "label_map: label map 0 shows no face: none of its pixels is one of skin"),
    (stripes(), torch.full_like(painted(), find_class("hair")), 64, "shows no face"),
    (stripes().expand(3, -1, -1, -1), painted().expand(2, -1, -1), 64, "image: 3 images for 2 label maps"),
    (stripes()[:0], painted(), 64, "image: 0 images"),
    (stripes(), painted(), 8, "size: 8 pixels"),
    (stripes(), painted(), 60, "size: 60 pixels, .* a multiple of 8"),
])
def test_label_maps_without_a_face_are_refused(images, label_maps, size, message):
    with pytest.raises(ValueError, match=message):
        face.from_label_maps(images, label_maps, size)


def test_a_long_batch_can_be_cancelled(monkeypatch):
    drawn = []

    def cancel(*_):
        drawn.append(1)
        management.interrupt_current_processing()
    monkeypatch.setattr(face, "build_face_label", cancel)
    with pytest.raises(management.InterruptProcessingException):
        face.from_label_maps(stripes().expand(9, -1, -1, -1), painted(), 64)
    assert len(drawn) == 1


# Nodes


@pytest.mark.parametrize("given", [
    {"people": []}, {"people": None}, {"people": [{"face_keypoints_2d": [1, 2, 3]}]}, {"people": [{}]},
    frame(missing=range(18)), body(STANDING_IN_512, 0.2)])
def test_an_image_without_the_person_passes_through_as_an_empty_label(given):
    with pytest.raises(ValueError, match="keypoints: frame 1"):
        PoseLabel.execute([frame(), given], size=64)
    label, preview = PoseLabel.execute([frame(), given], size=64, missing="pass through").result
    assert torch.equal(label.channels[:1], label_of([frame()])) and preview[0].any()
    assert not label.channels[1, :3].any() and (label.channels[1, 3:] == 255).all()
    with pytest.raises(ValueError, match="has 15 numbers"):
        PoseLabel.execute([frame(points=STANDING[:5])], size=64, missing="pass through")


def test_a_label_map_without_a_face_passes_through_with_the_edges_of_its_image():
    hair = torch.full_like(painted(), find_class("hair"))
    both = to_image(torch.cat([painted(), hair]))
    with pytest.raises(ValueError, match="label map 1 shows no face"):
        FaceEdgeLabel.execute(stripes(), both, size=64)
    label, _ = FaceEdgeLabel.execute(stripes(), both, size=64, missing="pass through").result
    assert torch.equal(label.channels[:1], face.from_label_maps(stripes(), painted(), 64).channels)
    assert label.channels[1, 0].any() and (label.channels[1, 1] == 255).all()


def test_nodes_return_labels_and_previews():
    label, preview = FaceEdgeLabel.execute(stripes(), to_image(painted()), size=64).result
    assert label.nc == 15 and preview.shape == (1, 64, 64, 3) and set(preview.unique().tolist()) == {0.0, 1.0}
    label, preview = PoseLabel.execute([frame()], size=64).result
    assert label.nc == 20 and torch.equal(preview[0].movedim(-1, 0) * 255, label.channels[0, :3].float())


def test_a_label_of_another_pack_is_refused():
    with pytest.raises(ValueError, match="exemplar_label: it comes from a node of another pack"):
        label, _ = PoseLabel.execute([frame()], size=64).result
        ExemplarSynthesis.execute(None, label, None, "cat")
