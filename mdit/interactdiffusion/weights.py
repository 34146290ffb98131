"""InteractDiffusion's files: the plug-in's tensors out of each published form (spec section 10)."""
from __future__ import annotations

import pickle
import re
from typing import NamedTuple

import torch
from torch import Tensor

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils

from ..shared.weight_files import check_finite, join_names, read_tensors
from .model import COORDINATES, HEADS, InteractDiffusion, Sizes

SOURCE = "weights_name"
DIFFUSERS_PREFIX = "unet."  # the host knows the others
PREFIXES = ("model.diffusion_model.", "model.", DIFFUSERS_PREFIX)
NET, FUSER = "position_net.", ".transformer_blocks.0.fuser."
PLUGIN_KEY = re.compile(r"position_net\.(?P<net>.+)|(?P<block>.+)\.transformer_blocks\.0\.fuser\.(?P<leaf>.+)")
DEEPER_FUSER = re.compile(r"\.transformer_blocks\.[1-9]\d*\.fuser\.")
STAGES = ("input_blocks", "middle_block", "output_blocks")
DIFFUSERS_BLOCK = re.compile(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?attentions\.(\d+)")
FULL_CHECKPOINT = {"model": "model.diffusion_model.", "text_encoder": "cond_stage_model.",
                   "autoencoder": "first_stage_model."}
CONFIGURATION = ("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode",
                 "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "typing.Any")
HARMLESS = {"builtins.dict": dict, "builtins.list": list, "builtins.int": int,
            "collections.defaultdict": lambda *_: {}}  # the loader fills ordinary dicts alone


class InteractionWeights(NamedTuple):
    """The network and the patcher that holds it. `blocks` names the UNet's spatial transformer of each fuser."""
    network: InteractDiffusion
    patcher: comfy.model_patcher.ModelPatcher
    blocks: tuple[str, ...]


class Loaded(NamedTuple):
    """`base` holds what else is in the file under the keys of an ordinary checkpoint (a diffusers UNet: its own), empty
    for a plug-in file."""
    weights: InteractionWeights
    base: dict[str, Tensor]


class Inert:
    """Stands for a class that a checkpoint's configuration names; nothing of it is read."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


def load_weights(path: str) -> Loaded:
    """Loads a plug-in file, a complete checkpoint of the authors or a diffusers UNet.

    Raises ValueError, naming the file and what is wrong, for anything else. No code in the file is run.
    """
    found = read_tensors(path, SOURCE)[0] if path.lower().endswith((".safetensors", ".sft")) else unpickled(path)
    try:
        plugin, base = split(flattened(found))
        weights = build(plugin)
    except ValueError as error:
        raise ValueError(f"{SOURCE}: '{path}': {error}") from error
    check_finite(plugin, path, SOURCE)
    return Loaded(weights, base)


def unpickled(path: str) -> dict:
    """What a .pth or .pt file holds, read by torch's restricted loader.

    It refuses every name that it does not know. Those of the trainer's configuration stand for `Inert` meanwhile.
    """
    known = [(Inert, name) for name in CONFIGURATION] + [(kind, name) for name, kind in HARMLESS.items()]
    try:
        with torch.serialization.safe_globals(known):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(f"{SOURCE}: '{path}' holds more than weights ({culprit[1] if culprit else 'unreadable'}): it "
                         "is refused, for such a file can run code; take the original file") from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{SOURCE}: '{path}' cannot be read as a PyTorch file ({error}): it is truncated or of "
                         "another format; download it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{SOURCE}: '{path}' holds a {type(found).__name__}, not weights: take the original file")
    return found


def flattened(found: dict) -> dict[str, Tensor]:
    """The tensors of a file, those of a complete checkpoint of the authors under an ordinary checkpoint's keys."""
    found = found.get("state_dict", found)
    if isinstance(found.get("model"), dict):
        found = {prefix + key: weight for part, prefix in FULL_CHECKPOINT.items()
                 for key, weight in found.get(part, {}).items()}
    return {key: weight for key, weight in found.items() if isinstance(weight, Tensor)}


def split(found: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The plug-in's tensors under the plug-in file's names, and the others."""
    plugin = {key: name for key in found if PLUGIN_KEY.fullmatch(name := plugin_name(key))}
    names = set(plugin.values())
    if f"{NET}linear_action.0.weight" not in names:
        raise ValueError(refusal(names))
    if any(map(DEEPER_FUSER.search, found)):
        raise ValueError("it has several fusers in one block, as the version for SDXL: only files for Stable Diffusion "
                         "1.x can be read; take ext_interactdiff_v1.2.pth")
    base = {key.removeprefix(DIFFUSERS_PREFIX): weight for key, weight in found.items() if key not in plugin}
    return {name: found[key] for key, name in plugin.items()}, base


def refusal(names: set[str]) -> str:
    if f"{NET}linears.0.weight" in names:
        return ("it holds GLIGEN weights, which know boxes but no actions: load it with the host's GLIGEN loader, or "
                "take ext_interactdiff_v1.2.pth")
    return ("it holds no InteractDiffusion weights (no key position_net.linear_action.0.weight): take "
            "ext_interactdiff_v1.2.pth, a complete checkpoint of the authors or the UNet of their diffusers version")


def plugin_name(key: str) -> str:
    """A tensor's name in the plug-in file: without a prefix, its block named as in the original UNet."""
    prefix = next(filter(key.startswith, PREFIXES), "")
    return DIFFUSERS_BLOCK.sub(original_block, key[len(prefix):])


def original_block(match: re.Match) -> str:
    stage, level, place = match[1], int(match[2] or 0), int(match[3])
    if stage == "mid":
        return "middle_block.1"
    return f"input_blocks.{1 + 3 * level + place}.1" if stage == "down" else f"output_blocks.{3 * level + place}.1"


def build(plugin: dict[str, Tensor]) -> InteractionWeights:
    """The network of the plug-in file's tensors; every size comes from their shapes."""
    matches = {key: PLUGIN_KEY.fullmatch(key) for key in plugin}
    blocks = tuple(sorted({match["block"] for match in matches.values() if match["block"]}, key=execution_order))
    names = {key: NET + match["net"] if match["net"] else f"fusers.{blocks.index(match['block'])}.{match['leaf']}"
             for key, match in matches.items()}
    sizes = read_sizes(plugin, blocks)
    network = InteractDiffusion(sizes, comfy.utils.weight_dtype(plugin), "meta", comfy.ops.manual_cast)
    check_layout(network, {names[key]: key for key in plugin}, plugin, blocks)
    network.load_state_dict({names[key]: weight for key, weight in plugin.items()}, assign=True)
    network.requires_grad_(False)
    management = comfy.model_management
    patcher = comfy.model_patcher.CoreModelPatcher(network, management.get_torch_device(),
                                                   management.unet_offload_device())
    return InteractionWeights(network, patcher, blocks)


def execution_order(block: str) -> tuple[int, ...]:
    """Where a UNet's block such as input_blocks.4.1 comes in its run."""
    stage, *numbers = block.split(".")
    if stage not in STAGES or not all(map(str.isdigit, numbers)):
        raise ValueError(f"it holds a fuser in the unknown block {block}: it was renamed, or belongs to another model")
    return STAGES.index(stage), *map(int, numbers)


def read_sizes(plugin: dict[str, Tensor], blocks: tuple[str, ...]) -> Sizes:
    def shape(key: str, dims: int) -> torch.Size:
        if key not in plugin or plugin[key].ndim != dims:
            raise ValueError(f"it lacks the key {key}, or that has another form: it is truncated; download it again")
        return plugin[key].shape
    if not blocks:
        raise ValueError("it holds no fusers: it is truncated; download it again")
    (position,) = shape(f"{NET}null_position_feature", 1)
    widths = tuple(shape(f"{block}{FUSER}linear.weight", 2)[0] for block in blocks)
    if position % (2 * COORDINATES) or any(width % HEADS for width in widths):
        raise ValueError(f"its box embedding of {position} or its widths {sorted(set(widths))} are no multiples of 8: "
                         "it is damaged; download it again")
    slots, token = shape(f"{NET}interaction_embedding.emb.weight", 2)
    return Sizes(shape(f"{NET}null_positive_feature", 1)[0], position, shape(f"{NET}linears.0.weight", 2)[0],
                 token, slots, widths)


def check_layout(network: InteractDiffusion, keys: dict[str, str], plugin: dict[str, Tensor], blocks: tuple[str, ...]):
    """Raises ValueError unless the tensors are exactly the network's. `keys` gives a parameter's key in the file."""
    expected = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}

    def in_file(name: str) -> str:
        if not name.startswith("fusers."):
            return name
        _, index, leaf = name.split(".", 2)
        return f"{blocks[int(index)]}{FUSER}{leaf}"
    missing, unknown = ([in_file(name) for name in sorted(names)]
                        for names in (expected.keys() - keys.keys(), keys.keys() - expected.keys()))
    if missing or unknown:
        raise ValueError(f"it lacks [{join_names(missing)}] and holds the unknown [{join_names(unknown)}]: it is "
                         "truncated, or belongs to another model")
    wrong = [f"{keys[name]} is {tuple(plugin[keys[name]].shape)}, must be {shape}" for name, shape in expected.items()
             if tuple(plugin[keys[name]].shape) != shape]
    if wrong:
        raise ValueError(f"its parts do not fit each other: {join_names(wrong)}; it is damaged, or belongs to another "
                         "model")
