"""Starting weights (docs/design/bundled-model.md, section 3.2). The host's layers have none."""
from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import comfy.ops

from ..mditface.config import MATCH, PRUNE, MDiTConfig
from ..mditface.exemplar_branch import ExemplarBranch
from ..mditface.layers import Stream
from ..mditface.model import MDiT
from ..mditface.text import TextEncoder

EMBEDDING_SD = 0.5
SHARPNESS = 10.0  # of the search for an exemplar's tokens: the logit of tokens with equal classes
LOCAL_FRACTION = 0.5  # of the heads
LOCAL_BIAS = (1.0, 1.5)  # of the first and the last local head


@torch.no_grad()
def initialize_layers(module: nn.Module) -> None:
    """Xavier matrices, zero biases, unit norms."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.RMSNorm):
            nn.init.ones_(layer.weight)


@torch.no_grad()
def start_locally(stream: Stream) -> None:
    """Constant query and key biases on the first member of each rotated pair, in a fraction of the heads.

    After rotation such a query has its largest product with the key of its own position. Each image token therefore
    reads the mask token of its position from the first step on. The other heads are left to the text.
    """
    local = int(stream.heads * LOCAL_FRACTION)
    bias = stream.qkv.bias.view(3, stream.heads, -1)
    bias[:2, :local, ::2] = torch.linspace(LOCAL_BIAS[0], LOCAL_BIAS[1], local).view(1, -1, 1)


@torch.no_grad()
def initialize_text(encoder: TextEncoder) -> None:
    initialize_layers(encoder)
    nn.init.normal_(encoder.embed.weight, std=EMBEDDING_SD)
    nn.init.normal_(encoder.position.weight, std=0.02)


@torch.no_grad()
def initialize_exemplar(branch: ExemplarBranch) -> None:
    """Tokens of like classes and positions find each other, no candidate is pruned, and the gates are zero."""
    initialize_layers(branch)
    nn.init.orthogonal_(branch.f.weight, gain=math.sqrt(SHARPNESS * branch.f.in_features / MATCH))
    branch.g.weight.copy_(branch.f.weight)
    for read in branch.reads:
        nn.init.zeros_(read.mod.weight)
        for layer in (read.query, read.key):
            layer.weight[-PRUNE:] *= 0.1
            nn.init.constant_(layer.bias[-PRUNE:], PRUNE ** -0.5)


@torch.no_grad()
def initialize_model(model: MDiT) -> None:
    """Zero modulation makes each block the identity at the start."""
    initialize_layers(model)
    for block in model.blocks:
        for stream in (block.img, block.txt, block.msk):
            nn.init.zeros_(stream.mod.weight)
        start_locally(block.img)
        start_locally(block.msk)
        if model.config.proxy_window:
            nn.init.zeros_(block.proxy.mod.weight)
            block.proxy.query.bias.copy_(block.img.qkv.bias[:model.config.width])  # starts locally
    if model.config.exemplar_blocks:
        initialize_exemplar(model.exemplar)
    nn.init.zeros_(model.final.mod.weight)
    nn.init.zeros_(model.final.linear.weight)


@torch.no_grad()
def store_mask_modulation(sd: dict[str, Tensor], config: MDiTConfig) -> tuple[dict[str, Tensor], MDiTConfig]:
    """The same model with a stored modulation of its mask stream (`mask_vec` constant): weights and configuration.

    sd: the model's weights, their names with `model.`.
    """
    model = MDiT(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    model.load_state_dict({name.removeprefix("model."): w for name, w in sd.items() if name.startswith("model.")})
    zero = torch.zeros(1)
    vec = model.make_vector(zero, zero.new_zeros(1, config.pooled_dim))  # (1, d)
    names = [f"model.blocks.{i}.msk.mod" for i in range(config.depth)]
    dropped = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    sd = {name: w for name, w in sd.items() if name not in dropped}
    for name, block in zip(names, model.blocks):
        sd[f"{name}.weight"] = block.msk.mod(F.silu(vec))  # (1, 6 d)
    return sd, dataclasses.replace(config, mask_vec="constant")
