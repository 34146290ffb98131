"""Sizes of an MMFace-DiT from its weights, and what the weights leave open (docs/design/mmface-dit.md, section 1)."""
from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass

from torch import Tensor

from ..shared.text_files import read_header
from ..shared.weight_files import read_shape

MARKS = ("modality_embedder.weight", "clip_seq_proj.weight", "blocks.0.attn.to_q_t.weight")
HEAD_DIM = 72
SAVED_KEY = "mmface_config"
AUTO = "auto"
OBJECTIVES = ("flow", "diffusion")
TIMES = ("as trained", "exact")
FLOW_NAME = re.compile(r"(?<![a-z])(rfm|flow)(?![a-z])")
DIFFUSION_NAME = re.compile(r"(?<![a-z])(ddpm|diffusion)(?![a-z])")
DIFFUSION_FOLDER = "unified-flux-vae-256"  # as published; that of the flow adds -rfm


@dataclass(frozen=True)
class MMFaceConfig:
    """Sizes of the network. Raises ValueError for a width without whole heads.

    text: width of the text tokens and of the pooled text.
    in_channels: of the noisy latent and the condition together.
    objective, time: entries of OBJECTIVES and TIMES.
    """
    width: int
    depth: int
    text: int
    in_channels: int = 32
    patch: int = 2
    objective: str = OBJECTIVES[0]
    time: str = TIMES[0]

    def __post_init__(self):
        if self.width % HEAD_DIM or not self.patch or not self.in_channels:
            raise ValueError(f"its width {self.width} is no multiple of {HEAD_DIM}, the width of a head: it is another "
                             "network with the same names")

    @property
    def heads(self) -> int:
        return self.width // HEAD_DIM

    @property
    def latent_channels(self) -> int:
        return self.in_channels // 2

    def to_header(self) -> dict[str, str]:
        """The header of a file that the host saved."""
        return {SAVED_KEY: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_header(cls, header: dict[str, str]) -> MMFaceConfig:
        """Inverse of `to_header`. Raises ValueError for another header."""
        return read_header(cls, header, SAVED_KEY)


def read_config(weights: dict[str, Tensor]) -> MMFaceConfig:
    """Raises ValueError for weights that are no MMFace-DiT."""
    if not all(mark in weights for mark in MARKS):
        raise ValueError("it holds no MMFace-DiT weights (no " + " or ".join(MARKS) + "): take "
                         "dit_model_weights_ema.safetensors of BharathK333/MMFace-DiT-Models, and load other models "
                         "with the host's own loaders")
    width, channels, patch, _ = read_shape(weights, "x_embedder.proj.weight", 4)
    depth = len({key.split(".")[1] for key in weights if key.startswith("blocks.")})
    text = read_shape(weights, "clip_seq_proj.weight", 2)[1]
    return MMFaceConfig(width=width, depth=depth, text=text, in_channels=channels, patch=patch)


def find_objective(name: str) -> str:
    """The objective that a file's name, with its folders, tells. Raises ValueError if it tells none or both."""
    name = name.lower().replace("\\", "/")
    flow = bool(FLOW_NAME.search(name))
    diffusion = bool(DIFFUSION_NAME.search(name)) or DIFFUSION_FOLDER in name and not flow
    if flow == diffusion:
        raise ValueError("objective: neither the weights nor the name of the file say what the model predicts, since "
                         "all published files share one name: choose 'diffusion' for the one of the folder "
                         "dit-unified-flux-vae-256, 'flow' for those of the two folders that end with -rfm")
    return "flow" if flow else "diffusion"
