"""Things of ours that a condition carries through the host's batching."""
from __future__ import annotations

import comfy.conds


class CarriedCond(comfy.conds.CONDConstant):
    """Any object, with the region (h, w, y, x in latent cells; None for all) that its condition is evaluated on.

    It never keeps conditions apart: the model call gets a list, one for each chunk of rows.
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
