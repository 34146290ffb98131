"""Values of the network's pixels at the pixels of a label map."""
import torch
from hypothesis import given
from hypothesis import strategies as st

from mditface.mdit.labelmap import resize_nearest
from mditface.mdit.relief.enlarge import enlarge, reduce_map
from mditface.mdit.relief.squares import Square
from mditface.mdit.relief.network import OUTSIDE

SIZE = 16


def blocks(side, seed, cells=4):
    """A label map (side, side) of random classes other than background."""
    labels = torch.randint(1, 19, (1, cells, cells), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return resize_nearest(labels, side, side)[0]


@given(side=st.integers(1, 90), seed=st.integers(0, 99))
def test_nothing_crosses_an_edge_of_the_map(side, seed):
    labels = blocks(side, seed)
    square = Square(0, 0, side)
    small = reduce_map(labels, square, SIZE)
    found = enlarge(small[None].float(), small, labels, square)
    present = torch.isin(labels, small.unique())
    assert torch.allclose(found[0][present], labels[present].float(), atol=1e-4)
    assert found.shape == (1, side, side)


def test_inside_a_class_values_are_smooth():
    labels = torch.ones(64, 64, dtype=torch.uint8)
    square = Square(0, 0, 64)
    ramp = torch.arange(SIZE).float().expand(1, SIZE, SIZE)
    found = enlarge(ramp, reduce_map(labels, square, SIZE), labels, square)[0, 0]
    assert torch.allclose(found[2:-2].diff(), torch.tensor(1 / 4))


def test_a_line_thinner_than_a_pixel_of_the_network_takes_what_is_beside_it():
    labels = torch.ones(64, 64, dtype=torch.uint8)
    labels[:, 32] = 13
    square = Square(0, 0, 64)
    small = reduce_map(labels, square, SIZE)
    assert (small == 1).all()
    assert torch.allclose(enlarge(torch.full((1, SIZE, SIZE), 3.0), small, labels, square), torch.tensor(3.0))


def test_the_background_has_no_value_of_its_own():
    labels = torch.zeros(32, 32, dtype=torch.uint8)
    labels[:, 15] = 13
    square = Square(0, 0, 32)
    small = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    small[0, 0] = 1
    values = torch.full((1, SIZE, SIZE), -100.0)
    values[0, 0, 0] = 2
    assert (enlarge(values, small, labels, square)[0, labels > 0] == 2).all()


def test_beyond_the_map_is_outside():
    small = reduce_map(torch.ones(32, 16, dtype=torch.uint8), Square(0, -8, 32), SIZE)
    assert (small[:, 4:12] == 1).all()
    assert (small[:, :4] == OUTSIDE).all() and (small[:, 12:] == OUTSIDE).all()
