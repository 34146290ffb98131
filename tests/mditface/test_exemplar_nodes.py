"""Apply Exemplar (MDiT): what it puts on a conditioning, and what it refuses."""
import pytest
import torch

from mditface.mdit.labelmap import to_image
from mditface.mdit.mditface.mask import MaskReference
from mditface.mdit.shared.masks import CONDITIONING_KEY
from mditface.nodes.conditioning import ApplyExemplar, ApplyMask
from mditface.tests.mditface import tiny

TEXT = [[torch.zeros(1, 3, 16), {"pooled_output": torch.zeros(1, 16)}]]
PICTURE = torch.rand(1, 32, 32, 3)
VAE = tiny.PixelVAE()


def masked_text():
    return ApplyMask.execute(TEXT, tiny.mask(), 0.5, 0.1, 0.9).args[0]


def apply(conditioning, picture=PICTURE, labels=None, **inputs):
    label_map = to_image(tiny.labels() if labels is None else labels)
    return ApplyExemplar.execute(conditioning, picture, label_map, VAE, **inputs).args[0]


def test_the_exemplar_goes_on_the_mask_and_leaves_the_input_alone():
    given = masked_text()
    (_, options), (_, bare) = apply(given + TEXT, strength=0.7)
    reference, before = options[CONDITIONING_KEY], given[0][1][CONDITIONING_KEY]
    assert (reference.mask, reference.strength, reference.start, reference.end) == (before.mask, 0.5, 0.1, 0.9)
    assert reference.exemplar_strength == 0.7 and before.exemplar is None
    assert torch.equal(reference.exemplar.images, PICTURE)
    assert torch.equal(reference.exemplar.labels, tiny.labels())
    assert bare is TEXT[0][1]


def test_all_masks_of_a_conditioning_share_one_exemplar():
    out = apply(masked_text() + masked_text())
    assert out[0][1][CONDITIONING_KEY].exemplar is out[1][1][CONDITIONING_KEY].exemplar is not None


def test_later_edits_of_the_picture_do_not_reach_it():
    picture = PICTURE.clone()
    (_, options), = apply(masked_text(), picture)
    picture.zero_()
    assert torch.equal(options[CONDITIONING_KEY].exemplar.images, PICTURE)


def test_a_conditioning_without_a_mask_is_refused():
    adapters = [[TEXT[0][0], {f"{CONDITIONING_KEY}.some-adapter": MaskReference(tiny.mask())}]]
    for conditioning in (TEXT, adapters):
        with pytest.raises(ValueError, match="conditioning: it has no mask"):
            apply(conditioning)


@pytest.mark.parametrize("picture, labels, message", [
    (torch.rand(2, 32, 32, 3), None, "label_map: 1 label maps for 2 images"),
    (torch.rand(1, 32, 48, 3), None, "label_map: 32 x 32 pixels have another aspect ratio than the exemplar's 48 x 32"),
    (PICTURE, torch.zeros(1, 32, 32, dtype=torch.uint8), "label_map: it contains only background"),
    (torch.rand(2, 32, 32, 3), torch.cat((tiny.labels(), torch.zeros(1, 32, 32, dtype=torch.uint8))),
     "label_map: it contains only background"),
])
def test_a_label_map_of_something_else_is_refused(picture, labels, message):
    with pytest.raises(ValueError, match=message):
        apply(masked_text(), picture, labels)


def test_a_photograph_is_no_label_map():
    with pytest.raises(ValueError, match="label_map: .* far from every entry"):
        ApplyExemplar.execute(masked_text(), PICTURE, PICTURE, VAE)


def test_a_label_map_of_the_same_aspect_serves():
    picture = torch.rand(1, 64, 64, 4)
    (_, options), = apply(masked_text(), picture)
    assert torch.equal(options[CONDITIONING_KEY].exemplar.images, picture[..., :3])
