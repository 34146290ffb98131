"""Guidance with a scale for the mask and a scale for the text (docs/design/mditface.md, section 3.8)."""
from __future__ import annotations

import math

from torch import Tensor

import comfy.samplers

from .mask import is_mask


class DualGuider(comfy.samplers.CFGGuider):
    """v = v(0,0) + w_m [v(m,0) - v(0,0)] + w_t [v(m,t) - v(m,0)], of which only terms with a weight are evaluated.

    v(m,t) is the positive conditioning, v(m,0) the positive with the negative's text, v(0,0) the negative without
    a mask. All of them run in one batch where the host finds the memory.
    """

    def set_conds(self, positive, negative):
        self.has_mask = any(is_mask(key) for _, extra in positive for key in extra)
        without_mask = [[text, {k: v for k, v in extra.items() if not is_mask(k)}] for text, extra in negative]
        mask_only = [[text, {**cond, "pooled_output": extra.get("pooled_output")}]
                     for _, cond in positive for text, extra in negative]
        self.inner_set_conds({"positive": positive, "mask_only": mask_only, "negative": without_mask})

    def set_scales(self, text_scale: float, mask_scale: float):
        """Call after `set_conds`: without a mask its scale says nothing and counts as 1."""
        self.set_cfg(text_scale)
        self.mask_scale = mask_scale if self.has_mask else 1.0

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options={}, seed=None) -> Tensor:
        full, mask_only, none = (self.conds[name] for name in ("positive", "mask_only", "negative"))
        if math.isclose(self.mask_scale, 1.0):
            none = None
            if math.isclose(self.cfg, 1.0) and not model_options.get("disable_cfg1_optimization", False):
                mask_only = None
        v_mt, v_m, v_0 = comfy.samplers.calc_cond_batch(
            self.inner_model, [full, mask_only, none], x, timestep, model_options)
        guided = comfy.samplers.cfg_function(self.inner_model, v_mt, v_m, self.cfg, x, timestep,
                                             model_options=model_options, cond=full, uncond=mask_only)
        return guided if none is None else guided + (self.mask_scale - 1) * (v_m - v_0)
