"""Images and masks in float64, as some nodes of other packs give them: the same results."""
from types import SimpleNamespace

import pytest
import torch

from mditface.mdit.labelmap import CLASSES, to_image
from mditface.nodes import interactdiffusion, labelmap, parsing, preview
from mditface.tests.interactdiffusion import tiny

BOX = {"x": 8, "y": 4, "width": 30, "height": 24}
GENERATOR = torch.Generator().manual_seed(0)
PICTURE = torch.rand(1, 64, 96, 3, generator=GENERATOR)
LABELS = torch.zeros(1, 64, 96, dtype=torch.uint8)
LABELS[:, 10:50, 20:70] = CLASSES.index("skin")
LABELS[:, 5:15, 20:70] = CLASSES.index("hair")
LABELS[:, 50:, 20:70] = CLASSES.index("cloth")
LABELS[:, 30:35, 40:50] = CLASSES.index("nose")
MAP = to_image(LABELS)
MASK = (LABELS > 0).float()
REMOVE = {"operation": "remove"}
CASES = {
    "Crop Face by a mask": lambda to: parsing.CropFace.execute(to(PICTURE), 0, 0.2, 64, mask=to(MASK)),
    "Crop Face by boxes": lambda to: parsing.CropFace.execute(to(PICTURE), 0, 0.2, 64, BOX),
    "Paste Face": lambda to: parsing.PasteFace.execute(
        to(PICTURE), to(PICTURE[:, :32, :32]), BOX, 0.1, False, to(MASK)),
    "Parse Face": lambda to: parsing.ParseFace.execute(to(PICTURE)),
    "Preview Interactions": lambda to: interactdiffusion.PreviewInteractions.execute([tiny.FEEDING], to(PICTURE)),
    "Preview Label Map": lambda to: preview.PreviewLabelMap.execute(to(MAP), picture=to(PICTURE)),
    "Edit Label Map": lambda to: labelmap.EditLabelMap.execute(to(MAP), "hair", REMOVE),
    "Masks of Face Parts": lambda to: labelmap.LabelMapToMasks.execute(to(MAP), "all"),
    "Masks to Label Map": lambda to: labelmap.LabelMapFromMasks.execute(
        {"mask0": to(MASK)}, "hat", 0, 0, to(MAP)),
}


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    monkeypatch.setattr(preview.ui, "PreviewImage", lambda image, cls: SimpleNamespace(as_dict=dict))


def tensors(output):
    return [value.float() for value in output.args if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", CASES)
def test_doubles_change_nothing(name):
    expected = tensors(CASES[name](lambda image: image))
    found = tensors(CASES[name](lambda image: image.double()))
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected):
        assert ((one - other).abs() > 1e-5).float().mean() < 0.01
