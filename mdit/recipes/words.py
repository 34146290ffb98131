"""Captions as word ids, and the text encoder's lesson in the attributes of captions."""
from __future__ import annotations

import logging

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

import comfy.model_management

from ..mditface.text import PAD, TextConfig, TextEncoder, WordTokenizer
from ..render.caption import VOCABULARY, Caption
from ..render.appearance import sample_appearance

SYNONYMS = {
    "blonde": "blond", "golden": "blond", "brunette": "brown", "grey": "gray", "silver": "gray", "ginger": "red",
    "redhead": "red", "violet": "purple", "magenta": "pink", "navy": "blue", "scarlet": "red", "beige": "tan",
    "spectacles": "glasses", "eyeglasses": "glasses", "shades": "sunglasses", "moustache": "mustache",
    "bearded": "beard", "stubbly": "stubble", "fringe": "bangs", "buzzcut": "shaved", "hairless": "bald",
    "elderly": "old", "senior": "old", "youthful": "young", "adult": "aged", "teenage": "young",
    "male": "man", "guy": "man", "boy": "man", "female": "woman", "lady": "woman", "girl": "woman",
    "smile": "smiling", "smiles": "smiling", "happy": "smiling", "laughing": "smiling", "angry": "frowning",
    "sad": "frowning", "frown": "frowning", "astonished": "surprised", "tshirt": "shirt", "blouse": "top",
    "jumper": "sweater", "pullover": "sweater", "jacket": "suit", "blazer": "suit", "hooded": "hoodie",
    "backdrop": "background", "wears": "wearing", "fair": "pale", "tanned": "tan", "photograph": "photo",
    "brows": "eyebrows", "earring": "earrings", "pendant": "necklace", "headshot": "portrait", "wall": "background",
}


def make_text_config(width: int) -> TextConfig:
    synonyms = {word: known for word, known in SYNONYMS.items() if word not in VOCABULARY and known in VOCABULARY}
    return TextConfig(vocabulary=VOCABULARY, synonyms=synonyms, width=width)


class CaptionWriter:
    """Fresh captions of given attributes as word ids, (B, length)."""

    def __init__(self, config: TextConfig, seed: int):
        self.length = config.length
        self.caption = Caption()
        self.ids = WordTokenizer(tokenizer_data={"mdit_text": config})
        self.rng = np.random.default_rng(seed)

    def __call__(self, attributes: list[dict[str, str]]) -> Tensor:
        return self.encode([self.caption(a, self.rng) for a in attributes])

    def encode(self, captions: list[str]) -> Tensor:
        """Word ids (B, length). Longer captions are cut."""
        out = torch.full((len(captions), self.length), PAD)
        for row, text in zip(out, captions):
            ids = [token[0] for token in self.ids.tokenize_with_weights(text)["mdit"][0]]
            row[:len(ids)] = torch.tensor(ids)
        return out


class AttributeHeads(nn.Module):
    """Reads each attribute from the tokens, by an attention of its own, and from their mean."""

    def __init__(self, values: dict[str, list[str]], width: int):
        super().__init__()
        self.values = values
        self.query = nn.Parameter(torch.randn(len(values), width) / width ** 0.5)
        self.tokens = nn.ModuleList(nn.Linear(width, len(names)) for names in values.values())
        self.pooled = nn.ModuleList(nn.Linear(width, len(names)) for names in values.values())

    def forward(self, tokens: Tensor, pooled: Tensor) -> list[tuple[Tensor, Tensor]]:
        read = (tokens @ self.query.T).softmax(1).transpose(1, 2) @ tokens  # (B, attributes, d)
        return [(head(read[:, i]), mean(pooled)) for i, (head, mean) in enumerate(zip(self.tokens, self.pooled))]

    def find_targets(self, appearances: list[dict[str, str]]) -> list[Tensor]:
        """The index (B,) of each attribute's value."""
        found = []
        for key, names in self.values.items():
            found.append(torch.tensor([names.index(appearance[key]) for appearance in appearances]))
        return found


def list_attribute_values(appearances: list[dict[str, str]]) -> dict[str, list[str]]:
    """The values of each attribute that takes more than one."""
    values = {}
    for key in appearances[0]:
        names = sorted({appearance[key] for appearance in appearances})
        if len(names) > 1:
            values[key] = names
    return values


def pretrain(encoder: TextEncoder, writer: CaptionWriter, steps: int, batch: int = 128) -> dict[str, float]:
    """Trains the encoder to read the attributes of random captions. Returns its accuracy for each in per cent.

    In a short training the encoder otherwise hardly learns to which noun an adjective belongs
    (docs/design/bundled-model.md, section 2).
    """
    values = list_attribute_values([sample_appearance(writer.rng) for _ in range(4000)])
    device = comfy.model_management.get_torch_device()
    encoder.to(device)
    heads = AttributeHeads(values, encoder.embed.weight.shape[1]).to(device)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, 2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    hits = []
    for step in tqdm(range(steps), desc="text encoder", mininterval=5):
        appearances = [sample_appearance(writer.rng) for _ in range(batch)]
        targets = [target.to(device) for target in heads.find_targets(appearances)]
        with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            tokens, pooled = encoder(writer(appearances).to(device))
            out = heads(tokens, pooled)
            loss = sum(F.cross_entropy(logits, target) for pair, target in zip(out, targets) for logits in pair)
            optimizer.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step >= steps - 20:
            hits.append([(pair[0].argmax(1) == target).float().mean() for pair, target in zip(out, targets)])
    accuracy = (100 * torch.tensor(hits).mean(0)).tolist()
    scores = {key: round(value, 1) for key, value in zip(heads.values, accuracy)}
    logging.info("attributes read by the text encoder, per cent: %s", scores)
    return scores
