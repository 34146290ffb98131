"""The square that the network sees of a face (docs/design/control-maps.md, section 2)."""
from __future__ import annotations

import math
from typing import NamedTuple

FILLED = 0.6  # of the map's longer side, from which a figure needs no closer view
MARGIN = 1.1  # side of a closer view, in units of the figure's longer side


class Square(NamedTuple):
    """A square of pixels, which may reach beyond the map."""
    top: int
    left: int
    side: int


def choose_square(box: tuple[slice, slice], height: int, width: int) -> Square:
    """What the network sees of a figure in a box of a map: the whole map, or a closer view of a small figure."""
    rows, columns = box
    extent = max(rows.stop - rows.start, columns.stop - columns.start)
    whole = max(height, width)
    if extent >= FILLED * whole:
        return Square((height - whole) // 2, (width - whole) // 2, whole)
    side = math.ceil(MARGIN * extent)
    return Square((rows.start + rows.stop - side) // 2, (columns.start + columns.stop - side) // 2, side)
