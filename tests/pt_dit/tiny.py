"""Tiny PT-DiT files and models for the tests."""
from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

import comfy.ops
from mditface.mdit.pt_dit.config import PTDiTConfig, PTDiTSettings
from mditface.mdit.pt_dit.model import PTDiT

CONFIG = PTDiTConfig(width=144, depth=2, heads=2, caption=24, settings=PTDiTSettings((1, 4, 4)))
JSON = json.dumps({"predictor": {"num_heads": 2, "head_dim": 72, "compress_ratios": [1, 4, 4],
                                 "proxy_compress_ratios": [1, 4, 4]}})


def random_weights(module: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(weight.shape, generator=generator) * 0.05
            for name, weight in module.state_dict().items()}


def network(config: PTDiTConfig = CONFIG, seed: int = 0) -> PTDiT:
    model = PTDiT(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    model.load_state_dict(random_weights(model, seed))
    return model.eval().requires_grad_(False)


def write(path, config: PTDiTConfig = CONFIG, edit=lambda weights: weights) -> str:
    """A file of random weights in the published layout, after `edit`, with its config.json."""
    weights = random_weights(network(config)) | {"pos_embed.pos_embed": torch.zeros(1, 1, 4, config.width)}
    save_file(edit(weights), str(path))
    path.with_suffix(".json").write_text(JSON)
    return str(path)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
