"""Conditions of the host: what the pack's carry through its batching, and how guiders evaluate them."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

import comfy.conds
import comfy.samplers

CALC_CONDS = "sampler_calc_cond_batch_function"  # options of the host
KEEP_CFG1 = "disable_cfg1_optimization"
UNKNOWN = -1  # a row that another node took out of the batch without saying which


class CarriedCond(comfy.conds.CONDConstant):
    """Any object, with the area (h, w, y, x in latent cells; None for all) on which its condition is evaluated.

    It never prevents conditions from being batched. The model call gets a list with one entry for each chunk of rows.
    """

    def __init__(self, cond, area: tuple | None = None):
        super().__init__(cond)
        self.area = area

    def process_cond(self, batch_size, area=None, **kwargs) -> CarriedCond:
        return type(self)(self.cond, None if area is None else cut_frames(area))

    def can_concat(self, other) -> bool:
        return isinstance(other, CarriedCond)

    def concat(self, others) -> list[CarriedCond]:
        return [self, *others]


def cut_frames(area: Sequence[int]) -> tuple[int, int, int, int]:
    """The area (h, w, y, x) of one that may name frames, too (t, h, w, first, y, x)."""
    half = len(area) // 2
    return *area[half - 2:half], *area[-2:]


class RowCond(comfy.conds.CONDRegular):
    """Which rows of the run's batch a model call has, as a tensor (rows,).

    Nodes that split a batch (context windows, row by row) cut the tensors of a condition along. The model call gets
    a tensor (rows, 2) of the chunk and the row of each row of its batch, which can be cut further.
    """

    def process_cond(self, batch_size, **kwargs) -> RowCond:
        known = self.cond.shape[0] == batch_size
        return RowCond(self.cond.cpu() if known else torch.full((batch_size,), UNKNOWN))

    def can_concat(self, other) -> bool:
        return isinstance(other, RowCond)

    def concat(self, others) -> Tensor:
        conds = [self, *others]
        return torch.cat([torch.stack((torch.full_like(one.cond, i), one.cond), dim=1) for i, one in enumerate(conds)])


def find_places(places: Tensor | None, chunks: list[CarriedCond], x: Tensor) -> list[tuple[int, int]]:
    """The chunk and the row, or UNKNOWN, of each row of x in a model call.

    places: what `RowCond` made. Raises ValueError where another node cut x, but not `places`, and chunks differ.
    """
    if places is not None and places.shape[0] == x.shape[0]:
        return [tuple(place) for place in places.tolist()]
    if any((chunk.cond, chunk.area) != (chunks[0].cond, chunks[0].area) for chunk in chunks):
        raise ValueError(f"model: another node splits the batch into {x.shape[0]} rows inside the model call, and does "
                         "not say which: remove that node")
    return [(0, UNKNOWN)] * x.shape[0]


def predict_conds(args: dict, function: Callable[[dict], list[Tensor]] | None) -> list[Tensor]:
    """The predictions for conditions by the function that another node set for CALC_CONDS, or by the host's.

    args: what the host gives to such a function.
    """
    if function is not None:
        return function(args)
    return comfy.samplers.calc_cond_batch(args["model"], args["conds"], args["input"], args["sigma"],
                                          args["model_options"])


def check_conditioning(conditioning, source: str):
    """Raises ValueError for an input without a conditioning, which the host would sample as grey."""
    if not conditioning:
        raise ValueError(f"{source}: it holds no conditioning: connect an encoded text, such as from 'CLIP Text Encode "
                         "(Prompt)'")


def check_additions(conds: Iterable[dict], title: str, advice: str = ""):
    """Raises ValueError for conditions with what the networks of this pack cannot read and would pass over in silence.

    title: of the network. advice: what else a user can do than remove it.
    """
    additions = {"control": "a ControlNet", "gligen": "GLIGEN boxes"}
    for cond in conds:
        found = [addition for name, addition in additions.items() if cond.get(name) is not None]
        if found:
            raise ValueError(f"conditioning: it holds {found[0]} made for other models, which {title} cannot read: "
                             f"remove the node that adds it{advice}")
