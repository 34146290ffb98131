"""Regions of images: rectangles found from boxes and masks, and cropped from an image."""
from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import masks_to_boxes

SORTING = {  # order of the faces of an image -> key of a box
    "largest first": lambda box: -box["width"] * box["height"],
    "left to right": lambda box: box["x"] + box["width"] / 2,
    "as connected": lambda box: 0,
}


class Region(NamedTuple):
    """A rectangle in pixels; it may reach beyond the image."""
    x: int
    y: int
    width: int
    height: int
    tilt: float = 0.0
    """Degrees by which the rectangle is turned about its middle, clockwise."""

    @classmethod
    def of_box(cls, box: dict) -> Region:
        """The rectangle of a BOUNDING_BOX, in whole pixels."""
        return cls(*(round(box[field]) for field in ("x", "y", "width", "height")), float(box.get("tilt", 0)))

    def to_box(self) -> dict:
        """A BOUNDING_BOX, with the further field `tilt` if the rectangle is turned."""
        box = self._asdict()
        if not self.tilt:
            del box["tilt"]
        return box

    @property
    def bounds(self) -> Region:
        """The smallest rectangle about this one that is not turned."""
        if not self.tilt:
            return self
        c, s = (abs(value) for value in self.direction)
        width = math.ceil(self.width * c + self.height * s)
        height = math.ceil(self.width * s + self.height * c)
        x, y = self.middle
        return Region(math.floor(x - width / 2), math.floor(y - height / 2), width + 1, height + 1)

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    @property
    def direction(self) -> tuple[float, float]:
        """Cosine and sine of the tilt: where its upper side points to, from left to right."""
        angle = math.radians(self.tilt)
        return math.cos(angle), math.sin(angle)

    @property
    def is_empty(self) -> bool:
        return self.width <= 0 or self.height <= 0

    def intersect(self, other: Region) -> Region:
        """The common rectangle; it is empty if there is none."""
        x = max(self.x, other.x)
        y = max(self.y, other.y)
        right = min(self.x + self.width, other.x + other.width)
        bottom = min(self.y + self.height, other.y + other.height)
        return Region(x, y, right - x, bottom - y)

    def window_in(self, other: Region) -> tuple[slice, slice]:
        """Rows and columns of this rectangle in an array of another rectangle, which contains it."""
        top = self.y - other.y
        left = self.x - other.x
        return slice(top, top + self.height), slice(left, left + self.width)


def find_boxes(mask: Tensor, height: int, width: int) -> list[list[dict]]:
    """The box around the pixels above 0.5 of each mask (B, H, W), stretched to an image's size; none if it is empty."""
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    mask = F.interpolate(mask, (height, width), mode="nearest-exact")[:, 0] > 0.5  # (B, height, width)
    found = []
    for marked in mask:
        corners = masks_to_boxes(marked[None]).tolist() if marked.any() else []
        found.append([dict(x=left, y=top, width=right - left + 1, height=bottom - top + 1)
                      for left, top, right, bottom in corners])
    return found


def choose_faces(boxes: list[list[dict]], index: int, order: str = "largest first", passes: bool = False
                 ) -> list[list[dict]]:
    """All boxes of each image for index -1, else the box at that index.

    order: of the boxes of an image, a key of SORTING. passes: whether an image without such a box has none, instead of
    an error.
    """
    chosen = []
    for number, found in enumerate(boxes):
        found = sorted(found, key=SORTING[order])
        chosen.append(found if index < 0 else found[index:index + 1])
        if index >= len(found) and not passes:
            raise ValueError(f"index: face {index} does not exist, image {number} has {len(found)} faces (the first is "
                             "0). Lower 'index', or choose pass through in 'missing'")
    return chosen


def expand_to_square(box: dict, context: float) -> Region:
    """The square about the middle of a BOUNDING_BOX, turned as the box is.

    context: padding on each side, as a fraction of the box's longer side.
    """
    side = max(1, round(max(box["width"], box["height"]) * (1 + 2 * context)))
    x = round(box["x"] + (box["width"] - side) / 2)
    y = round(box["y"] + (box["height"] - side) / 2)
    return Region(x, y, side, side, float(box.get("tilt", 0)))


def crop(image: Tensor, region: Region, smooth: bool = True) -> Tensor:
    """(H, W, C) -> (height, width, C), upright; outside the image its border pixels repeat.

    smooth: how the pixels of a turned region are found, as in `sample`.
    """
    if region.tilt:
        return sample(image, *locate_pixels(region), smooth)
    rows = torch.arange(region.y, region.y + region.height, device=image.device).clamp(0, image.shape[0] - 1)
    columns = torch.arange(region.x, region.x + region.width, device=image.device).clamp(0, image.shape[1] - 1)
    return image[rows][:, columns]


def locate_pixels(region: Region) -> tuple[Tensor, Tensor]:
    """x and y in the image, (height, width), of the middle of each pixel of a region."""
    across = torch.arange(region.width) + 0.5 - region.width / 2
    down = (torch.arange(region.height) + 0.5 - region.height / 2)[:, None]
    c, s = region.direction
    x, y = region.middle
    return x + across * c - down * s, y + across * s + down * c


def locate_in(region: Region, area: Region) -> tuple[Tensor, Tensor]:
    """Positions in a region, from its upper left corner, of the middle of each pixel of an area that is not turned."""
    x, y = region.middle
    across = torch.arange(area.width) + 0.5 + area.x - x
    down = (torch.arange(area.height) + 0.5 + area.y - y)[:, None]
    c, s = region.direction
    return across * c + down * s + region.width / 2, down * c - across * s + region.height / 2


def sample(image: Tensor, x: Tensor, y: Tensor, smooth: bool) -> Tensor:
    """The colors (h, w, C) of an image (H, W, C) at positions (h, w) in pixels; its border pixels repeat outside.

    smooth: bicubic, within the range of the image's colors; else the nearest pixel.
    """
    height, width = image.shape[:2]
    colors = to_computable(image)
    grid = torch.stack([x * 2 / width - 1, y * 2 / height - 1], dim=-1).to(colors)  # (h, w, 2)
    found = F.grid_sample(colors.movedim(-1, 0)[None], grid[None], mode="bicubic" if smooth else "nearest",
                          padding_mode="border", align_corners=False)[0].movedim(0, -1)
    return found.clamp(colors.amin(), colors.amax()).to(image)


def to_computable(image: Tensor) -> Tensor:
    """The image in a type in which PyTorch resizes on every device: not in half precision on a CPU."""
    return image if image.dtype == torch.float64 else image.float()


def resize(image: Tensor, width: int, height: int, smooth: bool = True) -> Tensor:
    """(H, W, C) -> (height, width, C). smooth: antialiased, else nearest neighbour without new colors."""
    mode = dict(mode="bilinear", antialias=True) if smooth else dict(mode="nearest-exact")
    colors = to_computable(image).movedim(-1, 0)[None]
    return F.interpolate(colors, (height, width), **mode)[0].movedim(0, -1).to(image)


def crop_faces(images: Tensor, squares: list[list[Region]], size: int, smooth: bool = True) -> Tensor:
    """The squares of each image (B, H, W, C), image by image, in one size (N, size, size, C)."""
    faces = []
    for image, places in zip(images, squares):
        faces += [resize(crop(image, square, smooth), size, size, smooth) for square in places]
    return torch.stack(faces)


def find_side(squares: list[list[Region]], least: int, most: int) -> int:
    """Side of crops that keep every pixel of the squares, a multiple of 8 between `least` and `most`."""
    sides = [square.width for places in squares for square in places]
    return min(most, max(least, -8 * (-max(sides, default=0) // 8)))


def describe_crops(squares: list[list[Region]], size: int) -> list[str]:
    """One line for each square: its side, the side after cropping, its tilt, and the resolution that is left."""
    lines = []
    for number, places in enumerate(squares):
        if not places:
            lines.append(f"image {number}: no face")
        for i, square in enumerate(places):
            line = f"image {number}, face {i}: {square.width} to {size} pixels"
            if square.tilt:
                line += f", turned by {square.tilt:g} degrees"
            if square.width > size:
                left = f"{size / square.width:.0%} of the resolution is left"
                line += f", {left}: raise 'size' or switch on 'keep_pixels'"
            lines.append(line)
    return lines
