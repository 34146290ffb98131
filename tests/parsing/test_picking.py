"""The node 'Pick by Label Agreement'."""
from types import SimpleNamespace

import pytest
import torch

from mditface.mdit.labelmap import find_class, to_image, to_indices
from mditface.nodes.comparing import PickByAgreement

SKIN, HAIR, NOSE = map(find_class, ("skin", "hair", "nose"))
PARSER = SimpleNamespace(parse=lambda images: (to_indices(images), None))  # for images that are label maps themselves


def asked(batch=1):
    labels = torch.full((batch, 20, 20), SKIN, dtype=torch.uint8)
    labels[:, :5] = HAIR
    labels[:, 10:12, 9:11] = NOSE
    return labels


def candidates():
    """Label maps with 0, 60, 4 and 20 wrong pixels; the third lacks its nose."""
    labels = asked(4)
    labels[1, 17:] = 0
    labels[2, 10:12, 9:11] = SKIN
    labels[3, 19] = 0
    return labels


def pick(images, labels, **settings):
    return PickByAgreement.execute(to_image(images), to_image(labels), parser=PARSER, **settings).args


def test_the_best_images_come_first():
    images, agreement, report = pick(candidates(), asked(), count=3)
    assert torch.equal(to_indices(images), candidates()[[0, 2, 3]])
    assert agreement == pytest.approx([1, 1 - 4 / 400, 1 - 20 / 400])
    assert [line.split(":")[0] for line in report.split("\n")] == ["image 0", "image 2", "image 3", "image 1"]
    assert [line.endswith("picked") for line in report.split("\n")] == [True, True, True, False]


def test_the_mean_iou_weighs_small_classes():
    images, agreement, _ = pick(candidates(), asked(), count=2, measure="mean IoU")
    assert torch.equal(to_indices(images), candidates()[[0, 3]]) and agreement[1] > 0.9


def test_equal_images_keep_their_order_and_alpha_stays():
    same = to_image(asked(3))
    alpha = torch.cat([same, torch.arange(3.0).view(3, 1, 1, 1).expand(-1, 20, 20, 1)], dim=-1)
    images, agreement, _ = PickByAgreement.execute(alpha, to_image(asked()), 2, parser=PARSER).args
    assert images.shape == (2, 20, 20, 4) and images[:, 0, 0, 3].tolist() == [0, 1] and agreement == [1, 1]


def test_more_than_there_are_gives_all():
    images, agreement, _ = pick(candidates(), asked(), count=9)
    assert len(images) == len(agreement) == 4


def test_each_image_may_have_a_label_map_of_its_own_and_of_another_size():
    small = candidates().repeat_interleave(2, 1).repeat_interleave(2, 2)
    _, agreement, _ = pick(candidates(), small, count=4)
    assert agreement == [1, 1, 1, 1]


def test_the_bundled_parser_is_used_without_another():
    images, agreement, report = PickByAgreement.execute(torch.rand(2, 24, 24, 3), to_image(asked())).args
    assert images.shape == (1, 24, 24, 3) and 0 <= agreement[0] <= 1 and report.count("mean IoU") == 2


@pytest.mark.parametrize("images, labels, said", [
    (torch.rand(3, 8, 8, 3), to_image(asked(2)), "label_map: there are 2 label maps for 3 images"),
    (torch.rand(0, 8, 8, 3), to_image(asked()), "images: 0 images"),
    (torch.rand(1, 8, 8, 3), torch.rand(1, 64, 64, 3, generator=torch.manual_seed(0)), "label_map: .*'Parse Face'")])
def test_what_does_not_fit_is_refused(images, labels, said):
    with pytest.raises(ValueError, match=said):
        PickByAgreement.execute(images, labels, parser=PARSER)
