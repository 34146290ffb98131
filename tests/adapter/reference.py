"""The definition of the three streams, written slowly and without the pack's core
(docs/design/mditface.md, sections 3.3 to 3.6).

Text, image and mask go through each block together, in one attention over all their tokens. The mask's weights are
the image's with the adapter's terms added to them.
"""
from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import comfy.utils
from comfy.ldm.flux.math import _apply_rope1 as rotate
from mditface.mdit.labelmap import PALETTE, resize_nearest, to_image
from mditface.mdit.mditface.mask import MaskSource
from mditface.mdit.mditface.pictures import PictureInput
from mditface.tests.adapter.bases import FLUX2_TEXT, SIGMA, VAE, Case, find_key, network, published
from mditface.tests.adapter.flux_kind import FLUX_KINDS, Flux
from mditface.tests.adapter.qwen_kind import QWEN_LAYERS, qwen
from mditface.tests.adapter.zimage_kind import ZIMAGE_LAYERS, zimage

SD3_LAYERS = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2", "mod": "adaLN_modulation.1"}
FLUX_LAYERS = {"qkv": "img_attn.qkv", "proj": "img_attn.proj", "fc1": "img_mlp.0", "fc2": "img_mlp.2",
               "mod": "img_mod.lin", "linear1": "linear1", "linear2": "linear2"}


DIFFUSERS_LAYERS = {
    "norm1.linear": "img_mod.lin", "attn.to_q": "img_attn.qkv", "attn.to_k": "img_attn.qkv",
    "attn.to_v": "img_attn.qkv", "attn.to_out.0": "img_attn.proj", "ff.net.2": "img_mlp.2",
}
DIFFUSERS_SINGLE_LAYERS = {"norm.linear": "modulation.lin", "attn.to_q": "linear1", "attn.to_k": "linear1",
                           "attn.to_v": "linear1", "proj_mlp": "linear1", "proj_out": "linear2"}
FIRST_ROWS = {"attn.to_k": 1, "attn.to_v": 2, "proj_mlp": 3}  # in widths
SHIFTS = {"EasyControl subject, 64 rows down": (64, 0), "OminiControl subject, 32 columns right": (0, 32),
          "OminiControl subject, 32 columns left": (0, -32)}


class Stream(NamedTuple):
    """The mask tokens of one reader. `shift` is that of a picture beside the image."""
    case: Case
    net: torch.nn.Module
    latent: Tensor
    shift: tuple[int, int] | None


def attend(reads: Tensor | float, count: int, *streams: tuple[Tensor, Tensor, Tensor], own: Tensor | float = 0.0
           ) -> list[Tensor]:
    """One attention over the streams' queries, keys and values (B, H, T, D), of which the last `count` are masks: each
    attends to itself only. `own` (T, T) is added to the logits of text and image among themselves. Returns
    (B, T, H * D) for each."""
    lengths = [q.shape[2] for q, _, _ in streams]
    q, k, v = (torch.cat(parts, dim=2) for parts in zip(*streams))
    bias = q.new_full((sum(lengths), sum(lengths)), -math.inf)
    first = sum(lengths[:-count])
    bias[:first, :first] = torch.as_tensor(own)
    bias[:first, first:] = torch.as_tensor(reads)
    for M in lengths[-count:]:
        bias[first:first + M, first:first + M] = 0
        first += M
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
    return out.split(lengths, dim=1)


def predict(x: Tensor, cond: list, *readers: tuple[Case, MaskSource], sigma: float = SIGMA, weight: float = 1.0,
            reads: Tensor | float = 0.0, attend: Callable = attend, edit: Callable = lambda net: None,
            after: Callable = lambda kind, i, img: img) -> Tensor:
    """The prediction of the clean latent for the noisy latent x, as the host's guiders return it.

    Each reader is an adapter on a base, the same for all, with its mask. `reads` (T or 1, M) is added to the logits
    with which text and image read the masks. `edit` changes the network that text and image go through. `after` gets
    the image tokens (B, N, d) that leave each block, by the block's kind and index, and returns what enters the next.
    """
    case, model = readers[0][0], readers[0][0].base.model
    plain, *others = (build(case.family) for _ in range(1 + len(readers)))
    edit(plain)
    masks = []
    for net, (reader, mask) in zip(others, readers):
        add_terms(reader, net, weight)
        size = [reader.condition] * 2 if reader.condition else [8 * side for side in x.shape[-2:]]
        picture = mask.draw(*size, ()) if isinstance(mask, PictureInput) else to_image(
            resize_nearest(mask.labels, *size), PALETTE)
        latent = still(model, model.process_latent_in, VAE.encode(picture)).expand(len(x), -1, -1, -1)
        masks.append(Stream(reader, net, latent, SHIFTS.get(mask.placement)))
    t = model.model_sampling.timestep(torch.full((len(x),), sigma))
    text, values = cond[0]
    text = pad_text(case.family, text).expand(len(x), -1, -1)
    if "reference_latents" in values:
        values = {**values, "reference_latents": [
            still(model, model.process_latent_in, latent.squeeze(2)) for latent in values["reference_latents"]]}
    define = partial(flux, FLUX_KINDS[case.family]) if case.of_flux_kind else DEFINITIONS[find_key(case.family)]
    out = define(plain, masks, x, t, text, values, partial(attend, reads, len(masks)), after)
    return still(model, model.process_latent_out, x - sigma * out[..., :x.shape[-2], :x.shape[-1]])


def still(model, process: Callable, latent: Tensor) -> Tensor:
    """`process` of a latent (B, C, h, w), for a model whose latents may have frames."""
    frames = model.latent_format.latent_dimensions == 3
    return process(latent.unsqueeze(2)).squeeze(2) if frames else process(latent)


def pad_text(family: str, text: Tensor) -> Tensor:
    """As the host hands text (B, L, D) to the network."""
    return F.pad(text, (0, 0, FLUX2_TEXT - text.shape[1], 0)) if find_key(family) == "flux2" else text


def build(family: str) -> torch.nn.Module:
    net = network(family).to_empty(device="cpu")
    net.load_state_dict({name.replace("_norm.scale", "_norm.weight"): w for name, w in published(family).items()})
    return net


def add_terms(case: Case, net: torch.nn.Module, weight: float):
    """W + weight * alpha / rank * B A."""
    config = case.adapter.config
    for name, down in case.weights.items():
        diffusers = re.fullmatch(r"transformer\.(?:(single_)?transformer_blocks\.(\d+)\.)?(.+)\.lora_A\.weight", name)
        if diffusers:
            delta = weight * case.weights[name.replace("lora_A", "lora_B")] @ down
            if diffusers[3] == "x_embedder":
                net.img_in.weight.data += delta
            else:
                add_diffusers(net, delta, *diffusers.groups())
            continue
        if ".down" not in name:
            continue
        delta = weight * config.alpha / config.rank * case.weights[name.replace(".down", ".up")] @ down
        easycontrol = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.attn\.processor\.(\w+)_loras.*", name)
        if easycontrol:
            add_easycontrol(net, delta, *easycontrol.groups())
            continue
        kind, i, layer, _ = name.split(".")
        if case.of_flux_kind:
            block = getattr(net, f"{kind}_blocks")[int(i)]
            path = "modulation.lin" if (kind, layer) == ("single", "mod") else FLUX_LAYERS[layer]
        elif case.family == "qwen-image":
            block, path = net.transformer_blocks[int(i)], QWEN_LAYERS[layer]
        elif case.family == "z-image":
            block, path = net.layers[int(i)], ZIMAGE_LAYERS[layer]
        else:
            block, path = net.joint_blocks[int(i)].x_block, SD3_LAYERS[layer]
        comfy.utils.get_attr(block, path).weight.data += delta


def add_diffusers(net: torch.nn.Module, delta: Tensor, single: str | None, i: str, part: str):
    """The term of a layer in diffusers' names, which may be some rows of the host's layer."""
    blocks, layers = (net.single_blocks, DIFFUSERS_SINGLE_LAYERS) if single else (net.double_blocks, DIFFUSERS_LAYERS)
    first = FIRST_ROWS.get(part, 0) * net.hidden_size
    comfy.utils.get_attr(blocks[int(i)], layers[part]).weight.data[first:first + len(delta)] += delta


def add_easycontrol(net: torch.nn.Module, delta: Tensor, single: str | None, i: str, part: str):
    """q, k and v are thirds of the fused projection's first rows; that of the output takes the projection's output."""
    width = len(delta)
    if part == "proj":
        layer = net.double_blocks[int(i)].img_attn.proj
        layer.weight.data += delta @ layer.weight.data
        layer.bias.data += delta @ layer.bias.data
        return
    layer = net.single_blocks[int(i)].linear1 if single else net.double_blocks[int(i)].img_attn.qkv
    first = "qkv".index(part) * width
    layer.weight.data[first:first + width] += delta


def sd3(plain, masks, x, t, context, values, attend, after) -> Tensor:
    def heads(qkv):
        return [part.reshape(*part.shape[:2], plain.num_heads, -1).transpose(1, 2) for part in qkv]

    def finish(block, attention, pre):
        if not block.x_block_self_attn:
            return block.post_attention(attention, *pre[1])
        second = F.scaled_dot_product_attention(*heads(pre[1])).transpose(1, 2).flatten(2)
        return block.post_attention_x(attention, second, *pre[2])

    def embed(latent):
        return plain.x_embedder(latent) + plain.cropped_pos_embed(latent.shape[-2:])

    y = values["pooled_output"].expand(len(x), -1)
    vec = plain.t_embedder(t, dtype=x.dtype) + plain.y_embedder(y)
    still = plain.t_embedder(torch.zeros_like(t), dtype=x.dtype) + plain.y_embedder(torch.zeros_like(y))
    vecs = [vec, vec, *[still] * len(masks)]
    states = [plain.context_embedder(context), embed(x), *(embed(stream.latent) for stream in masks)]
    for i, joint in enumerate(plain.joint_blocks):
        blocks = [joint.context_block, joint.x_block, *(stream.net.joint_blocks[i].x_block for stream in masks)]
        pres = [(block.pre_attention_x if block.x_block_self_attn else block.pre_attention)(*rest)
                for block, *rest in zip(blocks, states, vecs)]
        outs = attend(*(heads(pre[0]) for pre in pres))
        states = [None if block.pre_only else finish(block, *rest) for block, *rest in zip(blocks, outs, pres)]
        states[1] = after("double", i, states[1])
    return plain.unpatchify(plain.final_layer(states[1], vec), x.shape[-2:])


DEFINITIONS = {"sd3": sd3, "qwen-image": qwen, "z-image": zimage}


def flux(family: Flux, plain, masks, x, t, context, values, attend, after) -> Tensor:
    img, ids = family.cut(x)
    img, all_ids = add_references(family, img, ids, values)
    txt, states, rotations = plain.txt_in(context), [plain.img_in(img)], [plain.pe_embedder(all_ids)]
    y = values["pooled_output"].expand(len(x), -1)
    guidance = torch.full((len(x),), values.get("guidance", family.guidance))
    vecs = [family.make_vector(plain, t, guidance, y)]
    for case, net, latent, shift in masks:
        msk, mask_ids = family.cut(latent)
        states.append(net.img_in(msk))
        stretch = (1 + ids[0, -1]) / (1 + mask_ids[0, -1])  # the grids' sizes in tokens
        places = mask_ids + torch.tensor([0, *shift]) if shift else mask_ids * stretch
        rotations.append(plain.pe_embedder(places))
        still = torch.full_like(t, family.mask_guidance), torch.zeros_like(y)
        vecs.append(family.make_vector(plain, torch.zeros_like(t), *((guidance, y) if case.prompted else still)))
    states, vecs, nets = [txt, *states], [vecs[0], *vecs], [plain, plain, *(stream.net for stream in masks)]
    rotations = [plain.pe_embedder(family.list_text_positions(txt.shape[1])), *rotations]

    for i in range(len(plain.double_blocks)):
        names = ["txt", *["img"] * (1 + len(masks))]
        parts = [part(net.double_blocks[i], name) for net, name in zip(nets, names)]
        mods = [family.modulate_double(net, vec, i, name) for net, vec, name in zip(nets, vecs, names)]
        qkv = [heads(attn.qkv(shifted(norm1(h), m[0])), attn.norm, plain.num_heads, pe)
               for (norm1, attn, _, _), h, m, pe in zip(parts, states, mods, rotations)]
        states = [double_end(*rest) for rest in zip(parts, states, mods, attend(*qkv))]
        states[1] = after("double", i, states[1])

    length = txt.shape[1]
    states, vecs, nets = [torch.cat(states[:2], dim=1), *states[2:]], vecs[1:], nets[1:]
    rotations = [torch.cat(rotations[:2], dim=2), *rotations[2:]]
    for i in range(len(plain.single_blocks)):
        blocks = [net.single_blocks[i] for net in nets]
        mods = [family.modulate_single(net, vec, i) for net, vec in zip(nets, vecs)]
        inner = [block.linear1(shifted(block.pre_norm(h), m)).tensor_split([3 * block.hidden_size], dim=-1)
                 for block, h, m in zip(blocks, states, mods)]
        qkv = [heads(x, block.norm, plain.num_heads, pe) for block, (x, _), pe in zip(blocks, inner, rotations)]
        states = [h + m.gate * block.linear2(torch.cat((out, block.mlp_act(hidden)), dim=-1))
                  for block, h, m, (_, hidden), out in zip(blocks, states, mods, inner, attend(*qkv))]
        states[0] = torch.cat((states[0][:, :length], after("single", i, states[0][:, length:])), dim=1)
    image = states[0][:, length:length + ids.shape[1]]
    out = plain.final_layer(image, family.modulate_last(plain, vecs[0]))  # (B, N, C * 2 * 2)
    out = out.unflatten(1, [-(-side // 2) for side in x.shape[-2:]]).unflatten(3, (-1, 2, 2))
    return out.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def add_references(family: Flux, img: Tensor, ids: Tensor, values: dict) -> tuple[Tensor, Tensor]:
    """The image's patches (B, N, F) and positions (1, N, axes), followed by those of the reference latents."""
    for number, latent in enumerate(values.get("reference_latents", ()), 1):
        patches, places = family.cut(latent)
        places[..., 0] = number * family.reference_step
        img = torch.cat((img, patches.expand(len(img), -1, -1)), dim=1)
        ids = torch.cat((ids, places), dim=1)
    return img, ids


def part(block, stream: str) -> list:
    return [getattr(block, f"{stream}_{name}") for name in ("norm1", "attn", "norm2", "mlp")]


def shifted(h: Tensor, mod) -> Tensor:
    return (1 + mod.scale) * h + mod.shift


def heads(qkv: Tensor, norm, count: int, pe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = qkv.unflatten(-1, (3, count, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
    q, k = norm(q, k, v)
    return rotate(q, pe), rotate(k, pe), v


def double_end(parts: list, h: Tensor, mods: tuple, attention: Tensor) -> Tensor:
    _, attn, norm2, mlp = parts
    h = h + mods[0].gate * attn.proj(attention)
    return h + mods[1].gate * mlp(shifted(norm2(h), mods[1]))
