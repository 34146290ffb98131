"""InteractDiffusion's files: the plug-in's tensors from each published form.

docs/design/interactdiffusion.md, section 10.
"""
from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils

from ..shared.base_model import check_detected, make_patcher
from ..shared.parts import DeviceCopies, load_parts
from ..shared.weight_files import (
    check_count, check_layout, check_finite, list_weights, name_file, read_shape, read_shapes, read_tensors,
    strip_wrappers)
from .model import COORDINATES, HEADS, InteractDiffusion, InteractDiffusionSizes

SOURCE = "weights_name"
DIFFUSERS_PREFIX = "unet."  # the host knows the other prefixes
PREFIXES = ("model.diffusion_model.", "model.", DIFFUSERS_PREFIX)
NET = "position_net."
FUSER = ".transformer_blocks.0.fuser."
PLUGIN_KEY = re.compile(r"position_net\..+|(?P<block>.+)\.transformer_blocks\.0\.fuser\..+")
DEEPER_FUSER = re.compile(r"\.transformer_blocks\.[1-9]\d*\.fuser\.")
UNET_STAGES = ("input_blocks", "middle_block", "output_blocks")
DIFFUSERS_BLOCK = re.compile(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?attentions\.(\d+)")
FULL_CHECKPOINT = {"model": "model.diffusion_model.", "text_encoder": "cond_stage_model.",
                   "autoencoder": "first_stage_model."}
CHECKPOINT_PARTS = ("model", "clip", "vae")  # in the order of the host's loader


class InteractionWeights(NamedTuple):
    """The networks of one file.

    network: the position net and the fusers.
    patcher: holds the network for the host's memory management.
    blocks: name of the UNet's spatial transformer of each fuser.
    copies: of the patcher, for other devices.
    """
    network: InteractDiffusion
    patcher: comfy.model_patcher.ModelPatcher
    blocks: tuple[str, ...]
    copies: DeviceCopies


class FileContent(NamedTuple):
    """What a file holds.

    plugin: the plug-in's tensors, under the plug-in file's keys.
    base: all other tensors, under the keys of an ordinary checkpoint or of a diffusers UNet; empty for a plug-in file.
    """
    path: str
    plugin: dict[str, Tensor]
    base: dict[str, Tensor]


class InteractDiffusionFile(NamedTuple):
    """A file's parts.

    weights: the plug-in's networks.
    model, clip, vae: None where the file holds none.
    """
    weights: InteractionWeights
    model: comfy.model_patcher.ModelPatcher | None
    clip: comfy.sd.CLIP | None
    vae: comfy.sd.VAE | None


def load_interactdiffusion(path: str, embeddings: list[str] | None = None) -> InteractDiffusionFile:
    """Loads a plug-in file, a complete checkpoint of the authors or a diffusers UNet.

    embeddings: folders of textual inversions. Raises ValueError, naming the file and what is wrong, for anything else.
    No code in the file is run.
    """
    builders = build_plugin, build_unet, partial(build_clip, embeddings=embeddings), build_vae
    with name_file(path, SOURCE):
        return InteractDiffusionFile(*load_parts(path, read_file, *builders))


def read_file(path: str) -> FileContent:
    found, _ = read_tensors(path, SOURCE)
    plugin, base = split_plugin(strip_wrappers(list_weights(flatten_checkpoint(found), path, SOURCE)))
    check_finite(base, path, SOURCE)
    return FileContent(path, plugin, base)


def build_plugin(content: FileContent, disable_dynamic: bool = False) -> InteractionWeights:
    path, plugin, _ = content
    blocks = find_blocks(plugin)
    sizes = read_sizes(plugin, blocks)
    network = InteractDiffusion(sizes, comfy.utils.weight_dtype(plugin), "meta", comfy.ops.manual_cast)
    shapes = {make_file_key(name, blocks): shape for name, shape in read_shapes(network).items()}
    check_layout(plugin, shapes, path, SOURCE)
    network.load_state_dict({name: plugin[make_file_key(name, blocks)] for name in network.state_dict()}, assign=True)
    network.requires_grad_(False)
    management = comfy.model_management
    devices = management.get_torch_device(), management.unet_offload_device()
    patcher = make_patcher(network, *devices, disable_dynamic)
    return InteractionWeights(network, patcher, blocks, DeviceCopies(patcher))


def build_unet(content: FileContent, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher | None:
    if not content.base:
        return None
    check_detected(content.base)
    if is_checkpoint(content):
        return load_from_checkpoint(content, "model", disable_dynamic)
    return comfy.sd.load_diffusion_model_state_dict(content.base, disable_dynamic=disable_dynamic)


def build_clip(content: FileContent, embeddings: list[str] | None, disable_dynamic: bool = False
               ) -> comfy.sd.CLIP | None:
    return load_from_checkpoint(content, "clip", disable_dynamic, embeddings) if is_checkpoint(content) else None


def build_vae(content: FileContent, disable_dynamic: bool = False) -> comfy.sd.VAE | None:
    return load_from_checkpoint(content, "vae", disable_dynamic) if is_checkpoint(content) else None


def is_checkpoint(content: FileContent) -> bool:
    """Whether the file holds a text encoder and a VAE in addition to a UNet."""
    return any(key.startswith(FULL_CHECKPOINT["autoencoder"]) for key in content.base)


def load_from_checkpoint(content: FileContent, part: str, disable_dynamic: bool, embeddings: list[str] | None = None):
    """One part of a complete checkpoint, of "model", "clip" and "vae", by the host's loader."""
    options = {f"output_{name}": name == part for name in CHECKPOINT_PARTS}
    loaded = comfy.sd.load_state_dict_guess_config(dict(content.base), embedding_directory=embeddings,
                                                   disable_dynamic=disable_dynamic, **options)
    return loaded[CHECKPOINT_PARTS.index(part)]


def flatten_checkpoint(found: Any) -> Any:
    """What a file holds. The weights of a complete checkpoint of the authors get an ordinary checkpoint's keys."""
    if isinstance(found, dict):
        found = found.get("state_dict", found)
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        return found
    flat = {}
    for part, prefix in FULL_CHECKPOINT.items():
        flat |= {prefix + key: weight for key, weight in found.get(part, {}).items()}
    return flat


def split_plugin(found: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The plug-in's tensors under the plug-in file's keys, and all others."""
    keys = {key: make_plugin_key(key) for key in found}
    plugin = {new: found[key] for key, new in keys.items() if PLUGIN_KEY.fullmatch(new)}
    if f"{NET}linear_action.0.weight" not in plugin:
        raise ValueError(explain_refusal(plugin))
    if any(map(DEEPER_FUSER.search, found)):
        raise ValueError("it has several fusers in one block, as the version for SDXL has: only files for Stable "
                         "Diffusion 1.x can be read; take ext_interactdiff_v1.2.pth")
    base = {key.removeprefix(DIFFUSERS_PREFIX): found[key] for key, new in keys.items() if new not in plugin}
    return plugin, base


def explain_refusal(keys: Iterable[str]) -> str:
    if f"{NET}linears.0.weight" in keys:
        return ("it holds GLIGEN weights, which know boxes but no actions: load it with the host's GLIGENLoader, or "
                "take ext_interactdiff_v1.2.pth")
    return ("it holds no InteractDiffusion weights (no key position_net.linear_action.0.weight): take "
            "ext_interactdiff_v1.2.pth, a complete checkpoint of the authors or the UNet of their diffusers version")


def make_plugin_key(key: str) -> str:
    """A tensor's key in the plug-in file: without a prefix, its block named as in the original UNet."""
    prefix = next(filter(key.startswith, PREFIXES), "")
    return DIFFUSERS_BLOCK.sub(name_original_block, key[len(prefix):])


def name_original_block(match: re.Match) -> str:
    stage = match[1]
    level = int(match[2] or 0)
    index = int(match[3])
    if stage == "mid":
        return "middle_block.1"
    return f"input_blocks.{1 + 3 * level + index}.1" if stage == "down" else f"output_blocks.{3 * level + index}.1"


def find_blocks(plugin: Iterable[str]) -> tuple[str, ...]:
    """The blocks that have a fuser, in the order in which they run."""
    blocks = {PLUGIN_KEY.fullmatch(key)["block"] for key in plugin}
    return tuple(sorted(blocks - {None}, key=find_execution_order))


def find_execution_order(block: str) -> tuple[int, ...]:
    """Sorts the UNet's blocks, such as input_blocks.4.1, in the order in which they run."""
    stage, *numbers = block.split(".")
    if stage not in UNET_STAGES or not all(map(str.isdigit, numbers)):
        raise ValueError(f"it holds a fuser in the unknown block {block}: it was renamed, or belongs to another model")
    return UNET_STAGES.index(stage), *map(int, numbers)


def make_file_key(name: str, blocks: tuple[str, ...]) -> str:
    """The plug-in file's key of the network's parameter `name`."""
    if not name.startswith("fusers."):
        return name
    _, index, leaf = name.split(".", 2)
    return f"{blocks[int(index)]}{FUSER}{leaf}"


def read_sizes(plugin: dict[str, Tensor], blocks: tuple[str, ...]) -> InteractDiffusionSizes:
    """All sizes, from the tensors' shapes."""
    check_count(len(blocks), plugin, "fusers")
    (position,) = read_shape(plugin, f"{NET}null_position_feature", 1)
    widths = tuple(read_shape(plugin, f"{block}{FUSER}linear.weight", 2)[0] for block in blocks)
    if position % (2 * COORDINATES) or any(width % HEADS for width in widths):
        raise ValueError(f"its box embedding of {position} or its widths {sorted(set(widths))} are not multiples of 8: "
                         "it is damaged; download it again")
    (feature,) = read_shape(plugin, f"{NET}null_positive_feature", 1)
    hidden = read_shape(plugin, f"{NET}linears.0.weight", 2)[0]
    slots, token = read_shape(plugin, f"{NET}interaction_embedding.emb.weight", 2)
    return InteractDiffusionSizes(feature=feature, position=position, hidden=hidden, token=token, slots=slots,
                                  fusers=widths)
