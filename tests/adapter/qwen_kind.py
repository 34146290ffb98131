"""Qwen-Image's part of the slow definition in reference.py."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from comfy.ldm.flux.math import _apply_rope1 as rotate

QWEN_LAYERS = {"q": "attn.to_q", "k": "attn.to_k", "v": "attn.to_v", "proj": "attn.to_out.0",
               "fc1": "img_mlp.net.0.proj", "fc2": "img_mlp.net.2", "mod": "img_mod.1"}
IMAGE = ("to_q", "to_k", "to_v", "norm_q", "norm_k")
TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k")


def embed_time(net, t: Tensor) -> Tensor:
    angles = 1000 * (t[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128))  # rounded as the host does
    return net.time_text_embed.timestep_embedder(torch.cat((angles.cos(), angles.sin()), dim=1))


def cut(x: Tensor) -> tuple[Tensor, Tensor]:
    """The patches (B, N, 4 * C) of a latent (B, C, h, w), and their positions (N, 3), which are 0 in the middle."""
    x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), mode="circular")
    cells = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, C, h/2, 2, w/2, 2)
    rows, columns = (torch.arange(cells.shape[dim], dtype=torch.float32) - cells.shape[dim] // 2 for dim in (2, 4))
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), F.pad(torch.cartesian_prod(rows, columns), (1, 0))


def heads(attn, names: tuple[str, ...], h: Tensor, pe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (getattr(attn, name)(h).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for name in names[:3])
    norm_q, norm_k = (getattr(attn, name) for name in names[3:])
    return rotate(norm_q(q), pe), rotate(norm_k(k), pe), v


def shifted(h: Tensor, mod: tuple[Tensor, ...]) -> Tensor:
    shift, scale, _ = mod
    return (1 + scale) * h + shift


def qwen(plain, masks, x, t, context, values, attend, after) -> Tensor:
    img, ids = cut(x)
    count = img.shape[1]
    method = values.get("reference_latents_method", "index")
    for number, latent in enumerate(values.get("reference_latents", ()), 1):
        patches, places = cut(latent)
        places[:, 0] = -number if method == "negative_index" else number
        img, ids = torch.cat((img, patches.expand(len(img), -1, -1)), dim=1), torch.cat((ids, places))
    first = max(-(-side // 2) // 2 for side in x.shape[-2:])
    texts = (first + torch.arange(context.shape[1], dtype=torch.float32))[:, None].expand(-1, 3)
    states = [plain.txt_in(plain.txt_norm(context)), plain.img_in(img)]
    vec, start = (embed_time(plain, time)[:, None] for time in (t, torch.zeros_like(t)))  # (B, 1, d)
    own, others = vec.expand(-1, count, -1), start if method == "index_timestep_zero" else vec
    others = others.expand(-1, img.shape[1] - count, -1)
    vecs, places = [vec, torch.cat((own, others), dim=1)], [texts, ids]
    for _, net, latent, _ in masks:
        patches, mask_places = cut(latent)
        states.append(net.img_in(patches))
        vecs.append(start)
        places.append(mask_places)
    rotations = [plain.pe_embedder(part[None]) for part in places]
    for i in range(len(plain.transformer_blocks)):
        states = run_block(i, [plain, plain, *(stream.net for stream in masks)], states, vecs, rotations, attend)
        states[1] = torch.cat((after("double", i, states[1][:, :count]), states[1][:, count:]), dim=1)
    out = plain.proj_out(plain.norm_out(states[1][:, :count], vec[:, 0]))  # (B, N, 2 * 2 * C)
    out = out.unflatten(1, [-(-side // 2) for side in x.shape[-2:]]).unflatten(3, (-1, 2, 2))
    return out.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def run_block(i: int, nets: list, states: list[Tensor], vecs: list[Tensor], rotations: list[Tensor], attend
              ) -> list[Tensor]:
    blocks = [net.transformer_blocks[i] for net in nets]
    kinds = ["txt", *["img"] * (len(nets) - 1)]
    mods = [getattr(block, f"{kind}_mod")(vec).chunk(6, dim=-1)
            for block, kind, vec in zip(blocks, kinds, vecs)]
    parts = [(getattr(block, f"{kind}_norm1"), getattr(block, f"{kind}_norm2"), getattr(block, f"{kind}_mlp"))
             for block, kind in zip(blocks, kinds)]
    qkv = [heads(block.attn, TEXT if kind == "txt" else IMAGE, shifted(norm1(h), mod[:3]), pe)
           for block, kind, (norm1, _, _), h, mod, pe in zip(blocks, kinds, parts, states, mods, rotations)]
    ends = [block.attn.to_add_out if kind == "txt" else block.attn.to_out[0] for block, kind in zip(blocks, kinds)]
    states = [h + mod[2] * end(out) for h, mod, end, out in zip(states, mods, ends, attend(*qkv))]
    return [h + mod[5] * mlp(shifted(norm2(h), mod[3:])) for h, mod, (_, norm2, mlp) in zip(states, mods, parts)]
