"""The feature networks of the measures, read from the user's files. Nothing is downloaded."""
from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor
from torchvision.models import VisionTransformer
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms
from transformers import CLIPModel, CLIPProcessor, CLIPVisionModelWithProjection

from ...shared.weight_files import read_state_dict

INCEPTION = "inception-2015-12-05.pt"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
DINO_NAMES = (  # published name -> torchvision's, in this order
    (r"^cls_token", "class_token"), (r"^pos_embed", "encoder.pos_embedding"), (r"^patch_embed\.proj", "conv_proj"),
    (r"^norm\.", "encoder.ln."), (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
    (r"\.norm([12])\.", r".ln_\1."), (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj\.", ".self_attention.out_proj."), (r"\.mlp\.fc1\.", ".mlp.0."), (r"\.mlp\.fc2\.", ".mlp.3."),
)
DINO_PATCH = 8
DINO_HEAD_WIDTH = 64


class Inception:
    """Pool features of the TorchScript Inception-V3 of the "clean" FID, with its anti-aliased resizing.

    folder: holds the file `inception-2015-12-05.pt`.
    """

    def __init__(self, folder: Path, device: torch.device):
        self.network = InceptionV3W(str(folder), download=False).to(device)
        self.resize = build_resizer("clean")
        self.device = device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, 2048)."""
        resized = np.stack([self.resize(image) for image in images.permute(0, 2, 3, 1).numpy()])
        x = torch.from_numpy(resized).permute(0, 3, 1, 2)  # (B, 3, 299, 299) in 0..255
        return self.network(x.to(self.device)).cpu()


class ClipEmbedding:
    """Image embeddings of unit length of a CLIP folder in transformers' layout."""

    def __init__(self, folder: Path, device: torch.device):
        network = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True)
        self.network = network.eval().to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, d)."""
        side = self.network.config.image_size
        x = transforms.resize(images.float() / 255, [side, side], InterpolationMode.BICUBIC, antialias=True)
        x = transforms.normalize(x.clamp(0, 1), CLIP_MEAN, CLIP_STD)
        return F.normalize(self.network(x.to(self.device)).image_embeds, dim=-1).cpu()


class ClipScore:
    """Cosine of image and caption times the logit scale, by a CLIP folder in transformers' layout."""

    def __init__(self, folder: Path, device: torch.device):
        self.network = CLIPModel.from_pretrained(folder, local_files_only=True).eval().to(device)
        self.processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        self.device = device

    @torch.inference_mode()
    def __call__(self, images: Tensor, captions: list[str]) -> Tensor:
        """(B, 3, H, W) uint8 and B captions -> (B,)."""
        inputs = self.processor(images=list(images), text=captions, return_tensors="pt", padding=True,
                                truncation=True)
        return self.network(**inputs.to(self.device)).logits_per_image.diagonal().cpu()


class DinoKeys:
    """Keys of the last layer, all heads side by side, of DINO ViT-B/8 in its published layout.

    Like the peer's script, it reads the images in their own size and in 0..1 without normalization.
    """

    def __init__(self, path: Path, size: int, device: torch.device):
        weights = convert_dino_weights(read_state_dict(str(path), path.name), size)
        depth = sum(name.endswith("ln_1.weight") for name in weights)
        width = weights["class_token"].shape[-1]
        network = VisionTransformer(size, DINO_PATCH, depth, width // DINO_HEAD_WIDTH, width, 4 * width)
        network.heads = nn.Identity()
        network.load_state_dict(weights)
        block = network.encoder.layers[-1]
        self.weight = block.self_attention.in_proj_weight[width:2 * width].detach().to(device)
        self.bias = block.self_attention.in_proj_bias[width:2 * width].detach().to(device)
        block.ln_1.register_forward_hook(self.keep)
        self.network = network.eval().to(device)
        self.device = device

    def keep(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.normed = output

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) uint8 -> (B, tokens, d), the class token first."""
        self.network(images.to(self.device).float() / 255)
        return F.linear(self.normed, self.weight, self.bias)


def convert_dino_weights(published: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """DINO's state dict under torchvision's names, its position embedding resized for images of `size` pixels."""
    weights = {}
    for name, weight in published.items():
        for pattern, replacement in DINO_NAMES:
            name = re.sub(pattern, replacement, name)
        weights[name] = weight
    positions = weights["encoder.pos_embedding"]  # (1, 1 + side^2, d), the class token first
    first = positions[:, :1]
    rest = positions[:, 1:]
    side = round(rest.shape[1] ** 0.5)
    target = size // DINO_PATCH
    if side != target:
        grid = rest.unflatten(1, (side, side)).movedim(-1, 1)  # (1, d, side, side)
        scale = (target + 0.1) / side  # as published, against rounding down
        rest = F.interpolate(grid, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)
    return weights | {"encoder.pos_embedding": torch.cat([first, rest], dim=1)}
