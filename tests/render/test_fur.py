"""Strands of facial hair."""
import numpy as np

from mditface.mdit.render.fur import comb_beard

CHIN, LIP = 6.0, 6.7


def comb(x, y):
    """The mean direction at one place of the head's template."""
    return comb_beard(np.tile((x, y, 1.0), (2000, 1)), np.random.default_rng(0)).mean(0)


def test_a_moustache_is_combed_aside_and_a_beard_down():
    left, right, chin = comb(-0.4, LIP), comb(0.4, LIP), comb(0.4, CHIN)
    assert left[0] < -0.5 and right[0] > 0.5 and max(left[1], right[1]) < -0.3
    assert abs(chin[0]) < 0.05 and chin[1] < -0.9
