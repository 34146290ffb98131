"""From label maps to mask tokens (docs/design/mditface.md, section 3.2)."""
from types import SimpleNamespace

import pytest
import torch

from mditface.mdit.labelmap import CLASSES, PALETTE
from mditface.mdit.mditface.mask import BoundMask, MaskInput, MaskReference
from mditface.mdit.mditface.reductions import EXACT, REDUCTIONS
from mditface.mdit.mditface.tokens import average_classes, classify_patches, make_mask_tokens
from mditface.tests.mditface import tiny

ALL = torch.ones(len(CLASSES))
HAIR, SKIN = CLASSES.index("hair"), CLASSES.index("skin")


def bound(model, labels, side, visible=ALL, reduction="off", vae=None) -> BoundMask:
    mask = MaskInput(labels, visible, reduction, vae)
    return BoundMask(MaskReference(mask), torch.Size((1, 3, side, side)), model, tiny.CONFIG.mask_layout)


@pytest.fixture
def model(loaded):
    return loaded.model.model


def test_a_token_holds_the_share_of_each_class_in_its_cells():
    labels = torch.full((1, 8, 8), SKIN, dtype=torch.uint8)
    labels[0, 0:2, 4:8] = HAIR  # right patch above: the upper half
    labels[0, 7, 0] = HAIR  # left patch below: one pixel of the lower left cell
    (whole,) = average_classes(labels, ALL, 1, 4).view(1, 4, len(CLASSES))
    assert whole[:, HAIR].tolist() == [0, 0.5, 1 / 16, 0]
    torch.testing.assert_close(whole.sum(-1), torch.ones(4))
    cells = average_classes(labels, ALL, 2, 4).view(4, len(CLASSES), 2, 2)
    assert cells[1, HAIR].tolist() == [[1, 1], [0, 0]]
    assert cells[2, HAIR].tolist() == [[0, 0], [0.25, 0]]


def test_the_class_of_a_patch_is_known_where_it_is_one():
    labels = torch.full((1, 8, 8), SKIN, dtype=torch.uint8)
    labels[0, 0, 0] = HAIR
    labels[0, 4:, 4:] = HAIR
    assert classify_patches(labels, 4).tolist() == [[-1, SKIN, SKIN, HAIR]]


def test_hidden_classes_are_no_class():
    visible = ALL.clone()
    visible[HAIR] = 0
    labels = torch.full((1, 4, 4), HAIR, dtype=torch.uint8)
    assert average_classes(labels, visible, 1, 4).abs().sum() == 0


@pytest.mark.parametrize("area", [(8, 8, 4, 4), (8, 4, 0, 8), (12, 16, 4, 0)])
def test_a_region_has_the_tokens_of_its_part_of_the_map(model, area):
    labels = tiny.labels(side=16)
    h, w, y, x = area
    part, _ = bound(model, labels, 16).get_tokens(area)
    expected = average_classes(labels[:, y:y + h, x:x + w], ALL, tiny.CONFIG.mask_cells, tiny.CONFIG.patch)
    assert torch.equal(part.tokens, expected)
    assert part.grid == (h // 4, w // 4)


def test_a_map_is_resized_to_the_latent_before_anything_else(model):
    large, small = tiny.labels(side=32), tiny.labels(side=16)
    assert bound(model, large, 16).get_tokens(None)[1] == bound(model, small, 16).get_tokens(None)[1]


def test_the_digest_tells_contents_apart(model):
    visible = ALL.clone()
    visible[int(tiny.labels()[0, 0, 0])] = 0
    masks = [bound(model, tiny.labels(), 16), bound(model, tiny.labels(seed=1), 16), bound(model, tiny.labels(), 20),
             bound(model, tiny.labels(), 16, visible), bound(model, tiny.labels(), 16, reduction="half")]
    assert len({mask.get_tokens(None)[1] for mask in masks}) == len(masks)
    assert bound(model, tiny.labels(), 16).get_tokens(None)[1] == masks[0].get_tokens(None)[1]


def test_each_reduction_has_its_own_tokens(model):
    mask = bound(model, tiny.labels(), 16)
    found = [mask.get_tokens(None, reduction)[0] for reduction in REDUCTIONS.values()]
    assert len(set(map(id, found))) == len(REDUCTIONS)
    assert mask.get_tokens(None, EXACT)[0] is found[0]


def test_half_tokens_are_of_a_map_of_half_the_size():
    labels = tiny.labels(side=32)
    half = make_mask_tokens(labels, None, ALL, tiny.CONFIG.mask_layout, 1, REDUCTIONS["half"])
    expected = make_mask_tokens(labels[:, ::2, ::2], None, ALL, tiny.CONFIG.mask_layout, 1, EXACT)
    assert torch.equal(half.tokens, expected.tokens)
    assert half.grid == (4, 4)
    assert half.rows.tolist() == half.cols.tolist() == [0.5, 2.5, 4.5, 6.5]


def test_palette_pictures_are_encoded_once_for_each_size_and_palette():
    pictures = []

    def encode(picture):
        pictures.append(picture)
        return picture.movedim(-1, 1)
    visible = ALL.clone()
    visible[HAIR] = 0
    mask = MaskInput(torch.tensor([[[HAIR, SKIN]]], dtype=torch.uint8), visible, vae=SimpleNamespace(encode=encode))
    plain, grey = (), tuple((k, k, k) for k in range(len(CLASSES)))
    first = mask.encode(1, 2, plain)
    assert (first[0, :, 0] * 255).round().T.tolist() == [list(PALETTE[0]), list(PALETTE[SKIN])]
    assert mask.encode(1, 2, plain) is first
    assert (mask.encode(1, 2, grey)[0, :, 0] * 255).round().T.tolist() == [[0, 0, 0], [SKIN] * 3]
    assert mask.encode(2, 4, plain).shape == (1, 3, 2, 4)
    assert len(pictures) == 3
