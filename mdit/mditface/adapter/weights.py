"""Adapter files: our own format, EasyControl's and OminiControl's (docs/design/adapters.md, sections 5.2, 5.5, 5.7)."""
from __future__ import annotations

import itertools
import re
from functools import partial

from torch import Tensor

from ...shared.parts import load_parts
from ...shared.text_files import parse_object, read_header
from ...shared.weight_files import check_count, check_finite, join_names, name_file, read_weights
from .condition_lora import KEY, read_condition_lora
from .config import KINDS, METADATA_KEY, PROMPT_POOLED, VERSION, AdapterConfig
from .families import FAMILIES, Layer
from .terms import HALVES, Adapter

OWN_KEY = re.compile(r"(double|single)\.(\d+)\.(\w+)\.(down|up)")
EASYCONTROL_KEY = re.compile(
    r"(single_)?transformer_blocks\.(\d+)\.attn\.processor\.(q|k|v|proj)_loras\.(\d+)\.(down|up)\.weight")
EASYCONTROL_SIZE = 512
FUSED_PART = Layer("", 1, (1,))  # q, k or v of a fused layer, which EasyControl has terms for
SOURCE = "adapter_name"

Terms = dict[str, dict[str, Tensor]]  # by block and layer: down (rank, inputs) and up (outputs, rank)


def load_adapter(path: str) -> Adapter:
    """Loads a file of our own format, or a condition adapter of EasyControl or OminiControl for FLUX.

    Raises ValueError, naming the file and what is wrong, for anything else.
    """
    with name_file(path, SOURCE):
        return load_parts(path, read_adapter, build_adapter)[0]


def load_condition_adapter(path: str, source: str) -> Adapter:
    """Loads a condition LoRA of the joint stream, which the node's input `source` names. Raises ValueError for others.
    """
    with name_file(path, source):
        return load_parts(path, partial(read_condition_adapter, source=source), build_adapter)[0]


def read_condition_adapter(path: str, source: str) -> tuple[AdapterConfig, Terms]:
    weights, _ = read_weights(path, source)
    return read_condition_lora(weights, path, source)


def read_adapter(path: str) -> tuple[AdapterConfig, Terms]:
    weights, metadata = read_weights(path, SOURCE)
    if any(KEY.fullmatch(key) for key in weights):
        return read_condition_lora(weights, path, SOURCE)
    if METADATA_KEY in metadata or any(OWN_KEY.fullmatch(key) for key in weights):
        config, terms = read_own(weights, metadata)
    elif any(EASYCONTROL_KEY.fullmatch(key) for key in weights):
        config, terms = read_easycontrol(weights)
    else:
        raise ValueError("the file is neither an MDiTFace adapter ('mdit.adapter' in its header) nor a condition "
                         "adapter of EasyControl or OminiControl for FLUX; load an ordinary LoRA with 'Load LoRA'")
    check_terms(config, terms)
    check_finite(weights, path, SOURCE)
    return config, terms


def build_adapter(content: tuple[AdapterConfig, Terms], disable_dynamic: bool = False) -> Adapter:
    return Adapter(*content, disable_dynamic)


def read_adapter_config(metadata: dict[str, str]) -> AdapterConfig:
    """Inverse of `AdapterConfig.to_metadata`."""
    try:
        version = parse_object(metadata.get(METADATA_KEY, "{}"), METADATA_KEY).get("version", VERSION)
        if version == VERSION:
            config = read_header(AdapterConfig, metadata, METADATA_KEY)
            check_family(config)
            return config
    except ValueError as error:
        raise ValueError(f"the file's '{METADATA_KEY}' header is damaged ({error}): use the original file") from error
    raise ValueError(f"the file has version {version} of the adapter format, this pack reads version {VERSION}: update "
                     "the pack")


def check_family(config: AdapterConfig) -> None:
    """Raises ValueError for a family that is unknown, or that cannot do what the configuration says."""
    family = FAMILIES.get(config.family)
    if family is None:
        raise ValueError(f"family is '{config.family}', must be one of {', '.join(FAMILIES)}")
    if not family.conditioned and (config.condition or config.prompted):
        raise ValueError(f"family {family.key} has neither a condition of fixed size nor mask_vec {PROMPT_POOLED}")


def read_own(weights: dict, metadata: dict) -> tuple[AdapterConfig, Terms]:
    if METADATA_KEY not in metadata:
        raise ValueError(f"the file has the keys of an MDiTFace adapter but no '{METADATA_KEY}' in its header: it was "
                         "converted by a tool that drops the header; use the original file")
    config = read_adapter_config(metadata)
    family = FAMILIES[config.family]
    terms: Terms = {}
    for key, weight in weights.items():
        match = OWN_KEY.fullmatch(key)
        if match is None or family.find_layer(match[1], match[3]) is None:
            raise ValueError(f"the file has the unknown key {key}: it was renamed or made for a newer version of this "
                             "pack; use the original file, or update the pack")
        kind, block, layer, half = match.groups()
        terms.setdefault(f"{kind}.{block}.{layer}", {})[half] = weight
    return config, terms


def read_easycontrol(weights: dict) -> tuple[AdapterConfig, Terms]:
    """The terms of q, k and v are the rows of the fused layer one after another; there is no alpha: the scale is 1."""
    terms: Terms = {}
    depth = [0, 0]
    for key, weight in weights.items():
        match = EASYCONTROL_KEY.fullmatch(key)
        if match is None or match[4] != "0":
            raise ValueError(f"the file has the key {key}: only adapters with a single condition are supported")
        single, block, layer, _, half = match.groups()
        kind = "single" if single else "double"
        if layer != "proj":
            layer = ("linear1_" if single else "qkv_") + layer
        terms.setdefault(f"{kind}.{block}.{layer}", {})[half] = weight
        index = KINDS.index(kind)
        depth[index] = max(depth[index], int(block) + 1)
    check_count(sum(depth), weights, "blocks")
    if missing := sorted(list_easycontrol_layers(depth) - set(terms)):
        raise ValueError(f"the file lacks the layers {join_names(missing)}: it is truncated; download it again")
    first = next(iter(terms.values())).get("down")
    if first is None or first.ndim != 2:
        raise ValueError("the file lacks the 'down' half of a layer: it is truncated; download it again")
    rank, width = first.shape
    config = AdapterConfig("flux", width, tuple(depth), rank, rank, mask_vec=PROMPT_POOLED, condition=EASYCONTROL_SIZE,
                           corner=True, proj_after=True, base_hint="FLUX.1-dev")
    return config, terms


def list_easycontrol_layers(depth: list[int]) -> set[str]:
    """The layers that every EasyControl file of this depth has terms for."""
    double = itertools.product(range(depth[0]), ("qkv_q", "qkv_k", "qkv_v", "proj"))
    single = itertools.product(range(depth[1]), ("linear1_q", "linear1_k", "linear1_v"))
    return {f"double.{i}.{layer}" for i, layer in double} | {f"single.{i}.{layer}" for i, layer in single}


def check_terms(config: AdapterConfig, terms: Terms) -> None:
    """Raises ValueError unless each layer has both halves of the rank, and the shapes that the width demands."""
    if not terms:
        raise ValueError("the file has no layers: it is truncated; download it again")
    for name, halves in terms.items():
        kind, block, layer = name.split(".")
        if set(halves) != HALVES:
            raise ValueError(f"the layer {name} has no '{'up' if 'down' in halves else 'down'}' half: the file is "
                             "truncated; download it again")
        if int(block) >= config.depth[KINDS.index(kind)]:
            raise ValueError(f"the layer {name} lies outside the depth {config.depth} of the header, which belongs to "
                             "another file; use the original file")
        if not fits(config, kind, layer, halves["down"], halves["up"]):
            raise ValueError(f"the layer {name} is {tuple(halves['down'].shape)} and {tuple(halves['up'].shape)}, "
                             f"which does not fit rank {config.rank} and width {config.width}: the file is damaged; "
                             "download it again")


def fits(config: AdapterConfig, kind: str, layer: str, down: Tensor, up: Tensor) -> bool:
    """Whether the halves of a term have the shapes of the layer's inputs and outputs."""
    found = FAMILIES[config.family].find_layer(kind, layer) or FUSED_PART
    if down.shape != (config.rank, found.n_in * config.width):
        return False
    return any(up.shape == (n * config.width, config.rank) for n in found.n_out)
