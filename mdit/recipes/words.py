"""Captions as word ids, and the text encoder's first lesson: the attributes of a caption."""
from __future__ import annotations

import logging

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

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


def text_config(width: int) -> TextConfig:
    synonyms = {word: known for word, known in SYNONYMS.items() if word not in VOCABULARY and known in VOCABULARY}
    return TextConfig(vocabulary=VOCABULARY, synonyms=synonyms, width=width)


class CaptionWriter:
    """Fresh captions of given attributes as word ids, (B, length)."""

    def __init__(self, config: TextConfig, seed: int):
        self.length, self.caption = config.length, Caption()
        self.ids = WordTokenizer(tokenizer_data={"mdit_text": config})
        self.rng = np.random.default_rng(seed)

    def __call__(self, attributes: list[dict[str, str]]) -> Tensor:
        return self.encode([self.caption(a, self.rng) for a in attributes])

    def encode(self, captions: list[str]) -> Tensor:
        """Words beyond the length are cut."""
        out = torch.full((len(captions), self.length), PAD)
        for row, text in zip(out, captions):
            ids = [token[0] for token in self.ids.tokenize_with_weights(text)["mdit"][0]]
            row[:len(ids)] = torch.tensor(ids)
        return out


class AttributeHeads(nn.Module):
    """Reads each attribute from the tokens by an attention of its own, and from the mean."""

    def __init__(self, values: dict[str, list[str]], width: int):
        super().__init__()
        self.values = values
        self.query = nn.Parameter(torch.randn(len(values), width) / width ** 0.5)
        self.tokens = nn.ModuleList(nn.Linear(width, len(names)) for names in values.values())
        self.pooled = nn.ModuleList(nn.Linear(width, len(names)) for names in values.values())

    def forward(self, tokens: Tensor, pooled: Tensor) -> list[tuple[Tensor, Tensor]]:
        read = (tokens @ self.query.T).softmax(1).transpose(1, 2) @ tokens  # (B, attributes, d)
        return [(head(read[:, i]), mean(pooled)) for i, (head, mean) in enumerate(zip(self.tokens, self.pooled))]

    def targets(self, looks: list[dict[str, str]]) -> list[Tensor]:
        return [torch.tensor([names.index(look[key]) for look in looks]) for key, names in self.values.items()]


def attribute_values(looks: list[dict[str, str]]) -> dict[str, list[str]]:
    """The values that each attribute takes, where it takes several."""
    values = {key: sorted({look[key] for look in looks}) for key in looks[0]}
    return {key: names for key, names in values.items() if len(names) > 1}


def pretrain(encoder: TextEncoder, writer: CaptionWriter, steps: int, batch: int = 128) -> dict[str, float]:
    """Trains the encoder to tell the attributes of random captions; returns its accuracy for each in percent.

    Without it the encoder hardly learns to which noun an adjective belongs (bundled-model spec, section 2).
    """
    values = attribute_values([sample_appearance(writer.rng) for _ in range(4000)])
    heads = AttributeHeads(values, encoder.embed.weight.shape[1])
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, 2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    hits = []
    for step in tqdm(range(steps), desc="text encoder", mininterval=5):
        looks = [sample_appearance(writer.rng) for _ in range(batch)]
        targets = heads.targets(looks)
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            out = heads(*encoder(writer(looks)))
            loss = sum(F.cross_entropy(logits, target) for pair, target in zip(out, targets) for logits in pair)
            optimiser.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step >= steps - 20:
            hits.append([(pair[0].argmax(1) == target).float().mean() for pair, target in zip(out, targets)])
    accuracy = (100 * torch.tensor(hits).mean(0)).tolist()
    scores = {key: round(value, 1) for key, value in zip(heads.values, accuracy)}
    logging.info("attributes told by the text encoder, percent: %s", scores)
    return scores
