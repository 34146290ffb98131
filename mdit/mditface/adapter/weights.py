"""Adapter files: what is in them, and the low-rank terms that they hold (spec sections 3.6, 5.2 and 5.5)."""
from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

import comfy.model_management
import comfy.model_patcher
import comfy.ops

from ...shared.weight_files import join_names, read_weights
from ..layers import LowRank

METADATA_KEY = "mdit.adapter"
CHOICES = {"family": ("sd3", "flux"), "mask_vec": ("zero_pooled", "prompt_pooled")}
# Widths of a layer's input and output over the model's; `mod` of SD3.5's blocks with a second attention has 9.
LAYERS = {"qkv": (1, (3,)), "proj": (1, (1,)), "fc1": (1, (4,)), "fc2": (4, (1,)), "mod": (1, (3, 6, 9)),
          "linear1": (1, (7,)), "linear2": (5, (1,))}
KINDS = {"double": ("qkv", "proj", "fc1", "fc2", "mod"), "single": ("linear1", "linear2", "mod")}
OWN_KEY = re.compile(r"(double|single)\.(\d+)\.(\w+)\.(down|up)")
EASYCONTROL_KEY = re.compile(
    r"(single_)?transformer_blocks\.(\d+)\.attn\.processor\.(q|k|v|proj)_loras\.(\d+)\.(down|up)\.weight")
EASYCONTROL_SIZE = 512
SOURCE = "adapter_name"


@dataclass(frozen=True)
class AdapterConfig:
    """`depth` counts the double (SD3: joint) and the single blocks. `condition` and `corner` are those of MaskLayout,
    `window` the radius of `Reach`. With `proj_after` the term of the output projection is applied to the projection's
    own output (EasyControl)."""
    family: str
    width: int
    depth: tuple[int, int]
    rank: int
    alpha: float
    palette: tuple[tuple[int, int, int], ...] = ()
    mask_vec: str = "zero_pooled"
    text_reads_mask: bool = True
    base_hint: str = ""
    window: int = 0
    condition: int = 0
    corner: bool = False
    proj_after: bool = False

    def __post_init__(self):
        depth = (self.depth, 0) if isinstance(self.depth, int) else tuple(self.depth)
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "palette", tuple(tuple(colour) for colour in self.palette))
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is '{getattr(self, name)}', must be one of {', '.join(allowed)}")
        if self.family == "sd3" and (self.condition or self.mask_vec != "zero_pooled"):
            raise ValueError("family sd3 has neither a condition of fixed size nor mask_vec prompt_pooled")
        if self.window and (self.condition or self.text_reads_mask):
            raise ValueError("a window needs text_reads_mask false and no condition of fixed size")

    def to_metadata(self) -> dict[str, str]:
        return {METADATA_KEY: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> AdapterConfig:
        try:
            return cls(**json.loads(metadata[METADATA_KEY]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"the file's '{METADATA_KEY}' header is not sound ({error}): take the original file"
                             ) from error


class Adapter(nn.Module):
    """The mask stream's low-rank terms, by block and layer: `double.0.qkv`, `single.3.linear1`."""

    def __init__(self, config: AdapterConfig, terms: dict[str, dict[str, Tensor]]):
        super().__init__()
        self.config = config
        digest = hashlib.blake2b(repr(config).encode())
        self.terms = nn.ModuleDict()
        for name, weights in sorted(terms.items()):
            down, up = weights["down"], weights["up"]
            term = LowRank(down.shape[1], up.shape[0], config.rank, config.alpha, down.dtype, "meta",
                           comfy.ops.manual_cast)
            term.load_state_dict({"down.weight": down, "up.weight": up}, assign=True)
            self.terms[name.replace(".", "_")] = term.requires_grad_(False)
            for part in (down, up):
                digest.update(repr((name, part.shape, part.dtype)).encode())
                digest.update(part.contiguous().view(torch.uint8).numpy())
        self.id = digest.hexdigest()
        management = comfy.model_management
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            self, management.get_torch_device(), management.unet_offload_device())

    def term(self, name: str, x: Tensor) -> Tensor | None:
        """What the adapter adds to the output of a layer with the input x; None where it has nothing."""
        name = name.replace(".", "_")
        if name in self.terms:
            return self.terms[name](x)
        parts = [f"{name}_{part}" for part in "qkv"]
        if parts[0] not in self.terms:
            return None
        return torch.cat([self.terms[part](x) for part in parts], dim=-1)


def load_adapter(path: str) -> Adapter:
    """Loads a file of our own format or a condition adapter of EasyControl for FLUX.

    Raises ValueError, naming the file and what is wrong, for anything else.
    """
    weights, metadata = read_weights(path, SOURCE)
    try:
        if METADATA_KEY in metadata or any(OWN_KEY.fullmatch(key) for key in weights):
            config, terms = read_own(weights, metadata)
        elif any(EASYCONTROL_KEY.fullmatch(key) for key in weights):
            config, terms = read_easycontrol(weights)
        else:
            raise ValueError("it is neither an MDiTFace adapter ('mdit.adapter' in its header) nor an EasyControl "
                             "condition adapter for FLUX; load an ordinary LoRA with the host's LoRA loader")
        check_terms(config, terms)
    except ValueError as error:
        raise ValueError(f"{SOURCE}: '{path}': {error}") from error
    return Adapter(config, terms)


def read_own(weights: dict, metadata: dict) -> tuple[AdapterConfig, dict]:
    if METADATA_KEY not in metadata:
        raise ValueError(f"its keys are those of an MDiTFace adapter but its header has no '{METADATA_KEY}': it was "
                         "converted by a tool that drops the header; take the original file")
    config, terms = AdapterConfig.from_metadata(metadata), {}
    for key, weight in weights.items():
        match = OWN_KEY.fullmatch(key)
        if match is None or match[3] not in KINDS[match[1]]:
            raise ValueError(f"it holds the unknown key {key}: it was renamed or made for a newer version of this "
                             "pack; take the original file, or update the pack")
        terms.setdefault(f"{match[1]}.{match[2]}.{match[3]}", {})[match[4]] = weight
    return config, terms


def read_easycontrol(weights: dict) -> tuple[AdapterConfig, dict]:
    """Spec section 5.5: q, k and v are the rows of the fused projection one after another; no alpha, scale 1."""
    terms, depth = {}, [0, 0]
    for key, weight in weights.items():
        match = EASYCONTROL_KEY.fullmatch(key)
        if match is None or match[4] != "0":
            raise ValueError(f"it holds the key {key}: only adapters with a single condition can be read")
        kind = "single" if match[1] else "double"
        layer = "proj" if match[3] == "proj" else ("linear1_" if match[1] else "qkv_") + match[3]
        terms.setdefault(f"{kind}.{match[2]}.{layer}", {})[match[5]] = weight
        depth[kind == "single"] = max(depth[kind == "single"], int(match[2]) + 1)
    expected = {f"double.{i}.{layer}" for i in range(depth[0]) for layer in ("qkv_q", "qkv_k", "qkv_v", "proj")}
    expected |= {f"single.{i}.linear1_{part}" for i in range(depth[1]) for part in "qkv"}
    if missing := sorted(expected - set(terms)):
        raise ValueError(f"it lacks the layers {join_names(missing)}: it is truncated; download it again")
    first = next(iter(terms.values())).get("down")
    if first is None or first.ndim != 2:
        raise ValueError("it lacks the 'down' half of a layer: it is truncated; download it again")
    rank, width = first.shape
    return AdapterConfig("flux", width, tuple(depth), rank, rank, mask_vec="prompt_pooled", condition=EASYCONTROL_SIZE,
                         corner=True, proj_after=True, base_hint="FLUX.1-dev"), terms


def check_terms(config: AdapterConfig, terms: dict[str, dict[str, Tensor]]):
    """Raises ValueError unless each layer has both halves of the rank, and the shapes that the width demands."""
    if not terms:
        raise ValueError("it holds no layers: it is truncated; download it again")
    for name, halves in terms.items():
        kind, block, layer = name.split(".")
        if set(halves) != {"down", "up"}:
            raise ValueError(f"the layer {name} has no '{'up' if 'down' in halves else 'down'}' half: it is truncated; "
                             "download it again")
        if int(block) >= config.depth[kind == "single"]:
            raise ValueError(f"the layer {name} lies outside its depth {config.depth}: its header belongs to another "
                             "file; take the original file")
        n_in, n_out = (1, (1,)) if "_" in layer else LAYERS[layer]
        down, up = halves["down"].shape, halves["up"].shape
        fits = down == (config.rank, n_in * config.width) and up in [(n * config.width, config.rank) for n in n_out]
        if not fits:
            raise ValueError(f"the layer {name} is {tuple(down)} and {tuple(up)}, which does not fit rank "
                             f"{config.rank} and width {config.width}: it is damaged; download it again")
