"""Segformer face parsers in transformers' layout: a weights file with its config.json next to it."""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor

from ..labelmap import CLASSES, find_class
from ..shared.text_files import build_config, parse_object, read_text
from ..shared.weight_files import check_count, check_finite, check_total

SOURCE = "parser_name"


@dataclass(frozen=True)
class SegformerSizes:
    """What is read of a config.json; the defaults are transformers'."""
    id2label: dict[str, str]
    num_channels: int = 3
    num_encoder_blocks: int = 4
    depths: tuple[int, ...] = (2, 2, 2, 2)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    hidden_sizes: tuple[int, ...] = (32, 64, 160, 256)
    patch_sizes: tuple[int, ...] = (7, 3, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2, 2)
    num_attention_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, ...] = (4, 4, 4, 4)
    decoder_hidden_size: int = 256
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    reshape_last_stage: bool = True

    def list_classes(self, origin: str) -> list[int]:
        """The label map's index of each class of the network. Raises ValueError for numbers that have no name."""
        count = len(self.id2label)
        if count > len(CLASSES) or self.id2label.keys() != set(map(str, range(count))):
            raise ValueError(f"{origin}: id2label must name the classes from 0 on, {len(CLASSES)} at most: use the "
                             "original file")
        return [find_class(self.id2label[str(k)], origin) for k in range(count)]


class Segformer(nn.Module):
    """Images (B, 3, H, W), normalized as for ImageNet -> logits (B, classes, H/4, W/4).

    `order[k]` is the label map's index of the class that the file's config.json numbers k.
    weights: as published, such as the weights of jonathandinu/face-parsing. path: their file, next to config.json.
    Raises FileNotFoundError without config.json. Raises ValueError for a damaged config.json, for a class that label
    maps do not have, and for weights of another network than config.json describes.
    """

    def __init__(self, weights: dict[str, Tensor], path: Path):
        from transformers import SegformerConfig, SegformerForSemanticSegmentation  # takes seconds
        super().__init__()
        sizes = read_sizes(path.with_name("config.json"))
        self.order = sizes.list_classes(f"{SOURCE}: '{path.with_name('config.json')}'")
        check_count(sum(sizes.depths), weights, "blocks")
        config = SegformerConfig(**dataclasses.asdict(sizes))
        with torch.device("meta"):
            check_total(SegformerForSemanticSegmentation(config), weights)
        self.network, found = SegformerForSemanticSegmentation.from_pretrained(
            None, config=config, state_dict=weights, output_loading_info=True, ignore_mismatched_sizes=True)
        wrong = [*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]]
        if wrong:
            raise ValueError(f"the weights do not fit the network that its config.json describes, for example "
                             f"{wrong[0]}. Download both files again")
        check_finite(weights, str(path), SOURCE)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(pixel_values=x).logits


def read_sizes(file: Path) -> SegformerSizes:
    """The sizes in a config.json, which holds more than these."""
    if not file.is_file():
        raise FileNotFoundError(f"{SOURCE}: a Segformer needs the config.json that was published with it. "
                                f"Put that file into {file.parent}")
    name = f"{SOURCE}: '{file}'"
    fields = parse_object(read_text(file), name)
    known = {field.name for field in dataclasses.fields(SegformerSizes)}
    return build_config(SegformerSizes, {key: fields[key] for key in fields.keys() & known}, name)
