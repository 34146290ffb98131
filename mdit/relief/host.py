"""The relief network under the host's management, and the control maps that it makes of label maps."""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from scipy import ndimage
from torch import Tensor

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils

from ..labelmap import CLASSES, find_class, swap_sides
from ..labelmap.faces import FACE, select, split_faces
from ..shared import weight_files
from ..shared.kept import recall_model
from ..shared.text_files import read_header
from .enlarge import enlarge, reduce_map
from .light import show_depth, show_normals
from .lines import draw_lines, find_creases
from .network import CONFIG_KEY, OUTSIDE, ReliefConfig, ReliefNetwork
from .squares import Square, choose_square

WEIGHTS = Path(__file__).with_name("weights") / "relief.safetensors"
SOURCE = "relief weights"
FAR, NEAR = 0.005, 0.995  # quantiles of a figure's depth that become 0 and 1
HEAD = tuple(map(find_class, (
    "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip", "l_lip", "hair",
    "hat", "ear_r")))
IS_HEAD = torch.zeros(len(CLASSES)).index_fill(0, torch.tensor(HEAD), 1.0)


class ControlMaps(NamedTuple):
    """Depth, normals and lines (B, H, W, 3) and the mask of the head (B, H, W), all in 0..1."""
    depth: Tensor
    normals: Tensor
    lines: Tensor
    head: Tensor


class PatchedRelief:
    """A relief network in a ModelPatcher."""

    def __init__(self, network: ReliefNetwork):
        management = comfy.model_management
        device = management.get_torch_device()
        dtype = torch.float16 if management.should_use_fp16(device) else torch.float32
        self.size = network.config.size
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            network.eval().requires_grad_(False).to(dtype), load_device=device,
            offload_device=management.text_encoder_offload_device())

    def build_maps(self, labels: Tensor, style: str = "soft", gap: float = 0.1) -> ControlMaps:
        """Control maps of label maps (B, H, W) of any size.

        style: one of lines.STYLES. gap: distance of the background behind the farthest point, in units of the range.
        Raises ValueError for a label map that shows background alone.
        """
        check_figures(labels)
        labels = labels.cpu()
        management = comfy.model_management
        management.load_models_gpu([self.patcher])
        progress = comfy.utils.ProgressBar(len(labels))
        device = management.intermediate_device()
        images = (torch.empty(*labels.shape, 3, device=device) for _ in range(3))
        maps = ControlMaps(*images, torch.empty(labels.shape, device=device))
        for number, one in enumerate(labels):
            for whole, part in zip(maps, self.build_one(one, style, gap)):
                whole[number] = part
            progress.update(1)
        return maps

    def build_one(self, labels: Tensor, style: str, gap: float) -> ControlMaps:
        """Control maps of a label map (H, W), without the axis of the batch."""
        depth, normals, creases = self.find_relief(labels)
        figure = labels > 0
        lines = draw_lines(labels, creases, style)
        return ControlMaps(show_depth(depth[None], figure[None], gap)[0], show_normals(normals[None], figure[None])[0],
                           lines[..., None].expand(-1, -1, 3), IS_HEAD[labels.int()])

    def find_relief(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Depth (H, W), normals (3, H, W) and creases (H, W) of a label map (H, W); each face has its own range."""
        owners = split_faces(labels.numpy())
        found = torch.zeros(5, *labels.shape)
        for number, box in enumerate(ndimage.find_objects(owners), 1):
            own = torch.where(torch.from_numpy(owners == number), labels, 0)
            found[(slice(None), *box)] += self.find_face(own, box) * (own[box] > 0)
        normals = found[1:4]
        normals /= (normals * normals).sum(0).sqrt().clamp(min=1e-6)
        return found[0], normals, found[4]

    def find_face(self, labels: Tensor, box: tuple[slice, slice]) -> Tensor:
        """Depth, normals and creases (5, h, w) in a box (h, w) of a label map (H, W), in which the one face lies."""
        square = choose_square(box, *labels.shape)
        small = reduce_map(labels, square, self.size)
        found = self.find_both_ways(small)
        seen = (small > 0) & (small != OUTSIDE)
        far, near = found[0][seen].quantile(torch.tensor([FAR, NEAR])) if seen.any() else (0.0, 1.0)
        depth = (found[:1] - far) / max(near - far, 1e-3)
        creases = find_creases(depth[0], small)[None]
        rows, columns = box
        inside = Square(square.top - rows.start, square.left - columns.start, square.side)
        return enlarge(torch.cat([depth, found[1:], creases]), small, labels[box], inside)

    def find_both_ways(self, small: Tensor) -> Tensor:
        """Depth and normals (4, S, S): the mean of those of a map (S, S) and of its mirror image."""
        both = torch.stack([small, swap_sides(small.flip(-1))])
        found, mirrored = self.patcher.model(both.to(self.patcher.load_device)).float().cpu()  # (4, S, S) each
        mirrored = mirrored.flip(-1)
        mirrored[1].neg_()
        return (found + mirrored) / 2


def check_figures(labels: Tensor) -> None:
    """Raises ValueError for a label map of a batch that shows background alone."""
    for number, one in enumerate(labels, 1):
        if not one.any():
            which = f" {number}" if len(labels) > 1 else ""
            raise ValueError(f"label_map: the label map{which} is background alone, so it has no depth. Paint a face, "
                             "or check the node that made it, and the palette.")


def describe_maps(labels: Tensor) -> list[str]:
    """A sentence for each label map of a batch without the skin or features of a face."""
    return [f"The label map {number} shows no face: its depth is a guess from the other parts."
            for number, one in enumerate(labels.cpu().numpy(), 1) if not select(one, FACE).any()]


def load_relief(path: Path) -> PatchedRelief:
    """The network in a file. Raises FileNotFoundError or ValueError for one that is missing or of another layout."""
    with weight_files.name_file(str(path), SOURCE):
        weights, metadata = weight_files.read_weights(str(path), SOURCE)
        network = ReliefNetwork(read_header(ReliefConfig, metadata, CONFIG_KEY), comfy.ops.manual_cast)
        weight_files.check_layout(weights, weight_files.read_shapes(network), path, SOURCE)
    network.load_state_dict(weights)
    return PatchedRelief(network)


def recall_relief() -> PatchedRelief:
    """The bundled network, which stays loaded as long as its file stays as it is."""
    return recall_model(load_relief, WEIGHTS)
