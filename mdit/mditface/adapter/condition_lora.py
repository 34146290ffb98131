"""Condition LoRAs of the joint stream in the layout of diffusers, as OminiControl and Face-MoGLE publish them
(docs/design/adapters.md, section 5.7)."""
from __future__ import annotations

import itertools
import re

from torch import Tensor

from ...shared.weight_files import check_layout, join_names
from .config import KINDS, PROMPT_POOLED, AdapterConfig
from .families import EMBEDDING, MODULATION

KEY = re.compile(r"transformer\.((?:single_)?transformer_blocks\.(\d+)\.)?(.+)\.lora_([AB])\.weight")
EMBEDDER = "x_embedder"
FEATURES = 64  # of a token: 16 channels of 2 x 2 latent cells
LISTS = {"double": "transformer_blocks", "single": "single_transformer_blocks"}
LAYERS = {
    "double": {"norm1.linear": MODULATION, "attn.to_q": "qkv_q", "attn.to_k": "qkv_k", "attn.to_v": "qkv_v",
               "attn.to_out.0": "proj", "ff.net.2": "fc2"},
    "single": {"norm.linear": MODULATION, "attn.to_q": "linear1_q", "attn.to_k": "linear1_k",
               "attn.to_v": "linear1_v", "proj_mlp": "linear1_mlp", "proj_out": "linear2"},
}
SIZES = {"norm1.linear": (1, 6), "norm.linear": (1, 3), "ff.net.2": (4, 1), "proj_mlp": (1, 4),
         "proj_out": (5, 1)}  # widths of a layer's input and output; (1, 1) for the others


def read_condition_lora(weights: dict[str, Tensor], path: str, source: str
                        ) -> tuple[AdapterConfig, dict[str, dict[str, Tensor]]]:
    """The configuration and the terms of a file. There is no alpha: the scale is 1.

    Raises ValueError, naming the node's input `source`, for a LoRA that has not exactly the terms of a condition.
    """
    check_modules(weights, path, source)
    rank = len(weights[f"transformer.{EMBEDDER}.lora_A.weight"])
    width = len(weights[f"transformer.{EMBEDDER}.lora_B.weight"])
    depth = measure_depth(weights)
    modules = list_modules(depth)
    shapes = {}
    for name, module in modules.items():
        n_in, n_out = SIZES.get(module.split(".", 2)[-1], (1, 1))
        shapes[f"transformer.{module}.lora_A.weight"] = rank, FEATURES if name == EMBEDDING else n_in * width
        shapes[f"transformer.{module}.lora_B.weight"] = n_out * width, rank
    check_layout(weights, shapes, path, source)
    terms = {}
    for name, module in modules.items():
        down, up = (weights[f"transformer.{module}.lora_{half}.weight"] for half in "AB")
        terms[name] = {"down": down, "up": up}
    config = AdapterConfig("flux", width, depth, rank, rank, mask_vec=PROMPT_POOLED, joint=True,
                           base_hint="FLUX.1-dev")
    return config, terms


def measure_depth(weights: dict[str, Tensor]) -> tuple[int, int]:
    """The numbers of double and single blocks that the file has terms for."""
    counts = []
    for kind in KINDS:
        found = {match[2] for match in map(KEY.fullmatch, weights)
                 if match and match[1] and match[1].startswith(f"{LISTS[kind]}.")}
        counts.append(len(found))
    return tuple(counts)


def list_modules(depth: tuple[int, int]) -> dict[str, str]:
    """Diffusers' modules by our names of their terms."""
    modules = {EMBEDDING: EMBEDDER}
    for kind, count in zip(KINDS, depth):
        for i, (module, name) in itertools.product(range(count), LAYERS[kind].items()):
            modules[f"{kind}.{i}.{name}"] = f"{LISTS[kind]}.{i}.{module}"
    return modules


def check_modules(weights: dict[str, Tensor], path: str, source: str):
    """Raises ValueError for a LoRA of other modules, such as an ordinary one."""
    found = set(weights)
    modules = list_modules(measure_depth(weights)).values()
    expected = {f"transformer.{module}.lora_{half}.weight" for module, half in itertools.product(modules, "AB")}
    problems = {"lacks terms for": sorted(expected - found), "has others for": sorted(found - expected)}
    if texts := [f"{what} {join_names(names)}" for what, names in problems.items() if names]:
        raise ValueError(f"{source}: '{path}' is no condition LoRA of the joint stream: it {' and '.join(texts)}. Load "
                         "an ordinary LoRA with 'Load LoRA', and take the file as its authors published it here")
