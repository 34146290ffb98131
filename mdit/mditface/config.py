"""Configuration of a stand-alone MDiT, as its safetensors header stores it (docs/design/mditface.md, section 4)."""
from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import NamedTuple

from ..shared.text_files import read_header

MATCH = 64  # features by which an exemplar's token is compared
PRUNE = 16  # features that decide whether an exemplar's token is read at all
FORMAT = "1"
FORMAT_KEY = "mdit.format"
CONFIG_KEY = "mdit.config"
LATENT_RATIOS = {"pixel": 1, "sd15": 8, "sdxl": 8, "sd3": 8, "flux": 8, "autoencoder": 16}  # pixels along a cell's side
CHOICES = {
    "latent_format": tuple(LATENT_RATIOS),
    "qk_norm": ("rms", "none"),
    "pos": ("rope2d", "sincos"),
    "mask_tokenizer": ("vae_palette", "class_embed"),
    "mask_vec": ("zero_pooled", "constant"),
    "prediction": ("velocity", "clean"),
}


class MaskLayout(NamedTuple):
    """How a model's mask tokens are made of label maps or pictures, and how large their keys and values are.

    tokenizer: one of CHOICES["mask_tokenizer"].
    palette: colors of the classes for `vae_palette`; empty for the standard ones.
    patch: side of a token in latent cells.
    blocks, width: number and width of the blocks that read the mask.
    cells: label cells along a token's side for `class_embed`.
    condition: side in pixels of the square that every label map or picture is fitted to; 0 for the image's own size.
    corner: where tokens of another grid than the image's stand: at their upper left corners, otherwise at their
        centers.
    exemplar: numbers stored for each token of an exemplar; 0 for models that read none.
    placements: names of PLACEMENTS that a picture may have; empty for models that read label maps alone.
    classes: whether label maps are read; otherwise pictures alone.
    """
    tokenizer: str
    palette: tuple[tuple[int, int, int], ...]
    patch: int
    blocks: int
    width: int
    cells: int = 1
    condition: int = 0
    corner: bool = False
    exemplar: int = 0
    placements: tuple[str, ...] = ()
    classes: bool = True


@dataclass(frozen=True)
class MDiTConfig:
    """Sizes and switches of one model.

    width, depth, heads: of the blocks.
    patch, in_channels: side of a token in latent cells, and channels of a cell.
    text_dim, pooled_dim: widths of the text tokens and of the pooled text.
    mlp_ratio: hidden width over width of the image, text and mask stream.
    latent_format, qk_norm, pos, mask_tokenizer: one of CHOICES each.
    mask_vec: whether the mask stream's modulation is computed of the empty text at time 0, or stored as a constant.
    rope_theta: base of the rotary frequencies.
    position_scale: distance of neighbouring tokens; below 1, a finer grid covers the positions of a coarser one.
    mask_classes, mask_cells: classes, and label cells along a token's side, of `class_embed` tokens.
    text_reads_mask: whether text queries read the mask.
    palette: colors of the classes for `vae_palette` tokens; empty for the standard ones.
    resolution: side of the training images in pixels.
    own_mask_weights: whether the mask stream has weights of its own instead of the image stream's.
    lora_rank, lora_alpha: of the mask stream's low-rank terms; rank 0 for none.
    prediction: what the last layer yields: the flow velocity, or the clean image from which the velocity follows.
    proxy_window: experimental; side in tokens of the windows in which image tokens attend to each other, while proxies
        stand for the rest of the image (see proxy_stream.py); 0 for attention to all. It is faster from about 3 `width`
        image tokens on.
    exemplar_blocks: experimental; the blocks after which image tokens read an exemplar (see exemplar_branch.py).
    exemplar_candidates: number of candidates that the search for an exemplar's tokens keeps for each image token.
    """
    width: int
    depth: int
    heads: int
    patch: int
    in_channels: int
    text_dim: int
    pooled_dim: int
    mlp_ratio: tuple[float, float, float] | float = (4.0, 4.0, 4.0)
    latent_format: str = "pixel"
    qk_norm: str = "rms"
    pos: str = "rope2d"
    rope_theta: float = 10000.0
    mask_tokenizer: str = "class_embed"
    mask_classes: int = 19
    mask_cells: int = 1
    mask_vec: str = "zero_pooled"
    text_reads_mask: bool = True
    palette: tuple[tuple[int, int, int], ...] = ()
    resolution: int = 512
    own_mask_weights: bool = True
    lora_rank: int = 0
    lora_alpha: float = 1.0
    prediction: str = "velocity"
    proxy_window: int = 0
    exemplar_blocks: tuple[int, ...] = ()
    exemplar_candidates: int = 4
    position_scale: float = 1.0

    def __post_init__(self):
        if isinstance(self.mlp_ratio, (int, float)):
            object.__setattr__(self, "mlp_ratio", (float(self.mlp_ratio),) * 3)
        object.__setattr__(self, "mlp_ratio", tuple(self.mlp_ratio))
        object.__setattr__(self, "palette", tuple(map(tuple, self.palette)))
        object.__setattr__(self, "exemplar_blocks", tuple(self.exemplar_blocks))
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"mdit.config: {name} is '{getattr(self, name)}', must be one of {', '.join(allowed)}")
        for name in ("heads", "patch", "mask_cells", "mask_classes", "in_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"mdit.config: {name} is {getattr(self, name)}, must be at least 1")
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(f"mdit.config: width {self.width} over {self.heads} heads must give a multiple of 4")
        side = self.patch * LATENT_RATIOS[self.latent_format]
        if side % self.mask_cells:
            raise ValueError(f"mdit.config: mask_cells {self.mask_cells} does not divide the {side} pixels of a token")
        if self.proxy_window < 0:
            raise ValueError(f"mdit.config: proxy_window {self.proxy_window} must be 0 (off) or the side of a window")
        blocks = self.exemplar_blocks
        if sorted(set(blocks) & set(range(self.depth))) != list(blocks):
            raise ValueError(f"mdit.config: exemplar_blocks {list(blocks)} must be numbers of blocks from 0 to "
                             f"{self.depth - 1}, in ascending order")
        if self.exemplar_candidates < 1:
            raise ValueError(f"mdit.config: exemplar_candidates {self.exemplar_candidates} must be at least 1")
        if self.mask_vec == "constant" and (self.lora_rank or not self.own_mask_weights):
            raise ValueError("mdit.config: mask_vec 'constant' needs a mask stream with weights of its own "
                             "(own_mask_weights true, lora_rank 0)")
        if not self.own_mask_weights and self.mask_tokenizer != "vae_palette":
            raise ValueError("mdit.config: a mask stream on the image's weights (own_mask_weights false) "
                             "needs mask_tokenizer 'vae_palette'")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def mask_features(self) -> int:
        """Features of one mask token before its embedding."""
        if self.mask_tokenizer == "class_embed":
            return self.mask_classes * self.mask_cells ** 2
        return self.in_channels * self.patch ** 2

    @property
    def mask_layout(self) -> MaskLayout:
        stored = 2 * self.width + MATCH + PRUNE  # for each token and block: values, keys, and features to select by
        return MaskLayout(self.mask_tokenizer, self.palette, self.patch, self.depth, self.width, self.mask_cells,
                          exemplar=stored * len(self.exemplar_blocks))

    def to_metadata(self) -> dict[str, str]:
        return {FORMAT_KEY: FORMAT, CONFIG_KEY: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str] | None) -> MDiTConfig:
        """Raises ValueError for a header that is not an MDiT header, or has unknown or missing fields."""
        metadata = metadata or {}
        if metadata.get(FORMAT_KEY) != FORMAT or CONFIG_KEY not in metadata:
            raise ValueError(f"the file's header has no '{CONFIG_KEY}' of format {FORMAT}: it is not a stand-alone "
                             "MDiT model; load other diffusion models with 'Load Diffusion Model'")
        return read_header(cls, metadata, CONFIG_KEY)
