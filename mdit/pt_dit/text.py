"""Prompts as PT-DiT reads them (spec section 9)."""
from __future__ import annotations

import html
import re

LONGEST = 200  # tokens, the last of them the end token
NOISE = re.compile(r"https?://\S+|www\.\S+|<[^<>]*>|@\w+|[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]|[#*|\\^~`]")
T5 = "t5xxl"


def clean(text: str) -> str:
    """Lower case, without addresses, HTML, handles, Chinese and Japanese characters and odd signs."""
    return " ".join(NOISE.sub(" ", html.unescape(text).lower()).split())


def encode(clip, text: str) -> list:
    """The host's conditioning of a cleaned text, cut to 200 tokens.

    Raises ValueError where `clip` is missing or not T5-XXL alone; other text encoders pad, which PT-DiT would read.
    """
    tokens = {} if clip is None else clip.tokenize(clean(text))
    if tokens.keys() != {T5}:
        found = "missing" if clip is None else f"a text encoder of {', '.join(tokens)}"
        raise ValueError(f"clip: it is {found}, PT-DiT reads T5-XXL alone: load t5xxl_fp16.safetensors with the host's "
                         "Load CLIP, type 'pixart'")
    tokens[T5] = [shortened(section) for section in tokens[T5]]
    return clip.encode_from_tokens_scheduled(tokens)


def shortened(section: list) -> list:
    return section if len(section) <= LONGEST else [*section[:LONGEST - 1], section[-1]]
