"""The kinds of label-map images that can be read: palettes for an order, colors of other programs, swapped channels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .palettes import AUTO, DEFAULT_ORDER, FOREIGN, ORDERS, PALETTES


class Table(NamedTuple):
    """The colors of one kind of label-map image.

    name: the palette, as errors and reports call it.
    choice: the palette that a node must be set to, to read the image.
    colors: (N, 3) 8-bit RGB of the entries.
    order: a key of ORDERS, the class order of the entries.
    """
    name: str
    choice: str
    colors: np.ndarray
    order: str

    @property
    def own_order(self) -> str | None:
        """The class order, if the colors come with one other than the default."""
        return self.order if self.order != DEFAULT_ORDER else None

    @property
    def is_gray(self) -> bool:
        return bool((self.colors == self.colors[:, :1]).all())

    @property
    def gap(self) -> float:
        """Distance between the two closest entries."""
        differences = (self.colors[:, None].astype(float) - self.colors[None]).reshape(-1, 3)  # (N * N, 3)
        distances = np.sqrt((differences ** 2).sum(-1)).reshape(len(self.colors), -1)
        return distances[~np.eye(len(self.colors), dtype=bool)].min()

    @property
    def tolerance(self) -> float:
        """Distance at which a color in a flat area still belongs to an entry: without doubt nearest to this entry."""
        return self.gap / (4 if self.is_gray else 2)


def make_table(palette: str, order: str) -> Table:
    """A palette of PALETTES for a class order; grey indices count as far as the order does."""
    length = len(ORDERS[order].classes)
    colors = np.array(PALETTES[palette].colors)
    if palette == "grey indices" and length > len(colors):
        colors = np.arange(length)[:, None].repeat(3, axis=1)
    return Table(palette, palette, colors[:length], order)


def list_tables(order: str) -> list[Table]:
    """Every kind of image that can be recognized, also with the channels red and blue swapped."""
    tables = [make_table(palette, order) for palette in PALETTES]
    for name, foreign in FOREIGN.items():
        own = foreign.order or order
        tables.append(Table(name, AUTO, np.array(foreign.colors)[:len(ORDERS[own].classes)], own))
    swapped = [Table(f"{table.name} with red and blue swapped", AUTO, table.colors[:, ::-1], table.order)
               for table in tables if not table.is_gray]
    return tables + swapped
