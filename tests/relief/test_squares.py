"""What the network sees of a face."""
from mditface.mdit.relief.squares import Square, choose_square


def test_a_figure_that_fills_the_map_is_seen_with_the_whole_map():
    assert choose_square((slice(20, 100), slice(5, 55)), 100, 60) == Square(0, -20, 100)


def test_a_small_figure_is_seen_closer():
    square = choose_square((slice(20, 60), slice(10, 40)), 100, 160)
    assert square.side == 44
    assert abs(square.top + 22 - 40) <= 1 and abs(square.left + 22 - 25) <= 1
