"""Guidance with a scale for the text and a scale for the mask (docs/design/mditface.md, section 3.8)."""
from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

import comfy.samplers

from ..shared.conds import CALC_CONDS, KEEP_CFG1, check_conditioning, predict_conds
from ..shared.masks import is_mask


class Guidance(NamedTuple):
    """Scales of the guidance, 1 for none. The defaults suit the bundled model.

    text: between the mask alone and mask with text.
    mask: between neither and the mask alone.
    """
    text: float = 1.5
    mask: float = 2.0


SHEET_GUIDANCE = Guidance(text=3.0, mask=1.5)  # for training sheets and comparisons of masks: text decides the rest


def add_mask_guidance(guided: Tensor, v_m: Tensor, v_0: Tensor, scale: float) -> Tensor:
    """Adds the mask's guidance to a prediction that the text guides, v_m + w_t [v_mt - v_m]."""
    return guided + (scale - 1) * (v_m - v_0)


class DualGuider(comfy.samplers.CFGGuider):
    """v = v(0,0) + w_m [v(m,0) - v(0,0)] + w_t [v(m,t) - v(m,0)]; terms without a weight are not evaluated.

    v(m,t) is the positive conditioning, v(m,0) the positive with the negative's text, v(0,0) the negative without
    a mask. All of them run in one batch where the host finds the memory.

    asked, reached: evaluations that a sampler asked for, and those that wrappers let through.
    cache: the state of the host's EasyCache or LazyCache.
    skipped: evaluations that one of these skipped.
    """
    asked = 0
    reached = 0
    cache = None
    skipped = 0

    def set_conds(self, positive, negative):
        """Raises ValueError for an input without a conditioning."""
        check_conditioning(positive, "positive")
        check_conditioning(negative, "negative")
        self.has_mask = any(is_mask(key) for _, options in positive for key in options)
        without_mask = []
        for text, options in negative:
            without_mask.append([text, {key: value for key, value in options.items() if not is_mask(key)}])
        mask_only = []
        for _, masked in positive:
            for text, options in negative:
                ranges = intersect_ranges(masked, options)
                if ranges is not None:
                    mask_only.append([text, {**masked, **ranges, "pooled_output": options.get("pooled_output")}])
        self.inner_set_conds({"positive": positive, "mask_only": mask_only, "negative": without_mask})

    def set_guidance(self, guidance: Guidance):
        """Call after `set_conds`: without a mask, the mask's scale has no meaning and counts as 1."""
        self.set_cfg(guidance.text)
        self.mask_scale = guidance.mask if self.has_mask else 1.0

    def outer_predict_noise(self, x: Tensor, timestep: Tensor, model_options={}, seed=None) -> Tensor:
        self.asked += 1
        out = super().outer_predict_noise(x, timestep, model_options, seed)
        self.cache = model_options["transformer_options"].get("easycache")
        if self.cache is not None:
            self.skipped = self.cache.total_steps_skipped  # until the end of the run, when the host resets it
        return out

    def describe_skipped(self) -> list[str]:
        """A line for the report where another node took evaluations from a cache of its own."""
        name = "another node" if self.cache is None else self.cache.name
        skipped = max(self.skipped, self.asked - self.reached)
        return [f"{name} skipped {skipped} of {self.asked} evaluations of the model"] if skipped else []

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options={}, seed=None) -> Tensor:
        """The host's guidance by the text, with all functions that the options hold, plus the mask's guidance.

        Functions get pairs, as from the host's guiders: v(m,t) and v(m,0). One that replaces the evaluation of
        conditions also makes the mask's pair, v(m,0) and v(0,0).
        """
        self.reached += 1
        full = self.conds["positive"]
        mask_only = self.conds["mask_only"]
        if math.isclose(self.mask_scale, 1.0):
            return comfy.samplers.sampling_function(self.inner_model, x, timestep, mask_only, full, self.cfg,
                                                    model_options, seed)
        neither = self.conds["negative"]
        function = model_options.get(CALC_CONDS)
        mask_pair = []

        def predict_pair(args: dict) -> list[Tensor]:
            args = {**args, "model_options": model_options}
            if function is None:
                *pair, v_0 = predict_conds({**args, "conds": [full, mask_only, neither]}, None)
                mask_pair.extend([pair[1], v_0])
                return pair
            mask_pair.extend(function({**args, "conds": [mask_only, neither]}))
            return function({**args, "conds": [full, mask_only]})
        options = {**model_options, CALC_CONDS: predict_pair, KEEP_CFG1: True}
        guided = comfy.samplers.sampling_function(self.inner_model, x, timestep, mask_only, full, self.cfg, options,
                                                  seed)
        v_m, v_0 = mask_pair
        return add_mask_guidance(guided, v_m, v_0, self.mask_scale)


def intersect_ranges(one: dict, other: dict) -> dict | None:
    """The options for the part of the schedule in which two conditions of a CONDITIONING act; None without one."""
    ranges = {}
    for start, end in (("start_percent", "end_percent"), ("clip_start_percent", "clip_end_percent")):
        if start in one or start in other:
            ranges[start] = max(one.get(start, 0.0), other.get(start, 0.0))
            ranges[end] = min(one.get(end, 1.0), other.get(end, 1.0))
            if ranges[start] >= ranges[end]:
                return None
    return ranges
