"""The condition tokens of a label map for the joint stream (docs/design/face-mogle.md, sections 2 and 3).

The members of `ExpertMixer` are those that the joint stream asks for (mdit/mditface/adapter/mixers.py).
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

import comfy.model_management
import comfy.ops
import comfy.utils

from ..labelmap import CLASSES, to_image
from ..shared.base_model import make_patcher
from ..shared.parts import DeviceCopies, load_parts
from ..shared.weight_files import check_layout, name_file, read_shapes, read_state_dict
from .gate import PICTURES, Gate, mix_experts

SOURCE = "gate_name"
STEPS = 1000  # the gate's time at sigma 1, in sampling
BACKGROUND = 0


class LoadedGate:
    """A gate file: its network in a patcher, and the copies for other devices. `id` is a digest of the weights."""

    def __init__(self, weights: dict[str, Tensor], disable_dynamic: bool = False):
        digest = hashlib.blake2b()
        for name, weight in sorted(weights.items()):
            digest.update(repr((name, weight.dtype)).encode() + weight.contiguous().view(torch.uint8).numpy().tobytes())
        self.id = digest.hexdigest()
        gate = Gate(device="meta", operations=comfy.ops.manual_cast)
        gate.load_state_dict(weights, assign=True)
        management = comfy.model_management
        devices = management.get_torch_device(), management.unet_offload_device()
        self.patcher = make_patcher(gate.requires_grad_(False), *devices, disable_dynamic)
        self.copies = DeviceCopies(self.patcher)


def load_gate(path: str) -> LoadedGate:
    """Loads a gate file. Raises ValueError for a file of other weights."""
    with name_file(path, SOURCE):
        return load_parts(path, read_gate, LoadedGate)[0]


def read_gate(path: str) -> dict[str, Tensor]:
    weights = read_state_dict(path, SOURCE)
    if any(".lora_A." in name for name in weights):
        raise ValueError(f"{SOURCE}: '{path}' is a LoRA, not a gate: select the published global_local_mask_moe.pt or "
                         "mogle.pt. Without its gate the LoRA is of no use here")
    check_layout(weights, read_shapes(Gate(device="meta", operations=comfy.ops.manual_cast)), path, SOURCE)
    return weights


class ExpertMixer:
    """Mixes twenty pictures of a label map: the whole map in colors, and each class in black and white.

    black: the pictures of classes are black throughout, as the authors' programs draw them.
    scale: of the gate's time, which is `scale` times sigma.
    """
    title = "Face-MoGLE"
    pictures = PICTURES
    kept = 1 + PICTURES

    def __init__(self, gate: LoadedGate, black: bool = False, scale: float = STEPS):
        self.gate = gate
        self.black = black
        self.scale = scale
        self.id = f"{gate.id}.{black}.{scale:g}"
        self.drawing = "face_mogle", black

    def list_additional_models(self, patcher) -> list:
        return self.gate.copies.list_for(patcher)

    def draw(self, labels: Tensor, visible: Tensor) -> Iterator[Tensor]:
        """The pictures (H, W, 3) of each label map (b, H, W), one after the other.

        Hidden classes have a black picture and are background in the whole map.
        """
        progress = comfy.utils.ProgressBar(len(labels) * PICTURES)
        for shown in labels.long():
            hidden = ~visible.bool()[shown]  # (H, W)
            yield to_image(shown.masked_fill(hidden, BACKGROUND)[None])[0]
            progress.update(1)
            for i in range(len(CLASSES)):
                white = (shown == i) & ~hidden & (not self.black)
                yield white[..., None].expand(-1, -1, 3).float()
                progress.update(1)

    def prepare(self, model, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of the whole maps (b, N, F) and the experts' outputs (b, PICTURES, N, F)."""
        z = tokens.unflatten(0, (-1, PICTURES))  # (b, PICTURES, N, F)
        return z[:, 0], self.gate.copies.find(model.current_patcher).run_experts(z)

    def mix(self, model, kept: Sequence[Tensor], noisy: Tensor, sigma: Tensor) -> Tensor:
        z, outputs = kept
        gate = self.gate.copies.find(model.current_patcher)
        return mix_experts(gate.weigh(z, noisy.float(), self.scale * sigma.float()), outputs)
