"""Changes to label maps in training."""
import torch

from mditface.mdit.datasets.augment import HIDDEN, LabelNoise, mirror
from mditface.mdit.labelmap import SIDES, swap_sides


def test_sides():
    labels = torch.tensor([[[left, right] for left, right in SIDES]], dtype=torch.uint8)
    assert torch.equal(swap_sides(labels), labels.flip(-1))
    images = torch.arange(6.0).view(1, 1, 3, 2)
    flipped, mirrored = mirror(images, labels, torch.tensor([True]))
    assert torch.equal(flipped, images.flip(-1))
    assert torch.equal(mirrored, labels)  # a face whose sides are mirrored and renamed looks the same


def test_label_noise_hides_whole_classes():
    labels = torch.randint(0, 19, (4, 64, 64), dtype=torch.uint8)
    out = LabelNoise(swap=0.0, incomplete=1.0, missing=0.5)(labels, torch.Generator().manual_seed(0))
    for before, after in zip(labels, out):
        for c in range(19):
            assert (after[before == c] == c).all() or (after[before == c] == HIDDEN).all()
    assert (out == HIDDEN).any() and (out != HIDDEN).any()


def test_shares_of_changed_maps():
    labels = torch.tensor(SIDES[0], dtype=torch.uint8).expand(2000, 1, 2)
    out = LabelNoise()(labels, torch.Generator().manual_seed(0)).flatten(1)
    seen = out != HIDDEN
    swapped = (out == labels.flatten(1).flip(1)) & seen
    assert 0.12 < swapped.sum() / seen.sum() < 0.18
    assert 0.02 < 1 - seen.float().mean() < 0.04  # 0.15 of the samples, 0.2 of their classes


def test_coarse_maps_have_the_pixels_of_smaller_ones():
    labels = torch.randint(0, 19, (400, 16, 16), dtype=torch.uint8)
    out = LabelNoise(swap=0.0, incomplete=0.0, coarse=0.5)(labels, torch.Generator().manual_seed(0))
    quarter = (out == out[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2)).flatten(1).all(1)
    half = (out == out[:, ::2, ::2].repeat_interleave(2, 1).repeat_interleave(2, 2)).flatten(1).all(1)
    same = (out == labels).flatten(1).all(1)
    assert 70 <= quarter.sum() <= 130 and 160 <= half.sum() <= 240 and (half ^ same).all()
