"""Tiny random models of the FLUX family, of the host's own classes and in the published layouts."""
from __future__ import annotations

import torch
from torch import Tensor

import comfy.ldm.flux.controlnet
import comfy.ldm.flux.model
import comfy.ops
import comfy.utils
from devtools.server import Server
from mditface.tests.adapter import bases

KLEIN = dict(in_channels=128, out_channels=128, vec_in_dim=None, context_in_dim=bases.CONTEXT, hidden_size=256,
             mlp_ratio=3.0, num_heads=2, depth=1, depth_single_blocks=2, axes_dim=[32, 32, 32, 32], theta=2000,
             patch_size=1, qkv_bias=False, guidance_embed=False, txt_ids_dims=[3], global_modulation=True,
             mlp_silu_act=True, ops_bias=False)
OTHER_NAMES = ("linear_in", "linear_out", "to_qkv_mlp_proj", "attn.to_out.weight")  # of LoKr and FLUX.2
MAKE = dict(device="meta", dtype=torch.float32, operations=comfy.ops.disable_weight_init)


def write_files(server: Server) -> None:
    """Puts the models into the server's folders, under the names that `stand_ins.SWAPS` gives them."""
    server.save_weights("diffusion_models", "stand-in-flux-fill", fill_weights())
    server.save_weights("controlnet", "stand-in-flux", flux_control_weights())
    server.save_weights("diffusion_models", "stand-in-klein", klein_weights())


def fill_weights() -> dict[str, Tensor]:
    """FLUX.1 Fill: 16 latent channels, 16 of the masked picture, and 64 of the mask."""
    network = comfy.ldm.flux.model.Flux(**bases.FLUX | dict(in_channels=96), **MAKE)
    return rename_norms(bases.random_weights(network))


def klein_weights() -> dict[str, Tensor]:
    """FLUX.2 Klein: modulation shared by all blocks, gated layers, no guidance and no pooled text."""
    network = comfy.ldm.flux.model.Flux(**KLEIN, **MAKE)
    return rename_norms(bases.random_weights(network))


def flux_control_weights() -> dict[str, Tensor]:
    """A ControlNet for FLUX.1 under the names of diffusers, as Union Pro 2.0 has them."""
    options = bases.FLUX | dict(depth=1, depth_single_blocks=1)
    network = comfy.ldm.flux.controlnet.ControlNetFlux(latent_input=True, control_latent_channels=16, **options, **MAKE)
    weights = bases.random_weights(network)
    renamed = {name: weight for name, weight in weights.items() if name.startswith("controlnet_")}
    for name, place in comfy.utils.flux_to_diffusers(options).items():
        key, part = (place, None) if isinstance(place, str) else place[:2]
        if key in weights and not any(other in name for other in OTHER_NAMES):
            renamed[name] = weights[key] if part is None else weights[key].narrow(*part).contiguous()
    return renamed


def rename_norms(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """FLUX.1's files call the weights of norms scales."""
    return {name.replace("_norm.weight", "_norm.scale"): weight for name, weight in weights.items()}
