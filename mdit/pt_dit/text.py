"""Prompts as PT-DiT reads them (docs/design/pt-dit.md, section 9)."""
from __future__ import annotations

import html
import re

LONGEST = 200  # tokens, including the end token
NOISE = re.compile(r"https?://\S+|www\.\S+|<[^<>]*>|@\w+|[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]|[#*|\\^~`]")
T5 = "t5xxl"


def clean(text: str) -> str:
    """Lower case, without URLs, HTML, handles, Chinese and Japanese characters and special characters."""
    return " ".join(NOISE.sub(" ", html.unescape(text).lower()).split())


def encode(clip, text: str) -> list:
    """The host's conditioning of a cleaned text, cut to 200 tokens.

    Raises ValueError if `clip` is missing or not T5-XXL alone. Other text encoders pad, and PT-DiT would read the
    padding.
    """
    tokens = {} if clip is None else clip.tokenize(clean(text))
    if tokens.keys() != {T5}:
        found = "missing" if clip is None else f"a text encoder of {', '.join(tokens)}"
        raise ValueError(f"clip: it is {found}, PT-DiT reads T5-XXL alone: load t5xxl_fp16.safetensors with the host's "
                         "'Load CLIP', type 'pixart'")
    tokens[T5] = [shorten(section) for section in tokens[T5]]
    return clip.encode_from_tokens_scheduled(tokens)


def shorten(section: list) -> list:
    """Cuts a section to LONGEST tokens; the end token remains."""
    return section if len(section) <= LONGEST else [*section[:LONGEST - 1], section[-1]]
