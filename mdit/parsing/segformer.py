"""Segformer face parsers in transformers' layout: a weights file with its config.json next to it."""
from __future__ import annotations

from pathlib import Path

import torch.nn as nn
from torch import Tensor

from ..labelmap import find_class


class Segformer(nn.Module):
    """Images (B, 3, H, W), normalized as for ImageNet -> logits (B, classes, H/4, W/4).

    `order[k]` is the label map's index of the class that the file's config.json numbers k.
    weights: as published, such as the weights of jonathandinu/face-parsing. folder: the folder of config.json.
    Raises FileNotFoundError without config.json. Raises ValueError for a damaged config.json, for a class that label
    maps do not have, and for weights of another network than config.json describes.
    """

    def __init__(self, weights: dict[str, Tensor], folder: Path):
        from transformers import SegformerConfig, SegformerForSemanticSegmentation  # takes seconds
        super().__init__()
        path = folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"parser_name: a Segformer needs the config.json that was published with it. "
                                    f"Put that file into {folder}")
        try:
            config = SegformerConfig.from_json_file(path)
        except ValueError as error:
            raise ValueError(f"parser_name: '{path}' cannot be read ({error}). Download that file again") from error
        names = [config.id2label[k] for k in range(config.num_labels)]
        self.order = [find_class(name, f"parser_name: '{path}'") for name in names]
        self.network, found = SegformerForSemanticSegmentation.from_pretrained(
            None, config=config, state_dict=weights, output_loading_info=True, ignore_mismatched_sizes=True)
        wrong = [*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]]
        if wrong:
            raise ValueError(f"parser_name: the weights do not fit the network that '{path}' describes, for example "
                             f"{wrong[0]}. Download both files again")

    def forward(self, x: Tensor) -> Tensor:
        return self.network(pixel_values=x).logits
