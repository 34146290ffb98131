from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import folder_paths
from comfy_api.latest import _io
from mditface.mdit.labelmap import (
    CLASSES, PALETTES, PARSER_ORDER, encode_drawing, from_masks, to_image, to_indices)
from mditface.nodes.labelmap import NODES, EditLabelMap, LabelMapFromMasks, LabelMapToMasks
from mditface.nodes.painter import PaintLabelMap, first_drawing

SKIN, HAIR = CLASSES.index("skin"), CLASSES.index("hair")


def face(batch=2):
    indices = torch.full((batch, 12, 16), SKIN, dtype=torch.uint8)
    indices[:, :4, 2:10] = HAIR
    return to_image(indices)


def run(node, **inputs):
    """Execute a node on API inputs ("operation.dx"), checked and nested as the host does."""
    allowed, _, v3_data = _io.get_finalized_class_inputs(node.INPUT_TYPES(), inputs)
    names = set(allowed["required"]) | set(allowed["optional"])
    assert set(allowed["required"]) <= set(inputs) <= names
    return node.EXECUTE_NORMALIZED(**_io.build_nested_inputs(inputs, v3_data)).args


# Schemas

@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_schemas_are_complete(node):
    schema = node.GET_SCHEMA()
    assert schema.node_id == f"MDiT_{node.__name__}" and schema.category == "MDiTFace/Label maps"
    assert schema.description and schema.search_aliases and schema.display_name.isascii()
    for slot in [part for slot in schema.inputs for part in slot.get_all()] + schema.outputs:
        assert slot.tooltip, slot.id


# Build

def test_masks_become_a_label_map():
    low, high = torch.zeros(1, 8, 8), torch.zeros(2, 4, 4)
    low[:, 2:] = 1
    high[1, :2] = 1
    image, = run(LabelMapFromMasks, **{"masks.mask0": low, "masks.mask1": high}, classes="skin\nhair",
                 width=0, height=0)
    assert torch.equal(to_indices(image), from_masks([(SKIN, low), (HAIR, high)], 8, 8))


def test_an_empty_stand_in_does_not_set_the_size():
    hair = torch.zeros(1, 96, 128)
    hair[:, :40] = 1
    masks = {"masks.mask0": torch.zeros(1, 64, 64), "masks.mask1": hair}
    image, = run(LabelMapFromMasks, **masks, classes="skin, hair", width=0, height=0)
    assert image.shape == (1, 96, 128, 3) and torch.equal(to_indices(image)[0] == HAIR, hair[0] > 0)


def test_the_size_of_a_connected_label_map_stays():
    base = to_image(torch.full((1, 80, 90), SKIN, dtype=torch.uint8))
    image, = run(LabelMapFromMasks, **{"masks.mask0": torch.zeros(1, 64, 64)}, classes="hair", width=0, height=0,
                 label_map=base)
    assert torch.equal(image, base)


def test_soft_masks_are_said(caplog):
    with caplog.at_level("INFO"):
        run(LabelMapFromMasks, **{"masks.mask0": torch.linspace(0, 1, 64).expand(1, 8, 64)}, classes="hair", width=0,
            height=0)
    assert "mask 1 is soft. Its pixels above 0.5 count" in caplog.text


def test_the_palette_that_auto_found_is_said(caplog):
    indices = to_indices(face())
    indices[:, 6:10] = CLASSES.index("neck")
    image = to_image(indices).flip(-1)
    with caplog.at_level("INFO"):
        masks, _ = run(LabelMapToMasks, label_map=image, classes="hair", palette="auto", order="CelebAMask-HQ")
    assert torch.equal(masks, (indices == HAIR).float())
    assert "red and blue swapped" in caplog.text


def test_the_canvas_may_have_a_size_of_its_own():
    image, = run(LabelMapFromMasks, **{"masks.mask0": torch.ones(5, 7)}, classes="skin", width=20, height=0)
    assert image.shape == (1, 5, 20, 3) and (to_indices(image) == SKIN).all()


@pytest.mark.parametrize("classes, said", [
    ("skin", "classes: the list has 1 names, but 2 masks are connected"), ("skin, moustache", "classes: 'moustache'")])
def test_classes_that_do_not_fit_the_masks_are_refused(classes, said):
    masks = {"masks.mask0": torch.ones(1, 4, 4), "masks.mask1": torch.ones(1, 4, 4)}
    with pytest.raises(ValueError, match=said):
        run(LabelMapFromMasks, **masks, classes=classes, width=0, height=0)


def test_an_empty_mask_batch_is_refused():
    with pytest.raises(ValueError, match="masks: mask 1 is empty"):
        run(LabelMapFromMasks, **{"masks.mask0": torch.zeros(0, 4, 4)}, classes="skin", width=0, height=0)


# Split

def test_masks_come_one_a_class_and_image_with_their_union():
    image = torch.cat([face(1), to_image(torch.zeros(1, 12, 16, dtype=torch.uint8))])
    masks, union = run(LabelMapToMasks, label_map=image, classes="hair, skin", palette="colours",
                       order="CelebAMask-HQ")
    assert masks.shape == (4, 12, 16) and union.shape == (2, 12, 16)
    assert masks[0].sum() == 4 * 8 and masks[1].sum() == 12 * 16 - 4 * 8
    assert masks[2:].sum() == 0 and union[0].all() and union[1].sum() == 0


def test_all_classes_and_the_parsers_order():
    rows = torch.tensor(PARSER_ORDER).argsort()[to_indices(face()).long()]
    image = torch.tensor(PALETTES["grey indices"].colors)[rows] / 255
    masks, union = run(LabelMapToMasks, label_map=image, classes="all", palette="grey indices",
                       order="face parser")
    assert masks.shape == (38, 12, 16) and union.all()
    assert torch.equal(masks[19 + HAIR], (to_indices(face())[1] == HAIR).float())


@pytest.mark.parametrize("image, said", [
    (torch.zeros(0, 8, 8, 3), "label_map: the batch is empty"), (torch.zeros(1, 8, 8), "label_map: expected"),
    (torch.ones(1, 8, 8, 3), r"label_map: 100% .* \(255, 255, 255\)")])
def test_bad_images_are_refused(image, said):
    with pytest.raises(ValueError, match=said):
        run(LabelMapToMasks, label_map=image, classes="all", palette="colours", order="CelebAMask-HQ")
    with pytest.raises(ValueError, match=said):
        run(EditLabelMap, label_map=image, class_name="hair", operation="remove")


# Edit

def test_specks_of_a_blended_map_stay_if_asked_to(caplog):
    image = to_image(torch.full((1, 200, 200), SKIN, dtype=torch.uint8))
    image[:, 60, 60:62] = to_image(torch.tensor([[[HAIR]]]))
    image[:, :, 0] = 0.2  # makes the map a blended one
    settings = dict(class_name="hat", operation="remove")
    for keep_specks in (False, True):
        edited, = run(EditLabelMap, label_map=image, keep_specks=keep_specks, **settings)
        assert (to_indices(edited) == HAIR).sum() == 2 * keep_specks
    assert torch.equal(run(EditLabelMap, label_map=image, **settings)[0], run(
        EditLabelMap, label_map=image, keep_specks=False, **settings)[0])


@pytest.mark.parametrize("node, inputs", [
    (EditLabelMap, dict(class_name="hair", operation="remove")),
    (LabelMapToMasks, dict(classes="hair", palette="colours", order="CelebAMask-HQ")),
    (LabelMapFromMasks, {"masks.mask0": torch.ones(1, 8, 8), "classes": "skin", "width": 0, "height": 0})])
def test_a_black_label_map_is_said(node, inputs, caplog):
    with caplog.at_level("INFO"):
        run(node, label_map=torch.zeros(1, 32, 32, 3), **inputs)
    assert "label_map: The label map is background alone." in caplog.text


@pytest.mark.parametrize("operation, settings, hair", [
    ("move", {"dx": 3, "dy": 2}, (2, 6, 5, 13)), ("scale", {"width": 0.5, "height": 2.0}, (0, 6, 4, 8)),
    ("grow", {"pixels": 1}, (0, 5, 1, 11)), ("grow", {"pixels": -1}, (0, 3, 3, 9))])
def test_edits_reshape_the_class(operation, settings, hair):
    settings = {f"operation.{name}": value for name, value in settings.items()}
    image, = run(EditLabelMap, label_map=face(), class_name="hair", operation=operation, **settings)
    rows, columns = (to_indices(image)[1] == HAIR).nonzero().T
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == hair
    assert set(to_indices(image).unique().tolist()) == {SKIN, HAIR}


def test_remove_and_replace():
    removed, = run(EditLabelMap, label_map=face(), class_name="hair", operation="remove")
    assert (to_indices(removed) == SKIN).all()
    replaced, = run(EditLabelMap, label_map=face(), class_name="hair", operation="replace",
                    **{"operation.by": "hat"})
    assert torch.equal(to_indices(replaced) == CLASSES.index("hat"), to_indices(face()) == HAIR)
    assert (to_indices(replaced) != HAIR).all()


@pytest.mark.parametrize("name", ["left eye", "l_eye", "Left-Eye", "\u5de6\u773c", "4", None])
def test_every_name_of_a_part_passes_the_hosts_check(name):
    assert EditLabelMap.validate_inputs(class_name=name) is True
    assert PaintLabelMap.validate_inputs(drawing=None, class_name=name) is True


def test_a_part_that_is_none_is_told_with_the_names_in_the_list():
    said = PaintLabelMap.validate_inputs(drawing=None, class_name="moustache")
    assert said == EditLabelMap.validate_inputs(class_name="moustache")
    assert said.startswith("class_name: 'moustache' is no class") and "left eye" in said and "l_eye" not in said


# Paint

def test_a_start_is_shown_in_the_packs_colours_and_changes_no_other_drawing():
    plain = PaintLabelMap.execute(first_drawing(), "hair")
    start = torch.tensor(PALETTES["index picture"].colors)[to_indices(face()).long()] / 255
    given = PaintLabelMap.execute(first_drawing(), "hair", start=start)
    assert all(map(torch.equal, plain.args[:2], given.args[:2])) and plain.ui == {}
    (saved,) = given.ui["start"]
    shown = Image.open(Path(folder_paths.get_temp_directory(), saved["subfolder"], saved["filename"]))
    assert torch.equal(torch.from_numpy(np.array(shown.convert("RGB"))) / 255, face()[0])


def test_a_start_stands_for_a_drawing_of_background_alone():
    blank = encode_drawing(torch.zeros(8, 8, dtype=torch.uint8))
    image, mask, width, height = PaintLabelMap.execute(blank, "hair", start=face()).args
    assert torch.equal(image, face()[:1]) and torch.equal(mask[0] == 1, to_indices(face())[0] == HAIR)
    assert (width, height) == (16, 12)
    assert not PaintLabelMap.execute(blank, "hair").args[0].any()


def test_a_photograph_as_a_start_is_refused():
    photo = torch.rand(1, 64, 64, 3, generator=torch.manual_seed(0))
    with pytest.raises(ValueError, match="^start: .*'Parse Face'"):
        PaintLabelMap.execute(first_drawing(), "hair", start=photo)
