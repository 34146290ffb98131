"""Face-MoGLE with small random weights in the published layout."""
from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import comfy.ops
from mditface.mdit.face_mogle.gate import Gate
from mditface.mdit.face_mogle.mixer import ExpertMixer, load_gate
from mditface.mdit.mditface.adapter.condition_lora import EMBEDDER, FEATURES, SIZES, list_modules
from mditface.mdit.mditface.adapter.terms import Adapter
from mditface.mdit.mditface.adapter.weights import load_condition_adapter

LORA = "pytorch_lora_weights.safetensors"
GATE = "global_local_mask_moe.pt"
WIDTH, DEPTH, RANK = 256, (2, 3), 2


def lora(width: int = WIDTH, depth: tuple[int, int] = DEPTH, rank: int = RANK) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for module in list_modules(depth).values():
        n_in, n_out = SIZES.get(module.split(".", 2)[-1], (1, 1))
        inputs = FEATURES if module == EMBEDDER else n_in * width
        weights[f"transformer.{module}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) * inputs ** -0.5
        weights[f"transformer.{module}.lora_B.weight"] = torch.randn(n_out * width, rank, generator=generator) * 0.4
    return weights


def gate() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    network = Gate(device="meta", operations=comfy.ops.manual_cast)
    return {name: torch.randn(weight.shape, generator=generator) * 2 * weight.shape[-1] ** -0.5
            for name, weight in network.state_dict().items()}


def write(folder: Path, lora_weights: dict[str, Tensor] | None = None, gate_weights: dict[str, Tensor] | None = None
          ) -> tuple[str, str]:
    """Writes both files; their paths."""
    save_file(lora() if lora_weights is None else lora_weights, str(folder / LORA))
    torch.save(gate() if gate_weights is None else gate_weights, folder / GATE)
    return str(folder / LORA), str(folder / GATE)


def load(files: tuple[str, str], **switches) -> Adapter:
    lora_path, gate_path = files
    return load_condition_adapter(lora_path, "lora_name").with_mixer(ExpertMixer(load_gate(gate_path), **switches))
