"""Configuration of a stand-alone MDiT, as stored in the header of its safetensors file (spec section 4)."""
from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import NamedTuple

from .exemplar_branch import MATCH, PRUNE

FORMAT = "1"
FORMAT_KEY = "mdit.format"
CONFIG_KEY = "mdit.config"
CHOICES = {
    "latent_format": ("pixel", "sd15", "sdxl", "sd3", "flux"),
    "qk_norm": ("rms", "none"),
    "pos": ("rope2d", "sincos"),
    "mask_tokenizer": ("vae_palette", "class_embed"),
    "mask_vec": ("zero_pooled",),
    "prediction": ("velocity", "clean"),
}


class MaskLayout(NamedTuple):
    """What of a model decides how label maps become its mask tokens, and how large their keys and values are.

    `condition` is the side in pixels of the square that every label map is stretched to, 0 for the picture's own
    size. Tokens of another grid than the image's are spread over it by their centres or, with `corner`, by their
    upper left corners. `blocks` and `width` are those that read the mask.
    `exemplar` counts the numbers that are kept for each token of an exemplar; 0 for models that read none.
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


@dataclass(frozen=True)
class MDiTConfig:
    """Sizes and switches of one model.

    `mlp_ratio` holds the hidden width over the width of the (image, text, mask) streams. `mask_cells` is the
    number of label cells along a patch's side for `class_embed` tokens. `prediction` says what the last layer
    yields: the flow velocity, or the clean image from which the velocity follows. `resolution` is the training
    size in pixels. `proxy_window`, experimental, is the side in tokens of the windows in which image tokens attend to
    each other, while proxies stand for them elsewhere (see proxy.py); 0 for attention among all. It pays from about
    3 `width` image tokens on. `exemplar_blocks`, experimental, are those after which image tokens look at an exemplar
    (see exemplar.py), `exemplar_candidates` the number of candidates that the search for its tokens keeps for each.
    """
    width: int
    depth: int
    heads: int
    patch: int
    in_channels: int
    text_dim: int
    pooled_dim: int
    mlp_ratio: tuple[float, float, float] = (4.0, 4.0, 4.0)
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

    def __post_init__(self):
        if isinstance(self.mlp_ratio, (int, float)):
            object.__setattr__(self, "mlp_ratio", (float(self.mlp_ratio),) * 3)
        object.__setattr__(self, "mlp_ratio", tuple(self.mlp_ratio))
        object.__setattr__(self, "palette", tuple(tuple(colour) for colour in self.palette))
        object.__setattr__(self, "exemplar_blocks", tuple(self.exemplar_blocks))
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"mdit.config: {name} is '{getattr(self, name)}', must be one of {', '.join(allowed)}")
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(f"mdit.config: width {self.width} over {self.heads} heads must give a multiple of 4")
        if self.patch % self.mask_cells:
            raise ValueError(f"mdit.config: mask_cells {self.mask_cells} does not divide patch {self.patch}")
        if self.proxy_window < 0:
            raise ValueError(f"mdit.config: proxy_window {self.proxy_window} must be 0 (off) or the side of a window")
        blocks = self.exemplar_blocks
        if sorted(set(blocks) & set(range(self.depth))) != list(blocks):
            raise ValueError(f"mdit.config: exemplar_blocks {list(blocks)} must be numbers of blocks from 0 to "
                             f"{self.depth - 1}, in their order")
        if self.exemplar_candidates < 1:
            raise ValueError(f"mdit.config: exemplar_candidates {self.exemplar_candidates} must be at least 1")
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
        kept = 2 * self.width + MATCH + PRUNE
        return MaskLayout(self.mask_tokenizer, self.palette, self.patch, self.depth, self.width, self.mask_cells,
                          exemplar=kept * len(self.exemplar_blocks))

    def to_metadata(self) -> dict[str, str]:
        return {FORMAT_KEY: FORMAT, CONFIG_KEY: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str] | None) -> MDiTConfig:
        """Raises ValueError when the header is no MDiT header or holds unknown or missing fields."""
        metadata = metadata or {}
        if metadata.get(FORMAT_KEY) != FORMAT or CONFIG_KEY not in metadata:
            raise ValueError(f"the file's header has no '{CONFIG_KEY}' of format {FORMAT}: it is not a stand-alone "
                             "MDiT model; load diffusion models of other families with the host's own loaders")
        try:
            fields = json.loads(metadata[CONFIG_KEY])
        except json.JSONDecodeError as error:
            raise ValueError(f"{CONFIG_KEY}: the file's header is damaged ({error}); download it again") from error
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        missing = sorted(field.name for field in dataclasses.fields(cls)
                         if field.default is dataclasses.MISSING and field.name not in fields)
        if unknown or missing:
            raise ValueError(f"mdit.config: unknown fields {unknown}, missing fields {missing}")
        return cls(**fields)
