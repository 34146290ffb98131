"""The text that a graph holds for a painted label map."""
import base64
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mditface.mdit.labelmap import CLASSES, decode_drawing, encode_drawing
from mditface.nodes.painter import TEMPLATES, first_drawing

sizes = st.integers(1, 40)


def text(data: bytes, width: int, height: int, version: str = "labelmap1") -> str:
    return f"{version};{width}x{height};{base64.b64encode(data).decode()}"


@given(sizes, sizes, st.integers(0, 2**32 - 1))
def test_what_is_written_is_read(height, width, seed):
    indices = torch.randint(len(CLASSES), (height, width), generator=torch.Generator().manual_seed(seed),
                            dtype=torch.uint8)
    assert decode_drawing(encode_drawing(indices)).equal(indices)


@given(st.text(max_size=60))
def test_any_other_text_is_refused(other):
    with pytest.raises(ValueError, match="drawing: the text is no painted label map"):
        decode_drawing(other)


@given(st.binary(max_size=200), sizes, sizes)
def test_any_other_data_is_refused(data, width, height):
    with pytest.raises(ValueError, match="^drawing: the (data|text) "):
        decode_drawing(text(data, width, height))


@settings(max_examples=200)
@given(st.data())
def test_a_changed_text_is_refused_or_of_the_same_kind(data):
    good = encode_drawing(torch.arange(19 * 4, dtype=torch.uint8).reshape(4, 19) % 19)
    place = data.draw(st.integers(0, len(good) - 1))
    changed = good[:place] + data.draw(st.sampled_from("0123456789;x+/=AQ \n")) + good[place + 1:]
    try:
        indices = decode_drawing(changed)
    except ValueError as error:
        assert str(error).startswith("drawing: ")
    else:
        assert indices.numel() == 76 and indices.max() < 19


@pytest.mark.parametrize("width, height", [(0, 4), (4, 0), (4097, 1), (1, 99999)])
def test_sizes_beyond_the_limits(width, height):
    with pytest.raises(ValueError, match=f"the size is {width} x {height} pixels. Each side must have 1 to 4096"):
        decode_drawing(text(zlib.compress(b""), width, height))


@pytest.mark.parametrize("data", [b"\0" * 15, b"\0" * 17])
def test_data_of_another_size(data):
    with pytest.raises(ValueError, match="does not hold the 16 pixels"):
        decode_drawing(text(zlib.compress(data), 4, 4))


def test_data_after_the_end():
    with pytest.raises(ValueError, match="does not hold the 16 pixels"):
        decode_drawing(text(zlib.compress(b"\0" * 16) + b"more", 4, 4))


def test_a_cut_text():
    with pytest.raises(ValueError, match="does not hold|is damaged"):
        decode_drawing(first_drawing()[:-40])


def test_a_bomb_is_not_unpacked(monkeypatch):
    asked = []
    real = zlib.decompressobj

    class Watched:
        def __init__(self):
            self.stream = real()

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def decompress(self, data, limit):
            unpacked = self.stream.decompress(data, limit)
            asked.append((limit, len(unpacked)))
            return unpacked
    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with pytest.raises(ValueError, match="does not hold the 16 pixels"):
        decode_drawing(text(zlib.compress(bytes(100_000_000), 9), 4, 4))
    assert asked == [(17, 17)]


def test_an_unknown_class():
    with pytest.raises(ValueError, match="drawing: the data has class 19, but classes go from 0 to 18"):
        decode_drawing(text(zlib.compress(bytes([0, 19])), 2, 1))


def test_another_version():
    with pytest.raises(ValueError, match='format is "labelmap1;WIDTHxHEIGHT;DATA"'):
        decode_drawing(text(zlib.compress(b"\0"), 1, 1, "labelmap2"))


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.png")), ids=lambda path: path.stem)
def test_templates_are_small_label_maps(path):
    import numpy as np
    from PIL import Image
    image = np.array(Image.open(path))
    assert image.shape == (512, 512) and image.max() < len(CLASSES)
    assert {1, 2, 4, 5, 6, 7, 11, 12, 17, 18} <= set(image.ravel().tolist())
    assert len(encode_drawing(torch.from_numpy(image))) < 8000


def test_a_new_node_has_a_face():
    assert 13 in decode_drawing(first_drawing())
    assert len(first_drawing()) < 8000
