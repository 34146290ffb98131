"""Line art of label maps."""
import pytest
import torch

from mditface.mdit.labelmap import find_class
from mditface.mdit.relief.lines import STYLES, draw_lines, find_creases, find_outlines

SKIN, NOSE, EYE, HAIR = map(find_class, ("skin", "nose", "l_eye", "hair"))


def halves(first, second, side=64):
    labels = torch.full((side, side), first, dtype=torch.uint8)
    labels[:, side // 2:] = second
    return labels


def draw(labels, style):
    return draw_lines(labels, torch.zeros(labels.shape), style)


@pytest.mark.parametrize("style", STYLES)
def test_one_class_has_no_lines(style):
    assert not draw(halves(SKIN, SKIN), style).any()


def test_a_thin_line_is_one_pixel_wide():
    lines = draw(halves(SKIN, 0), "thin")
    assert (lines.sum(1) == 1).all() and (lines[:, 31] == 1).all()


@pytest.mark.parametrize("side, width", [(64, 3), (1024, 5)])
def test_a_thick_line_grows_with_the_map(side, width):
    assert (draw(halves(SKIN, 0, side), "thick").sum(1) == width).all()


def test_a_soft_line_fades_out():
    lines = draw(halves(SKIN, 0, 512), "soft")[256]
    assert lines.max() == pytest.approx(1, abs=1e-3)
    assert 0.2 < lines[254] < lines[255] and lines[245] < 0.01


def test_eyes_are_stronger_than_hair_and_hair_than_the_nose():
    strong, hair, nose = (find_outlines(halves(SKIN, other)).max() for other in (EYE, HAIR, NOSE))
    assert strong == 1 and strong > hair > nose > 0


def test_a_valley_of_skin_is_a_crease_and_a_ridge_is_none():
    small = torch.full((64, 64), SKIN, dtype=torch.uint8)
    valley = (torch.arange(64.0) - 32).abs().expand(64, 64) * 0.016
    creases = find_creases(valley, small)
    assert creases[32].argmax() == 32 and creases[32, 32] > 0.45
    assert creases[:, :24].max() == 0
    assert find_creases(-valley, small).max() == 0
    assert draw_lines(small, creases, "thin")[32].sum() == 1


def test_no_crease_is_drawn_at_an_edge():
    small = halves(SKIN, HAIR)
    assert find_creases(small.float() / 10, small).max() == 0
