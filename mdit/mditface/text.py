"""A word-level text encoder as a host CLIP object (docs/design/bundled-model.md, section 3.3)."""
from __future__ import annotations

import dataclasses
import json
import logging
import re
from dataclasses import dataclass, field

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import comfy.ops
from comfy.ldm.modules.attention import optimized_attention
from comfy.sd1_clip import ClipTokenWeightEncoder, escape_important, token_weights, unescape_important

from ..shared.text_files import read_header, shorten
from ..shared.weight_files import store_header

TEXT_KEY = "mdit.text"
PAD = 0
UNKNOWN = 1
FIRST_WORD = 2
WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class TextConfig:
    """Of a text encoder.

    vocabulary: the known words.
    synonyms: other words, each with the known word that it stands for.
    width, heads, layers: of the transformer.
    length: number of words that are encoded together.
    """
    vocabulary: tuple[str, ...]
    synonyms: dict[str, str] = field(default_factory=dict)
    width: int = 192
    heads: int = 4
    layers: int = 2
    length: int = 32

    def to_metadata(self) -> dict[str, str]:
        return {TEXT_KEY: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> TextConfig:
        """Raises ValueError for a damaged header."""
        return read_header(cls, metadata, TEXT_KEY)

    def __post_init__(self):
        known = set(self.vocabulary)
        if lost := [word for word in self.synonyms.values() if word not in known]:
            raise ValueError(f"{TEXT_KEY}: synonyms stand for {shorten(lost)}, which the vocabulary lacks: use the "
                             "original file")
        if not self.heads or self.width % self.heads or not self.length:
            raise ValueError(f"{TEXT_KEY}: width {self.width}, {self.heads} heads and length {self.length} do not fit "
                             "together: use the original file")


class WordTokenizer:
    """The host's tokenizer interface over a closed vocabulary. Words in (parentheses:1.2) carry a weight."""

    def __init__(self, embedding_directory=None, tokenizer_data={}):
        self.config: TextConfig = tokenizer_data["mdit_text"]
        self.ids = {word: FIRST_WORD + i for i, word in enumerate(self.config.vocabulary)}
        self.ids |= {word: self.ids[known] for word, known in self.config.synonyms.items()}

    def split_words(self, text: str) -> list[tuple[str, float]]:
        weighted = token_weights(escape_important(text), 1.0)
        return [(word, weight) for part, weight in weighted for word in WORD.findall(unescape_important(part).lower())]

    def find_unknown_words(self, text: str) -> list[str]:
        """The words of the text that the model does not know, each once, in order."""
        return list(dict.fromkeys(word for word, _ in self.split_words(text) if word not in self.ids))

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs) -> dict[str, list[list[tuple]]]:
        """Sections of `length` (id, weight[, word index]) tuples; the last section is padded."""
        if unknown := self.find_unknown_words(text):
            logging.warning("MDiT text encoder: words ignored because the model does not know them: %s",
                            ", ".join(unknown))
        words = self.split_words(text)
        tokens = [(self.ids.get(word, UNKNOWN), weight, i) for i, (word, weight) in enumerate(words, 1)]
        length = self.config.length
        sections = max(1, -(-len(tokens) // length))
        tokens += [(PAD, 1.0, 0)] * (sections * length - len(tokens))
        if not return_word_ids:
            tokens = [token[:2] for token in tokens]
        return {"mdit": [tokens[i:i + length] for i in range(0, len(tokens), length)]}

    def state_dict(self) -> dict[str, Tensor]:
        """What the host saves along with the encoder's weights."""
        return store_header(self.config.to_metadata())


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.heads = heads
        self.norm1 = operations.LayerNorm(width, **factory)
        self.qkv = operations.Linear(width, 3 * width, **factory)
        self.proj = operations.Linear(width, width, **factory)
        self.norm2 = operations.LayerNorm(width, **factory)
        self.fc1 = operations.Linear(width, 2 * width, **factory)
        self.fc2 = operations.Linear(2 * width, width, **factory)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)  # (B, L, d)
        x = x + self.proj(optimized_attention(q, k, v, self.heads, mask=bias))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))


class TextEncoder(nn.Module, ClipTokenWeightEncoder):
    """Word ids (B, L) -> tokens (B, L, width) and their mean (B, width).

    Two convolutions over three words bind an adjective to its noun before the first attention. An empty text is
    one padding token: the null condition.
    """

    special_tokens = {}

    def __init__(self, config: TextConfig, dtype=None, device=None, operations=comfy.ops.manual_cast, **_):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.dtypes = {dtype}
        self.embed = operations.Embedding(FIRST_WORD + len(config.vocabulary), config.width, **factory)
        self.position = operations.Embedding(config.length, config.width, **factory)
        self.conv = nn.ModuleList([operations.Conv1d(config.width, config.width, 3, padding=1, **factory)
                                   for _ in range(2)])
        self.layers = nn.ModuleList([EncoderLayer(config.width, config.heads, **factory, operations=operations)
                                     for _ in range(config.layers)])
        self.norm = operations.LayerNorm(config.width, **factory)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(ids, out_dtype=torch.float32)  # (B, L, d)
        for conv in self.conv:
            x = x + F.gelu(conv(x.transpose(1, 2)).transpose(1, 2))
        x = x + self.position(torch.arange(ids.shape[1], device=ids.device), out_dtype=torch.float32)
        read = ids != PAD
        read[:, 0] = True
        bias = torch.zeros_like(read, dtype=x.dtype).masked_fill(~read, torch.finfo(x.dtype).min)[:, None]  # (B, 1, L)
        for layer in self.layers:
            x = layer(x, bias)
        x = self.norm(x)
        weight = read.unsqueeze(-1).to(x.dtype)
        return x, (x * weight).sum(1) / weight.sum(1)

    def encode(self, tokens: list[list[int]]) -> tuple[Tensor, Tensor]:
        return self(torch.tensor(tokens, device=self.execution_device or self.embed.weight.device))

    def gen_empty_tokens(self, special_tokens, length: int) -> list[int]:
        return [PAD] * length

    def encode_token_weights(self, tokens: dict[str, list[list[tuple]]]) -> tuple[Tensor, Tensor]:
        sections = []
        for section in tokens["mdit"]:
            sections.append([(word, weight) for word, weight, *_ in section])
        return super().encode_token_weights(sections)

    execution_device = None

    def set_clip_options(self, options: dict):
        self.execution_device = options.get("execution_device", self.execution_device)

    def reset_clip_options(self):
        self.execution_device = None

    def load_sd(self, sd: dict[str, Tensor]):
        return self.load_state_dict(sd, strict=False, assign=getattr(self, "can_assign_sd", False))
