"""Which pixels belong to which face."""
import numpy as np
import pytest

from mditface.mdit.labelmap import find_class
from mditface.mdit.labelmap.faces import split_faces

SKIN, NOSE, EYE, LIP, GLASSES, CLOTH, HAIR = map(
    find_class, ("skin", "nose", "l_eye", "u_lip", "eye_g", "cloth", "hair"))


def put_face(labels, left, top=20, nose=True):
    labels[top:top + 40, left:left + 30] = SKIN
    labels[top + 10, left + 4:left + 8] = EYE
    labels[top + 31:top + 34, left + 10:left + 20] = LIP
    if nose:
        labels[top + 15:top + 25, left + 12:left + 18] = NOSE


@pytest.fixture
def labels():
    labels = np.zeros((100, 160), np.uint8)
    put_face(labels, 10)
    return labels


def test_one_face_is_all_that_is_no_background(labels):
    labels[90:, 100:120] = HAIR
    assert np.array_equal(split_faces(labels), labels > 0)


@pytest.mark.parametrize("nose", [True, False])
def test_figures_apart_are_two_faces(labels, nose):
    put_face(labels, 100, nose=nose)
    owners = split_faces(labels)
    assert set(np.unique(owners[:, :80])) == {0, owners[40, 20]}
    assert set(np.unique(owners[:, 80:])) == {0, owners[40, 110]}
    assert owners[40, 20] != owners[40, 110]


@pytest.mark.parametrize("step, count", [(2, 2), (3, 2), (4, 1)])
def test_a_smaller_figure_is_a_face_of_its_own(labels, step, count):
    small = labels[::step, :60:step]
    labels[:len(small), 100:100 + small.shape[1]] = small
    assert split_faces(labels).max() == count


def test_figures_that_touch_are_divided_between_the_noses(labels):
    put_face(labels, 100)
    labels[60:] = CLOTH
    owners = split_faces(labels)
    assert owners[80, 20] == owners[40, 20] != owners[40, 110] == owners[80, 150]
    assert len(np.unique(owners)) == 3


def test_a_nose_that_glasses_cut_is_one_face(labels):
    labels[37:39, 10:40] = GLASSES
    assert np.array_equal(split_faces(labels), labels > 0)


def test_a_part_that_lies_apart_belongs_to_the_nearest_face(labels):
    put_face(labels, 120)
    labels[70:74, 125:130] = HAIR
    owners = split_faces(labels)
    assert owners[72, 127] == owners[40, 130]


def test_hair_that_reaches_below_another_face_stays_its_owners(labels):
    put_face(labels, 110)
    labels[60:70, 20:24] = HAIR
    labels[66:70, 20:150] = HAIR
    owners = split_faces(labels)
    assert owners[68, 140] == owners[40, 20] != owners[40, 120]


def test_faces_are_numbered_from_the_left(labels):
    for left in (120, 64):
        put_face(labels, left, nose=left > 100)
    assert split_faces(labels)[22, [12, 66, 122]].tolist() == [1, 2, 3]


@pytest.mark.parametrize("lost", [EYE, LIP])
def test_skin_without_eyes_or_mouth_is_no_face(labels, lost):
    put_face(labels, 100, nose=False)
    labels[labels == lost] = SKIN
    assert np.array_equal(split_faces(labels), labels > 0)


def test_background_alone_has_no_face():
    assert not split_faces(np.zeros((16, 16), np.uint8)).any()
