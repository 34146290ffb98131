"""The subject's encoder: images to vectors, and how the vectors enter the text's embedding.

docs/design/face-diffuser.md, sections 3.2, 3.3 and 3.4. Shapes: n images, E width of the text embedding, T text tokens.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import comfy.model_management
from comfy.clip_model import CLIPVisionModelProjection
from comfy.model_patcher import ModelPatcher

from ..shared.weight_files import check_count, read_shape

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's normalization
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
HEAD = 64  # width of a head of CLIP's vision models


class MLP(nn.Module):
    def __init__(self, width_in: int, width: int, operations, **factory):
        super().__init__()
        self.layernorm = operations.LayerNorm(width_in, **factory)
        self.fc1 = operations.Linear(width_in, width, **factory)
        self.fc2 = operations.Linear(width, width, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.layernorm(x))))


class PostFuse(nn.Module):
    """A noun's text vector and its image's vector, (n, E) each, to the noun's new vector (n, E)."""

    def __init__(self, width: int, operations, **factory):
        super().__init__()
        self.mlp1 = MLP(2 * width, width, operations, **factory)
        self.mlp2 = MLP(width, width, operations, **factory)
        self.layer_norm = operations.LayerNorm(width, **factory)

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        h = text + self.mlp1(torch.cat([text, image], dim=-1))  # (n, E)
        return self.layer_norm(h + self.mlp2(h))


class SubjectEncoder(nn.Module):
    """CLIP's vision model with its projection, and the post-fuse module; names as in the published file."""

    def __init__(self, config: dict, operations, **factory):
        super().__init__()
        self.image_size = config["image_size"]
        self.width = config["projection_dim"]
        self.image_encoder = CLIPVisionModelProjection(config, factory["dtype"], factory["device"], operations)
        self.postfuse_module = PostFuse(self.width, operations, **factory)

    def forward(self, pixels: Tensor) -> Tensor:
        """Images (n, 3, H, W) in 0..1 -> vectors (n, E)."""
        return self.image_encoder(normalize(pixels, self.image_size))[2]


class FaceDiffuserSubject(NamedTuple):
    """The encoder, and the patcher that holds it."""
    network: SubjectEncoder
    patcher: ModelPatcher

    def encode(self, images: Sequence[Tensor], resolution: int) -> Tensor:
        """Images (H, W, 3) in 0..1 of any size -> vectors (n, E) on the patcher's device, in float32."""
        comfy.model_management.load_models_gpu([self.patcher])
        pixels = torch.stack([prepare_image(image, resolution) for image in images])  # (n, 3, R, R)
        return self.network(pixels.to(self.patcher.load_device))

    def fuse(self, text: Tensor, positions: Sequence[int], vectors: Tensor) -> Tensor:
        """A copy of the text (B, T, E) in which the nouns at `positions` hold the images' `vectors` (n, E).

        Raises ValueError if the text has another width.
        """
        if text.shape[-1] != self.network.width:
            raise ValueError(f"clip: its output is {text.shape[-1]} wide, the subject's encoder needs "
                             f"{self.network.width}: connect the CLIP of 'Load Face-diffuser'")
        fused = text.clone()
        for row in fused:
            nouns = self.network.postfuse_module(row[positions].to(vectors), vectors)
            row[positions] = nouns.to(row)
        return fused


def prepare_image(image: Tensor, resolution: int) -> Tensor:
    """(H, W, 3) in 0..1 -> (3, R, R), resized to the resolution in steps of 1/255.

    Zeros on both sides of the shorter axis make the image square, or one pixel short of it for odd differences.
    """
    pixels = (image[..., :3].float().cpu().clamp(0, 1) * 255).round().movedim(-1, 0)[None]  # (1, 3, H, W)
    height, width = pixels.shape[-2:]
    pad_x = max(0, height - width) // 2
    pad_y = max(0, width - height) // 2
    pixels = F.pad(pixels, (pad_x, pad_x, pad_y, pad_y))
    pixels = F.interpolate(pixels, (resolution, resolution), mode="bilinear", antialias=True)
    return pixels[0].round().clamp(0, 255) / 255


def normalize(pixels: Tensor, size: int) -> Tensor:
    """(n, 3, H, W) in 0..1 -> (n, 3, size, size) as CLIP expects it."""
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    mean = torch.tensor(MEAN).to(pixels)[:, None, None]
    deviation = torch.tensor(DEVIATION).to(pixels)[:, None, None]
    return (pixels - mean) / deviation


def read_config(weights: dict[str, Tensor]) -> dict:
    """The host's configuration of the vision model that these tensors belong to.

    Raises ValueError, without the name of the file, where a tensor that gives a size is missing or of another shape.
    """
    model = "image_encoder.vision_model."
    embeddings = f"{model}embeddings."
    patch = read_shape(weights, f"{embeddings}patch_embedding.weight", 4)[-1]
    grid = round((read_shape(weights, f"{embeddings}position_embedding.weight", 2)[0] - 1) ** 0.5)
    layers = {key.split(".")[4] for key in weights if key.startswith(f"{model}encoder.layers.")}
    check_count(len(layers), weights, "layers of the image encoder")
    width = read_shape(weights, f"{embeddings}class_embedding", 1)[0]
    projection = read_shape(weights, "image_encoder.visual_projection.weight", 2)[0]
    return {"model_type": "clip_vision_model", "num_channels": 3, "hidden_act": "quick_gelu", "hidden_size": width,
            "num_attention_heads": width // HEAD, "num_hidden_layers": len(layers), "patch_size": patch,
            "image_size": grid * patch, "projection_dim": projection,
            "intermediate_size": read_shape(weights, f"{model}encoder.layers.0.mlp.fc1.weight", 2)[0]}
