"""Tiny MMFace-DiT files and models for the tests, in the published layout."""
from __future__ import annotations

import torch
from safetensors.torch import save_file

import comfy.ops
from comfy.clip_model import CLIPTextModel
from mditface.mdit.mmface import text
from mditface.mdit.mmface.config import MMFaceConfig
from mditface.mdit.mmface.model import MMFaceDiT

CONFIG = MMFaceConfig(width=144, depth=2, text=64)
TEXT_CONFIG = {"num_hidden_layers": text.LAYERS, "hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 64,
               "hidden_act": "gelu", "max_position_embeddings": text.LENGTH, "eos_token_id": 49407}


def random_weights(module: torch.nn.Module, seed: int = 0, scale: float = 0.05) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(weight.shape, generator=generator) * scale
            for name, weight in module.state_dict().items()}


def network(config: MMFaceConfig = CONFIG, seed: int = 0) -> MMFaceDiT:
    model = MMFaceDiT(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    model.load_state_dict(random_weights(model, seed))
    return model.eval().requires_grad_(False)


def write(path, config: MMFaceConfig = CONFIG, edit=lambda weights: weights) -> str:
    """A file of random weights in the published layout, after `edit`."""
    save_file(edit(random_weights(network(config))), str(path))
    return str(path)


def text_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of a text encoder in diffusers' layout."""
    model = CLIPTextModel(TEXT_CONFIG, torch.float32, "cpu", comfy.ops.disable_weight_init)
    weights = random_weights(model, seed, scale=0.1)
    weights.pop("text_projection.weight")
    return {name: weight + 1 if "norm" in name and name.endswith("weight") else weight
            for name, weight in weights.items()}


def write_text(path, edit=lambda weights: weights) -> str:
    save_file(edit(text_weights()), str(path))
    return str(path)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
