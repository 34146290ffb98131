"""Golden sets on a FLUX.1 of their own: the model, calls and runs of it, and comparisons."""
from __future__ import annotations

import contextlib
import hashlib
import json
import math

import pytest
import torch

import comfy.samplers
import comfy.sd
from comfy.ldm.flux import model as flux_model
from mditface.mdit.mditface.adapter.families import flux
from mditface.mdit.mditface.cache import RunReport
from mditface.mdit.mditface.mask import MaskReference
from mditface.mdit.mditface.reader import OPTIONS_KEY, CacheOptions, MaskCond, name_rows
from mditface.mdit.shared.conds import RowCond
from mditface.mdit.shared.masks import CONDITIONING_KEY, REPORT_KEY
from mditface.tests.golden_set import find, read

TOLERANCE = dict(rtol=1e-4, atol=5e-5)
STATE = dict(rtol=0, atol=1e-4)


def sinusoids(t, dim, max_period=10000, time_factor=1000.0):
    """The host's timestep_embedding with frequencies that are the same on every CPU.

    The last bit of a float32 exp differs between CPUs; at 1000 times the guidance it turns a sinusoid by 2e-4.
    """
    half = dim // 2
    exponents = -math.log(max_period) * torch.arange(half, dtype=torch.float32) / half
    frequencies = exponents.double().exp().float()
    phases = (time_factor * t)[:, None].float() * frequencies
    return torch.cat((phases.cos(), phases.sin()), dim=-1).to(t)


@contextlib.contextmanager
def equal_sinusoids():
    """`sinusoids` in the host's FLUX and in the adapter's stream."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (flux_model, flux):
            patch.setattr(module, "timestep_embedding", sinusoids, raising=False)
        yield


def load_base(folder):
    """The set's FLUX, as the host loads it."""
    layout = json.loads(find(folder, "base_layout.json").read_text())
    pool = read(folder, "base_pool.safetensors")["pool"]
    weights = {}
    for tensor in layout["tensors"]:
        places = (torch.arange(math.prod(tensor["shape"])) + tensor["first"]) % pool.numel()
        weights[tensor["key"]] = (pool[places] * tensor["scale"] + tensor["shift"]).reshape(tensor["shape"])
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode())
        digest.update(weights[key].numpy().tobytes())
    assert digest.hexdigest() == layout["sha256"]
    return comfy.sd.load_diffusion_model_state_dict(weights)


class Latents:
    """Stands in for the VAE: knows one picture."""

    def __init__(self, latent):
        self.latent = latent

    def encode(self, picture):
        return self.latent


class Recorded:
    """What the network returned in each call of a block."""

    def __init__(self, base):
        self.network, self.outputs = base.model.diffusion_model, []

    def __enter__(self):
        self.hook = self.network.register_forward_hook(lambda module, args, out: self.outputs.append(out.clone()))
        return self.outputs

    def __exit__(self, *_):
        self.hook.remove()


def call(base, case, setup=None, mode="auto"):
    """The velocity of one call, and what it did on the static path.

    setup: has a model, its reader and the bound mask; None for the bare model.
    """
    report, masks, wrappers = RunReport(), {}, {}
    base.model.current_patcher = base
    if setup is not None:
        base.model.current_patcher, wrappers = setup.model, setup.model.wrappers
        rows = RowCond(torch.arange(len(case["latent"]))).concat([])
        masks = {setup.reader.key: [MaskCond(setup.bound)], name_rows(setup.reader.key): rows}
    options = {"wrappers": wrappers, REPORT_KEY: report, OPTIONS_KEY: CacheOptions(mode)}
    with Recorded(base) as outputs:
        base.model.apply_model(case["latent"], case["timestep"], c_crossattn=case["context"], y=case["pooled"],
                               guidance=case["guidance"], transformer_options=options, **masks)
    (velocity,) = outputs
    return velocity, report


def close(actual, expected, what, **tolerance) -> bool:
    """Whether the set holds what is expected; if so, it is compared."""
    if expected is None:
        return False
    torch.testing.assert_close(actual, expected, **tolerance, msg=lambda text: f"{what}: {text}")
    return True


def names(base):
    network = base.model.diffusion_model
    doubles, singles = len(network.double_blocks), len(network.single_blocks)
    return [f"double.{i}" for i in range(doubles)] + [f"single.{i}" for i in range(singles)]


def sample(model, trajectory, reference: MaskReference | None = None, mode="auto"):
    """A run of the host's Euler sampler: states before each step, the result in the model's space, the report."""
    model, report, states = model.clone(), RunReport(), []
    model.model_options["transformer_options"] |= {REPORT_KEY: report, OPTIONS_KEY: CacheOptions(mode)}
    cond = {"pooled_output": trajectory["pooled"], "guidance": trajectory["guidance"].item()}
    masked = cond if reference is None else {**cond, CONDITIONING_KEY: reference}
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds([[trajectory["context"], masked]], [[trajectory["context"], cond]])
    guider.set_cfg(1.0)
    noise = trajectory["noise"]
    out = guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), trajectory["sigmas"],
                        callback=lambda step, x0, x, total: states.append(x.clone()), disable_pbar=True, seed=0)
    return states, model.model.process_latent_in(out), report
