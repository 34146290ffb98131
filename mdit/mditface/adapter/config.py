"""What an adapter file says of itself (docs/design/adapters.md, section 5.2)."""
from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from ...shared.weight_files import MOST_BLOCKS

METADATA_KEY = "mdit.adapter"
VERSION = 1  # of the format that this pack writes and reads; a file without a version has the first
KINDS = ("double", "single")  # of blocks, in the order of AdapterConfig.depth
ZERO_POOLED = "zero_pooled"
PROMPT_POOLED = "prompt_pooled"
MASK_VECS = (ZERO_POOLED, PROMPT_POOLED)


@dataclass(frozen=True)
class AdapterConfig:
    """The header of an adapter file.

    family: key of the backbone's `Family`.
    width: of the backbone's tokens.
    depth: number of double and of single blocks; a number alone counts double blocks (SD3: joint blocks).
    rank, alpha: of the low-rank terms, which count alpha / rank times.
    palette: RGB color of each class in the label map that the VAE encodes; empty for the built-in one.
    mask_vec: what modulates the mask tokens; with `prompt_pooled` the prompt does, too.
    text_reads_mask: whether text queries read the mask's keys.
    base_hint: the model that the adapter was trained on, for messages.
    trained_on: data and length of the training, for people.
    version: of the format.
    window: radius in which image queries read the mask's keys, in tokens; 0 for all keys.
    condition, corner: as in MaskLayout.
    joint: the mask tokens read text and image, too, and pass the blocks in every step (OminiControl, Face-MoGLE).
    proj_after: the term of the output projection reads the projection's output instead of its input (EasyControl).
    """
    family: str
    width: int
    depth: tuple[int, int] | int
    rank: int
    alpha: float
    palette: tuple[tuple[int, int, int], ...] = ()
    mask_vec: str = ZERO_POOLED
    text_reads_mask: bool = True
    base_hint: str = ""
    window: int = 0
    condition: int = 0
    corner: bool = False
    proj_after: bool = False
    joint: bool = False
    trained_on: str = ""
    version: int = VERSION

    def __post_init__(self):
        depth = (self.depth, 0) if isinstance(self.depth, int) else tuple(self.depth)
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "palette", tuple(tuple(color) for color in self.palette))
        if sum(depth) > MOST_BLOCKS or not self.rank or not self.width:
            raise ValueError(f"depth {depth}, rank {self.rank} and width {self.width} are those of no backbone")
        if self.mask_vec not in MASK_VECS:
            raise ValueError(f"mask_vec is '{self.mask_vec}', must be one of {', '.join(MASK_VECS)}")
        if self.window and (self.condition or self.text_reads_mask):
            raise ValueError("a window needs text_reads_mask false and no condition of fixed size")

    def to_metadata(self) -> dict[str, str]:
        """The header of a file of our own format."""
        return {METADATA_KEY: json.dumps(dataclasses.asdict(self))}

    @property
    def prompted(self) -> bool:
        """Whether the mask's keys and values depend on the prompt."""
        return self.mask_vec == PROMPT_POOLED

    def list_blocks(self) -> list[tuple[str, int]]:
        """Kind of each block, and its index among its kind, in the order of the model."""
        return [(kind, i) for kind, count in zip(KINDS, self.depth) for i in range(count)]
