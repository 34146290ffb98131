"""The relief network under the host's management, and the control maps that it makes of label maps."""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils

from ..labelmap import CLASSES, find_class, swap_sides
from ..shared import weight_files
from ..shared.text_files import read_header
from .enlarge import enlarge, reduce_map
from .faces import choose_square, split_faces
from .light import show_depth, show_normals
from .lines import draw_lines, find_creases
from .network import CONFIG_KEY, OUTSIDE, ReliefConfig, ReliefNetwork

WEIGHTS = Path(__file__).with_name("weights") / "relief.safetensors"
SOURCE = "relief weights"
FAR, NEAR = 0.005, 0.995  # quantiles of a figure's depth that become 0 and 1
FACE = tuple(map(find_class, ("skin", "nose", "l_eye", "r_eye", "u_lip", "l_lip")))
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
        comfy.model_management.load_models_gpu([self.patcher])
        progress = comfy.utils.ProgressBar(len(labels))
        found = []
        for one in labels:
            comfy.model_management.throw_exception_if_processing_interrupted()
            found.append(self.find_relief(one))
            progress.update(1)
        depth, normals, creases = map(torch.stack, zip(*found))
        lines = torch.stack([draw_lines(one, folds, style) for one, folds in zip(labels, creases)])
        figure = labels > 0
        maps = ControlMaps(show_depth(depth, figure, gap), show_normals(normals, figure),
                           lines[..., None].repeat(1, 1, 1, 3), IS_HEAD[labels.long()])
        return ControlMaps._make(x.to(comfy.model_management.intermediate_device()) for x in maps)

    def find_relief(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Depth (H, W), normals (3, H, W) and creases (H, W) of a label map (H, W); each face has its own range."""
        owners = torch.from_numpy(split_faces(labels.numpy()))
        whole = torch.zeros(5, labels.shape[0], labels.shape[1])
        for number in range(1, int(owners.max()) + 1):
            figure = owners == number
            whole += self.find_face(torch.where(figure, labels, 0), figure) * figure
        length = (whole[1] ** 2 + whole[2] ** 2 + whole[3] ** 2).sqrt()
        return whole[0], whole[1:4] / length.clamp(min=1e-6), whole[4]

    def find_face(self, labels: Tensor, figure: Tensor) -> Tensor:
        """Depth, normals and creases (5, H, W) of a label map (H, W) with one face."""
        square = choose_square(figure.numpy())
        small = reduce_map(labels, square, self.size)
        found = self.find_both_ways(small)
        seen = (small > 0) & (small != OUTSIDE)
        far, near = found[0][seen].quantile(torch.tensor([FAR, NEAR])) if seen.any() else (0.0, 1.0)
        depth = (found[:1] - far) / max(near - far, 1e-3)
        creases = find_creases(depth[0], small)[None]
        return enlarge(torch.cat([depth, found[1:], creases]), small, labels, square)

    def find_both_ways(self, small: Tensor) -> Tensor:
        """Depth and normals (4, S, S): the mean of those of a map (S, S) and of its mirror image."""
        both = torch.stack([small, swap_sides(small.flip(-1))])
        found, mirrored = self.patcher.model(both.to(self.patcher.load_device)).float().cpu()  # (4, S, S) each
        mirrored = mirrored.flip(-1)
        mirrored[1].neg_()
        return (found + mirrored) / 2


def check_figures(labels: Tensor) -> None:
    """Raises ValueError for a label map of a batch that shows background alone."""
    for number, one in enumerate(labels):
        if not one.any():
            which = f" {number}" if len(labels) > 1 else ""
            raise ValueError(f"label_map: the label map{which} is background alone, so it has no depth. Paint a face, "
                             "or check the node that made it, and the palette.")


def describe_maps(labels: Tensor) -> list[str]:
    """A sentence for each label map of a batch without the skin or features of a face."""
    face = torch.tensor(FACE, dtype=labels.dtype, device=labels.device)
    return [f"The label map {number} shows no face: its depth is a guess from the other parts."
            for number, one in enumerate(labels) if not torch.isin(one, face).any()]


def load_relief(path: Path = WEIGHTS) -> PatchedRelief:
    """The network in a file. Raises FileNotFoundError or ValueError for one that is missing or of another layout."""
    with weight_files.name_file(str(path), SOURCE):
        weights, metadata = weight_files.read_weights(str(path), SOURCE)
        network = ReliefNetwork(read_header(ReliefConfig, metadata, CONFIG_KEY), comfy.ops.manual_cast)
        weight_files.check_layout(weights, weight_files.read_shapes(network), path, SOURCE)
    network.load_state_dict(weights)
    return PatchedRelief(network)
