"""What the prompt's node tells the front end about words."""
from types import SimpleNamespace

from mditface.mdit.mditface.text import TextConfig, WordTokenizer
from mditface.nodes.conditioning import TextConditioning


def encode(tokenizer, text: str):
    """A run of the node with an encoder of this tokenizer."""
    clip = SimpleNamespace(tokenizer=tokenizer, tokenize=lambda text: text,
                           encode_from_tokens_scheduled=lambda tokens: [[tokens, {}]])
    return TextConditioning.execute(clip, text)


def test_unknown_and_known_words_go_to_the_front_end():
    config = TextConfig(vocabulary=("blond", "hair"), synonyms={"blonde": "blond"})
    words = encode(WordTokenizer(tokenizer_data={"mdit_text": config}), "Blonde (shiny:1.2) hair, shiny, 4k").ui
    assert words == {"unknown_words": ["shiny", "k"], "known_words": ["blond", "hair"]}


def test_an_open_vocabulary_has_nothing_to_tell():
    assert encode(SimpleNamespace(), "anything").ui is None
