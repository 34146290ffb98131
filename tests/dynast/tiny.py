"""Tiny DynaST files, networks and inputs for the tests."""
from __future__ import annotations

from dataclasses import replace

import torch
from safetensors.torch import save_file

from mditface.mdit.dynast.config import DynaSTConfig
from mditface.mdit.dynast.host import PatchedDynaST
from mditface.mdit.dynast.label import Label
from mditface.mdit.dynast.model import DynaST
from mditface.mdit.dynast.weights import add_twins, fold_spectral_norm, list_published_shapes

CONFIG = DynaSTConfig(nc=15, ngf=4, max_multi=4, pos_dim=2, prune_dim=3, blocks=2, size=32)
PERSON = replace(CONFIG, nc=20)


def published(config: DynaSTConfig = CONFIG, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights in the published layout, what is saved twice equal."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in list_published_shapes(config).items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
        elif not name.endswith("model.2.weight"):
            weights[name] = torch.randn(shape, generator=generator) * 0.3
            if name.endswith(("running_var", "relu.weight")):
                weights[name] = weights[name].abs() + 0.2
    for name in [name for name in weights if name.endswith("weight_orig")]:
        flat, u = weights[name].flatten(1), weights[name.removesuffix("orig") + "u"]
        v = torch.nn.functional.normalize(flat.mT @ u, dim=0)  # as one power iteration leaves them
        weights |= {name.removesuffix("orig") + "u": torch.nn.functional.normalize(flat @ v, dim=0),
                    name.removesuffix("orig") + "v": v}
    return add_twins(weights, list_published_shapes(config))


def network(config: DynaSTConfig = CONFIG, seed: int = 0) -> DynaST:
    model = DynaST(config)
    model.load_state_dict(fold_spectral_norm(published(config, seed)))
    return model.eval().requires_grad_(False)


def patched(config: DynaSTConfig = CONFIG, seed: int = 0) -> PatchedDynaST:
    return PatchedDynaST(network(config, seed))


def write(path, config: DynaSTConfig = CONFIG, edit=lambda weights: weights) -> str:
    """A file of random weights in the published layout, after `edit`."""
    weights = {name: weight.clone() for name, weight in edit(published(config)).items()}
    if path.suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    return str(path)


def smooth(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random smooth images in 0..1, (..., H, W)."""
    coarse = torch.rand(*shape[:-2], shape[-2] // 8, shape[-1] // 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, shape[-2:], mode="bicubic").clamp(0, 1)


def label(batch: int = 1, size: int = 32, nc: int = 15, seed: int = 0) -> Label:
    return Label((smooth(batch, nc, size, size, seed=seed) * 255).byte())


def image(batch: int = 1, size: int = 40, seed: int = 9) -> torch.Tensor:
    """(B, H, W, 3)."""
    return smooth(batch, 3, size, size, seed=seed).movedim(1, -1)
