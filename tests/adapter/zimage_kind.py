"""Z-Image's part of the slow definition in reference.py."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from comfy.ldm.flux.math import _apply_rope1 as rotate

ZIMAGE_LAYERS = {"qkv": "attention.qkv", "proj": "attention.out", "fc1": "feed_forward.w1", "fc2": "feed_forward.w2",
                 "fc3": "feed_forward.w3"}


def cut(net, latent: Tensor, first: float) -> tuple[Tensor, Tensor]:
    """The embedded patches (B, N, d) of a latent, and their positions (N, 3) at this first coordinate."""
    latent = F.pad(latent, (0, latent.shape[3] % 2, 0, latent.shape[2] % 2), mode="circular")
    cells = latent.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, C, h/2, 2, w/2, 2)
    rows, columns = (torch.arange(cells.shape[dim], dtype=torch.float32) for dim in (2, 4))
    places = F.pad(torch.cartesian_prod(rows, columns), (1, 0), value=first)
    return net.x_embedder(cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)), places


def fill(net, tokens: Tensor, places: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens up to the next multiple, the new ones at the origin."""
    missing = -tokens.shape[1] % net.pad_tokens_multiple
    return torch.cat((tokens, token.expand(len(tokens), missing, -1)), dim=1), F.pad(places, (0, 0, 0, missing))


def place_text(net, text: Tensor, first: float) -> tuple[Tensor, Tensor]:
    """Text tokens (B, L, d), filled up, and their positions along the first coordinate."""
    text, _ = fill(net, text, torch.zeros(text.shape[1], 3), net.cap_pad_token)
    return text, F.pad(first + 1 + torch.arange(text.shape[1], dtype=torch.float32)[:, None], (0, 2))


class Sequence:
    """Tokens (B, T, d) that a network's layers work on together, their positions (T, 3), and vectors (B, T or 1, f)."""

    def __init__(self, net, tokens: Tensor, places: Tensor, vec: Tensor | None):
        self.net = net
        self.tokens = tokens
        self.pe = net.rope_embedder(places[None])
        self.vec = vec

    def modulate(self, block) -> list[Tensor]:
        if self.vec is None:
            return [torch.zeros(()), torch.tensor(torch.inf)] * 2  # tanh of the gate is 1
        return list(block.adaLN_modulation(self.vec).chunk(4, dim=-1))

    def heads(self, block) -> tuple[Tensor, Tensor, Tensor]:
        attn = block.attention
        hidden = block.attention_norm1(self.tokens) * (1 + self.modulate(block)[0])
        q, k, v = attn.qkv(hidden).unflatten(-1, (3, attn.n_local_heads, -1)).permute(2, 0, 3, 1, 4)
        return rotate(attn.q_norm(q), self.pe), rotate(attn.k_norm(k), self.pe), v

    def finish(self, block, attention: Tensor) -> Tensor:
        _, gate1, scale2, gate2 = self.modulate(block)
        h = self.tokens + gate1.tanh() * block.attention_norm2(block.attention.out(attention))
        return h + gate2.tanh() * block.ffn_norm2(block.feed_forward(block.ffn_norm1(h) * (1 + scale2)))

    def refine(self, blocks) -> Sequence:
        """After blocks in which the tokens read each other alone."""
        for block in blocks:
            out = F.scaled_dot_product_attention(*self.heads(block)).transpose(1, 2).flatten(2)
            self.tokens = self.finish(block, out)
        return self


def zimage(plain, masks, x, t, context, values, attend, after) -> Tensor:
    batch = len(x)
    vec, start = (plain.t_embedder((1 - time) * plain.time_scale, dtype=x.dtype)[:, None]
                  for time in (t, torch.zeros_like(t)))
    first, texts, images = 0, [], []
    references = values.get("reference_latents", ())
    for latent in references:  # before the text and the image, each behind a text of fillers
        empty = plain.cap_pad_token.expand(batch, plain.pad_tokens_multiple, -1)
        texts.append((*place_text(plain, empty, first), start))
        first += empty.shape[1]
        img, places = cut(plain, latent, first + 1)
        images.append((*fill(plain, img.expand(batch, -1, -1), places, plain.x_pad_token), start))
        first += 2
    texts.append((*place_text(plain, plain.cap_embedder(context), first), vec))
    place = first + texts[-1][0].shape[1] + 1
    img, places = cut(plain, x, place)
    count = img.shape[1]
    images.append((*fill(plain, img, places, plain.x_pad_token), vec))
    masks = [Sequence(net, *cut(net, latent, place), start).refine(net.noise_refiner) for _, net, latent, _ in masks]
    tokens = Sequence(plain, *join(texts)[:2], None).refine(plain.context_refiner).tokens
    refined = Sequence(plain, *join(images)).refine(plain.noise_refiner).tokens
    length = tokens.shape[1] + refined.shape[1] - images[-1][0].shape[1]  # what stands before the image
    whole = Sequence(plain, torch.cat((tokens, refined), dim=1), *join(texts + images)[1:])
    for i in range(len(plain.layers)):
        streams = [whole, *masks]
        blocks = [stream.net.layers[i] for stream in streams]
        outs = attend(*(stream.heads(block) for stream, block in zip(streams, blocks)))
        for stream, block, out in zip(streams, blocks, outs):
            stream.tokens = stream.finish(block, out)
        h = whole.tokens
        image = after("single", i, h[:, length:length + count])
        whole.tokens = torch.cat((h[:, :length], image, h[:, length + count:]), dim=1)
    last = plain.final_layer
    out = last.norm_final(whole.tokens[:, length:length + count]) * (1 + last.adaLN_modulation(vec))
    out = last.linear(out).unflatten(1, [-(-side // 2) for side in x.shape[-2:]]).unflatten(3, (2, 2, -1))
    return -out.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def join(parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, positions and vectors of parts, one behind the other."""
    tokens, places, vecs = zip(*parts)
    spread = [vec.expand(-1, part.shape[1], -1) for part, vec in zip(tokens, vecs)]
    return torch.cat(tokens, dim=1), torch.cat(places), torch.cat(spread, dim=1)
