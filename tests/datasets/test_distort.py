"""Images of rough label maps, made of renders."""
import pytest
import torch

from mditface.mdit.datasets.distort import Distortion, flatten_classes

STILL = {"turn": 0.0, "zoom": 1.0, "shift": 0.0, "bend": 0.0, "ragged": 0.0}
COLORS = torch.linspace(-1, 1, 19)


def draw_pair(side=64):
    """Label maps of blocks, and images whose gray level is the class."""
    blocks = torch.randint(0, 19, (3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = blocks.repeat_interleave(side // 4, 1).repeat_interleave(side // 4, 2)
    return COLORS[labels.long()][:, None].expand(-1, 3, -1, -1).contiguous(), labels


def distort(images, labels, seed=0, **changes):
    return Distortion(**{"chance": 1.0} | changes)(images, labels, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind, value", [("turn", 30.0), ("zoom", 1.5), ("shift", 0.2), ("bend", 0.05),
                                         ("ragged", 0.05)])
def test_labels_move_with_their_image(kind, value):
    images, labels = draw_pair()
    moved, found = distort(images, labels, **STILL | {kind: value})
    assert not torch.equal(found, labels)
    inside = (moved[:, 0] - COLORS[found.long()]).abs() < 0.02  # on outlines, bilinear colors lie in between
    assert inside.float().mean() > (0.3 if kind == "ragged" else 0.7)


def test_nothing_changes_without_a_chance():
    images, labels = draw_pair()
    moved, found = distort(images, labels, chance=0.0)
    assert torch.equal(found, labels)
    torch.testing.assert_close(moved, images, rtol=0, atol=1e-5)


def test_a_flat_class_has_its_mean_color():
    images, labels = torch.rand(3, 3, 64, 64), draw_pair()[1]
    flat = flatten_classes(images, labels)
    for image, made, label in zip(images, flat, labels):
        for k in label.unique():
            expected = image[:, label == k].mean(1, keepdim=True).expand(-1, (label == k).sum())
            torch.testing.assert_close(made[:, label == k], expected)
    moved, _ = distort(images, labels, **STILL)
    assert (moved - flat).abs().mean() < (images - flat).abs().mean()
