"""Starting weights (bundled-model spec, section 3); the host's layers come without any."""
from __future__ import annotations

import math

import torch
import torch.nn as nn

from ..mditface.config import MATCH, PRUNE
from ..mditface.exemplar_branch import ExemplarBranch
from ..mditface.layers import Stream
from ..mditface.model import MDiT
from ..mditface.text import TextEncoder

EMBEDDING_SD = 0.5
SHARPNESS = 10.0  # of the search for an exemplar's tokens: the logit of a token with the same classes
LOCAL_SHARE = 0.5  # of the heads
LOCAL_BIAS = (1.0, 1.5)  # of the first and the last local head


@torch.no_grad()
def plain_weights(module: nn.Module) -> None:
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
def local_start(stream: Stream) -> None:
    """Constant query and key biases on the first member of each rotated pair, in a share of the heads.

    Rotated, such a query meets such a key best at its own place, so that each image token reads the mask token
    of the same place from the first step on. The other heads are left to the text.
    """
    local = int(stream.heads * LOCAL_SHARE)
    bias = stream.qkv.bias.view(3, stream.heads, -1)
    bias[:2, :local, ::2] = torch.linspace(*LOCAL_BIAS, local).view(1, -1, 1)


@torch.no_grad()
def initialise_text(encoder: TextEncoder) -> None:
    plain_weights(encoder)
    nn.init.normal_(encoder.embed.weight, std=EMBEDDING_SD)
    nn.init.normal_(encoder.position.weight, std=0.02)


@torch.no_grad()
def initialise_exemplar(branch: ExemplarBranch) -> None:
    """Tokens of like classes and places find each other, no candidate is pruned, and the gates are shut."""
    plain_weights(branch)
    nn.init.orthogonal_(branch.f.weight, gain=math.sqrt(SHARPNESS * branch.f.in_features / MATCH))
    branch.g.weight.copy_(branch.f.weight)
    for read in branch.reads:
        nn.init.zeros_(read.mod.weight)
        for layer in (read.query, read.key):
            layer.weight[-PRUNE:] *= 0.1
            nn.init.constant_(layer.bias[-PRUNE:], PRUNE ** -0.5)


@torch.no_grad()
def initialise_model(model: MDiT) -> None:
    """Zero modulation makes each block the identity at the start."""
    plain_weights(model)
    for block in model.blocks:
        for stream in (block.img, block.txt, block.msk):
            nn.init.zeros_(stream.mod.weight)
        local_start(block.img)
        local_start(block.msk)
        if model.config.proxy_window:
            nn.init.zeros_(block.proxy.mod.weight)
            block.proxy.query.bias.copy_(block.img.qkv.bias[:model.config.width])  # its local start
    if model.config.exemplar_blocks:
        initialise_exemplar(model.exemplar)
    nn.init.zeros_(model.final.mod.weight)
    nn.init.zeros_(model.final.linear.weight)
