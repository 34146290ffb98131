"""Objects of the pack that a condition carries through the batching of the host."""
from __future__ import annotations

import comfy.conds


class CarriedCond(comfy.conds.CONDConstant):
    """Any object, with the area (h, w, y, x in latent cells; None for all) on which its condition is evaluated.

    It never prevents conditions from being batched. The model call gets a list with one entry for each chunk of rows.
    """

    def __init__(self, cond, area: tuple | None = None):
        super().__init__(cond)
        self.area = area

    def process_cond(self, batch_size, area=None, **kwargs) -> CarriedCond:
        return type(self)(self.cond, None if area is None else tuple(area))

    def can_concat(self, other) -> bool:
        return isinstance(other, CarriedCond)

    def concat(self, others) -> list[CarriedCond]:
        return [self, *others]
