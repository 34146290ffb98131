"""Pictures as masks: edges, depth, poses, subjects, for adapters that were trained on them
(docs/design/adapters.md, section 5.6)."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .config import MaskLayout
from .mask import CPU, NO_CLASS, MaskSource
from .placements import ON_IMAGE, fit_picture

NO_CLASSES = ("mask: this model reads classes, but the mask of 'Picture to Mask (MDiT)' is a picture without "
              "classes: connect 'Label Map to Mask (MDiT)', or read the picture by an adapter ('Apply "
              "Adapter (MDiT)')")


class PictureInput(MaskSource):
    """Pictures (b, H, W, 3) in 0..1, kept as bytes. They have no classes, so none of their tokens are merged."""
    node = "Picture to Mask (MDiT)"
    kind = "picture"
    resampling = "Lanczos filter"

    def __init__(self, pictures: Tensor, placement: str = ON_IMAGE, vae=None):
        super().__init__(pictures.shape[:3], "off", vae)
        self.pictures = (pictures.to(CPU, torch.float32) * 255).round().clamp(0, 255).to(torch.uint8)
        self.placement = placement

    def __reduce__(self):
        return PictureInput, (self.pictures / 255, self.placement)

    @property
    def labels(self) -> Tensor:
        """Raises ValueError, for readers of label maps."""
        raise ValueError(NO_CLASSES)

    def check(self, layout: MaskLayout):
        if not layout.placements:
            raise ValueError(NO_CLASSES)
        if self.placement not in layout.placements:
            raise ValueError(f"placement: '{self.placement}' at '{self.node}' puts the picture beside the image, where "
                             f"this model or adapter has no positions: choose '{ON_IMAGE}'")

    def resize_labels(self, height: int, width: int) -> Tensor:
        return torch.full((self.shape[0], height, width), NO_CLASS, dtype=torch.int16)

    def draw(self, height: int, width: int, palette) -> Tensor:
        fitted = [fit_picture(picture, self.placement, height, width) for picture in self.pictures.numpy()]
        return torch.from_numpy(np.stack(fitted))
