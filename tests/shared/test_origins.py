"""What other nodes put in place of a model's own code is named."""
import pytest
import torch.nn as nn

from mditface.mdit.shared.origins import check_blocks, name_origin, name_replacements


class Bundle(nn.Module):
    """Stands for several blocks."""

    __module__ = "C:\\ComfyUI\\custom_nodes\\Some-Pack.nodes"


def replaced(self):
    """Stands for a method."""


replaced.__module__ = "/comfy/custom_nodes/other_x_pack"


def test_the_pack_is_told_from_the_path_of_its_folder():
    assert name_origin(Bundle) == "'Bundle' of Some-Pack"
    assert name_origin(replaced) == "'replaced' of other_x_pack"
    assert name_origin(nn.Linear) == "'Linear'"


def test_methods_and_classes_of_others_are_listed_once():
    own, changed = nn.Identity(), nn.Identity()
    own.__class__ = type("Own", (nn.Identity,), {"__module__": "comfy.ldm.model"})
    changed.__class__ = type(own)
    changed.forward = replaced.__get__(changed)
    assert name_replacements([own, changed, changed, Bundle()]) == ["'replaced' of other_x_pack",
                                                                    "'Bundle' of Some-Pack"]


def test_a_stand_in_for_blocks_is_refused_by_name():
    check_blocks(nn.ModuleList([nn.Identity()] * 2), 2)
    with pytest.raises(ValueError, match="model: another node put 'Bundle' of Some-Pack in place of its 2 blocks"):
        check_blocks(nn.ModuleList([Bundle()]), 2)
