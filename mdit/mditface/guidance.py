"""Guidance with a scale for the text and a scale for the mask (docs/design/mditface.md, section 3.8)."""
from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

import comfy.samplers

from .mask import is_mask


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
    """

    def set_conds(self, positive, negative):
        self.has_mask = any(is_mask(key) for _, options in positive for key in options)
        without_mask = []
        for text, options in negative:
            without_mask.append([text, {key: value for key, value in options.items() if not is_mask(key)}])
        mask_only = [[text, {**masked, "pooled_output": options.get("pooled_output")}]
                     for _, masked in positive for text, options in negative]
        self.inner_set_conds({"positive": positive, "mask_only": mask_only, "negative": without_mask})

    def set_guidance(self, guidance: Guidance):
        """Call after `set_conds`: without a mask, the mask's scale has no meaning and counts as 1."""
        self.set_cfg(guidance.text)
        self.mask_scale = guidance.mask if self.has_mask else 1.0

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options={}, seed=None) -> Tensor:
        full = self.conds["positive"]
        mask_only = self.conds["mask_only"]
        neither = self.conds["negative"]
        if math.isclose(self.mask_scale, 1.0):
            neither = None
            if math.isclose(self.cfg, 1.0) and not model_options.get("disable_cfg1_optimization", False):
                mask_only = None
        v_mt, v_m, v_0 = comfy.samplers.calc_cond_batch(
            self.inner_model, [full, mask_only, neither], x, timestep, model_options)
        guided = comfy.samplers.cfg_function(self.inner_model, v_mt, v_m, self.cfg, x, timestep,
                                             model_options=model_options, cond=full, uncond=mask_only)
        return guided if neither is None else add_mask_guidance(guided, v_m, v_0, self.mask_scale)
