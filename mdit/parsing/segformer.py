"""Segformer face parsers in transformers' layout: a weights file with its config.json beside it."""
from __future__ import annotations

from pathlib import Path

import torch.nn as nn
from torch import Tensor

from ..labelmap import class_id


class Segformer(nn.Module):
    """Pictures (B, 3, H, W), normalised as for ImageNet -> logits (B, classes, H/4, W/4).

    `order[k]` is the label map's id of the class that the file's config.json numbers k.
    weights: as published, such as those of jonathandinu/face-parsing. folder: where config.json lies.
    Raises FileNotFoundError without config.json; ValueError where it is damaged, where it names a class that label maps
    do not have, and where the weights are not those of the network that it describes.
    """

    def __init__(self, weights: dict[str, Tensor], folder: Path):
        from transformers import SegformerConfig, SegformerForSemanticSegmentation  # takes seconds
        super().__init__()
        path = folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"parser_name: a Segformer needs the config.json that was published with it: put "
                                    f"it into {folder}")
        try:
            config = SegformerConfig.from_json_file(path)
        except ValueError as error:
            raise ValueError(f"parser_name: '{path}' cannot be read ({error}): download it again") from error
        self.order = [class_id(config.id2label[k], f"parser_name: '{path}'") for k in range(config.num_labels)]
        self.network, found = SegformerForSemanticSegmentation.from_pretrained(
            None, config=config, state_dict=weights, output_loading_info=True, ignore_mismatched_sizes=True)
        if wrong := [*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]]:
            raise ValueError(f"parser_name: the weights beside '{path}' are not of the network that it describes, for "
                             f"example {wrong[0]}: download both again")

    def forward(self, x: Tensor) -> Tensor:
        return self.network(pixel_values=x).logits
