"""Everything that other nodes can hang into a run by the host's guider, for the tests of each guider and sampler."""
from __future__ import annotations

import torch

import comfy.samplers
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_cfg import CFGNorm, CFGZeroStar
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_eps import EpsilonScaling
from comfy_extras.nodes_fresca import FreSca
from comfy_extras.nodes_mahiro import Mahiro
from comfy_extras.nodes_model_advanced import RescaleCFG
from comfy_extras.nodes_tcfg import TCFG


def setter(name: str, function):
    """A node that calls one of the host's `set_model_...`."""
    def hook(model):
        model = model.clone()
        getattr(model, name)(function)
        return model
    return hook


def split_rows(order):
    """A function around the model that takes the rows in any `order`, as packs for large batches do."""
    def wrapper(apply_model, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        out = torch.empty_like(x)
        for rows in order(len(x)):
            part = {name: value[rows] if torch.is_tensor(value) and len(value) == len(x) else value
                    for name, value in c.items()}
            out[rows] = apply_model(x[rows], t[rows], **part)
        return out
    return setter("set_model_unet_function_wrapper", wrapper)


def wrapper(kind: str, change):
    """A node that wraps one level of the host's sampling and changes what comes out of it."""
    def hook(model):
        model = model.clone()
        model.add_wrapper_with_key(kind, "foreign", lambda executor, *args, **kwargs: change(executor(*args, **kwargs)))
        return model
    return hook


def predict_less(args: dict) -> list:
    """Takes a pair, as the host's own node does (SkipLayerGuidanceDiTSimple)."""
    cond, uncond = args["conds"]
    out = comfy.samplers.calc_cond_batch(args["model"], [cond, uncond], args["input"], args["sigma"],
                                         args["model_options"])
    return [0.9 * prediction for prediction in out]


def change_pair(args: dict) -> list:
    """Takes a list of two, as the host's own node does (LatentApplyOperationCFG)."""
    cond, uncond = args["conds_out"]
    args["conds_out"][0] = uncond + 0.7 * (cond - uncond)
    return args["conds_out"]


def rescaled(model):
    return RescaleCFG.execute(model, 0.7)[0] if hasattr(RescaleCFG, "execute") else RescaleCFG().patch(model, 0.7)[0]


GUIDANCE = {  # change what guidance makes of the predictions
    "before guidance": setter("set_model_sampler_pre_cfg_function", change_pair),
    "guidance": setter("set_model_sampler_cfg_function",
                       lambda args: args["uncond"] + 0.7 * args["cond_scale"] * (args["cond"] - args["uncond"])),
    "after guidance": setter("set_model_sampler_post_cfg_function",
                             lambda args: 0.8 * args["denoised"] + 0.3 * args["uncond_denoised"]),
    "APG": lambda model: APG.execute(model, 0.5, 2.0, 0.3).result[0],
    "TCFG": lambda model: TCFG.execute(model).result[0],
    "FreSca": lambda model: FreSca.execute(model, 0.6, 1.5, 2).result[0],
    "Mahiro": lambda model: Mahiro.execute(model).result[0],
    "CFGNorm": lambda model: CFGNorm.execute(model, 0.5).result[0],
    "CFGZeroStar": lambda model: CFGZeroStar.execute(model).result[0],
    "RescaleCFG": rescaled,
    "EpsilonScaling": lambda model: EpsilonScaling.execute(model, 1.1).result[0],
}
MODEL = {  # change the predictions themselves
    "conditions": setter("set_model_sampler_calc_cond_batch_function", predict_less),
    "around the model": setter("set_model_unet_function_wrapper", lambda apply, args: 0.9 * apply(
        args["input"], args["timestep"], **args["c"])),
    "calc_cond_batch": wrapper(WrappersMP.CALC_COND_BATCH, lambda out: [0.9 * prediction for prediction in out]),
    "apply_model": wrapper(WrappersMP.APPLY_MODEL, lambda out: 0.9 * out),
    "diffusion_model": wrapper(WrappersMP.DIFFUSION_MODEL, lambda out: 0.9 * out),
}
RUN = {  # change the run around the predictions
    "predict_noise": wrapper(WrappersMP.PREDICT_NOISE, lambda out: 0.9 * out),
    "sampler_sample": wrapper(WrappersMP.SAMPLER_SAMPLE, lambda out: 0.9 * out),
    "outer_sample": wrapper(WrappersMP.OUTER_SAMPLE, lambda out: 0.9 * out),
}
ALL = {**GUIDANCE, **MODEL, **RUN}


def softened(model):
    """Turns the border of a noise mask into another one at each step."""
    return DifferentialDiffusion.execute(model).result[0]


def counted(model, kinds) -> tuple:
    """A clone of a model, and how often the host called each of these callbacks."""
    model = model.clone()
    calls = dict.fromkeys(kinds, 0)

    def count(kind):
        def callback(*args, **kwargs):
            calls[kind] += 1
        return callback
    for kind in kinds:
        model.add_callback_with_key(kind, "foreign", count(kind))
    return model, calls


def noise_mask(*size: int) -> torch.Tensor:
    """A ramp from 0 to 1 over the width."""
    return torch.linspace(0, 1, size[-1]).expand(1, *size)
