"""The nodes that make label maps from pictures, and those that show them."""
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from comfy.model_management import InterruptProcessingException, interrupt_current_processing
from mditface.mdit.labelmap import CLASSES, PALETTE, landmarks, to_image, to_indices
from mditface.mdit.mditface.cache import RunReport, StaticEntry
from mditface.mdit.mditface.mask import MaskInput, MaskReference
from mditface.nodes import parsing, preview
from mditface.nodes.conditioning import attach_mask
from mditface.nodes.labelmap import LabelMapFromMasks
from mditface.nodes.parsing import CropFace, LabelMapFromLandmarks, ParseFace, PasteFace
from mditface.nodes.preview import CacheInfo, PreviewLabelMap
from mditface.tests.parsing import weights

SKIN, HAIR = CLASSES.index("skin"), CLASSES.index("hair")
BOXES = [[dict(x=4, y=4, width=8, height=6), dict(x=30, y=20, width=16, height=16)],
         [dict(x=2, y=10, width=12, height=12)]]


def box(x, y, side):
    return dict(x=x, y=y, width=side, height=side)


@pytest.mark.parametrize("node", parsing.NODES + preview.NODES, ids=lambda node: node.__name__)
def test_schemas_are_complete(node):
    schema = node.GET_SCHEMA()
    assert schema.node_id == f"MDiT_{node.__name__}" and schema.display_name.isascii()
    assert schema.description and schema.search_aliases and schema.category.startswith("MDiTFace")
    for slot in schema.inputs + schema.outputs:
        assert slot.tooltip, slot.id


# Parse

def test_parsing_needs_no_loader_and_gives_a_label_map():
    label_map, confidence = ParseFace.execute(torch.rand(2, 30, 50, 3)).args
    assert label_map.shape == (2, 30, 50, 3) and confidence.shape == (2, 30, 50)
    assert {tuple(colour) for colour in (label_map * 255).round().int().flatten(0, 2).tolist()} <= set(PALETTE)


# Crop and paste

def test_one_face_of_each_picture():
    pictures = torch.rand(2, 48, 64, 3)
    faces, regions, *_ = CropFace.execute(pictures, 0, 0.0, 64, BOXES).args
    assert faces.shape == (2, 64, 64, 3) and regions == [[box(30, 20, 16)], [box(2, 10, 12)]]
    torch.testing.assert_close(faces[0].mean((0, 1)), pictures[0, 20:36, 30:46].mean((0, 1)), atol=0.02, rtol=0)
    with pytest.raises(ValueError, match="index: face 1 does not exist, image 1 has 1"):
        CropFace.execute(pictures, 1, 0.0, 64, BOXES)


def test_boxes_in_fractions_and_past_the_border():
    pictures = torch.rand(2, 48, 64, 3)
    inside = dict(x=0.25, y=0.5, width=0.25, height=0.25)
    assert CropFace.execute(pictures, 0, 0.0, 64, inside).args[1] == [[box(16, 22, 16)]] * 2
    assert CropFace.execute(pictures, 0, 0.0, 64, box(-8, 40, 16)).args[1] == [[box(-8, 40, 16)]] * 2


def test_all_faces_go_back_into_their_pictures():
    pictures = torch.rand(2, 48, 64, 3)
    faces, regions, *_ = CropFace.execute(pictures, -1, 0.0, 64, BOXES).args
    assert len(faces) == 3 and list(map(len, regions)) == [2, 1]
    marked = torch.stack([torch.full((8, 8, 3), value) for value in (0.1, 0.2, 0.3)])
    pasted, = PasteFace.execute(pictures, marked, regions, 0.0).args
    places = [(0, 20, 30, 16), (0, 3, 4, 8), (1, 10, 2, 12)]
    untouched = torch.ones(2, 48, 64, dtype=torch.bool)
    for value, (n, y, x, side) in zip((0.1, 0.2, 0.3), places):
        torch.testing.assert_close(pasted[n, y:y + side, x:x + side], torch.full((side, side, 3), value))
        untouched[n, y:y + side, x:x + side] = False
    assert torch.equal(pasted[untouched], pictures[untouched])


def test_feathers_blend_and_label_maps_do_not():
    pictures, faces = torch.zeros(1, 32, 32, 3), torch.ones(1, 4, 4, 3)
    pasted, = PasteFace.execute(pictures, faces, box(8, 8, 16), 0.25).args
    assert 0 < pasted[0, 8, 8, 0] < 0.5 and pasted[0, 16, 16, 0] == 1
    labels = torch.tensor([[[SKIN, HAIR], [HAIR, SKIN]]], dtype=torch.uint8)
    pasted, = PasteFace.execute(pictures, to_image(labels), box(-3, 7, 11), 0.25, True).args
    assert set(to_indices(pasted).unique().tolist()) == {0, SKIN, HAIR}
    assert {tuple(colour) for colour in pasted.flatten(0, 2).tolist()} == set(
        map(tuple, to_image(torch.tensor([[[0, SKIN, HAIR]]])).flatten(0, 2).tolist()))


def test_a_mask_stands_for_boxes():
    mask = torch.zeros(1, 48, 64)
    mask[:, 10:22, 2:14] = 1
    faces, regions, *_ = CropFace.execute(torch.rand(2, 48, 64, 3), 0, 0.0, 64, None, mask).args
    assert len(faces) == 2 and regions == [[box(2, 10, 12)]] * 2


@pytest.mark.parametrize("inputs, said", [
    ({}, "either boxes or a mask"), (dict(bboxes=BOXES, mask=torch.ones(2, 4, 4)), "and not both"),
    (dict(bboxes=[[], []], index=-1), "bboxes: there is no face in image 0. Lower the detector's threshold"),
    (dict(bboxes=[]), "bboxes: there is no face in image 0"), (dict(bboxes=[BOXES[0], []]), "bboxes: .* in image 1"),
    (dict(mask=torch.zeros(1, 48, 64)), "mask: there is no face in image 0. Connect a mask with pixels above 0.5"),
    (dict(bboxes=BOXES * 2), "bboxes: it is for 4 images, but there are 2"),
    (dict(bboxes=box(64, 0, 9)), "bboxes: the box .* lies outside of the image of 64 x 48 pixels"),
    (dict(bboxes=box(0, -10, 9)), "lies outside of the image"), (dict(bboxes={"x": 3}), "bboxes: .* is not a box"),
    (dict(mask=torch.ones(3, 4, 4)), "mask: it is for 3 images, but there are 2")])
def test_a_crop_without_a_face_is_refused(inputs, said):
    with pytest.raises(ValueError, match=said):
        CropFace.execute(torch.rand(2, 48, 64, 3), **inputs)


def test_doubtful_masks_are_said_or_refused():
    inverted = torch.ones(1, 48, 64)
    inverted[:, 10:22, 2:14] = 0
    report = CropFace.execute(torch.rand(1, 48, 64, 3), 0, 0.0, 64, None, inverted).args[2]
    assert "mask: it covers all corners and most of the image. If it is inverted, connect 'Invert Mask'" in report
    soft = torch.linspace(0, 1, 64).expand(1, 48, 64)
    assert "mask: it is soft." in CropFace.execute(torch.rand(1, 48, 64, 3), 0, 0.0, 64, None, soft).args[2]
    with pytest.raises(ValueError, match="mask: the mask is empty, so nothing would be pasted. 'Load Image'"):
        PasteFace.execute(torch.rand(1, 48, 64, 3), torch.rand(1, 8, 8, 3), box(8, 8, 16), mask=torch.zeros(1, 64, 64))


@pytest.mark.parametrize("label_map", [True, False])
def test_soft_masks_that_label_map_mode_cuts_are_said(label_map, caplog):
    hard = torch.zeros(1, 48, 64)
    hard[:, 10:22, 2:14] = 1
    masks = torch.cat([hard, torch.linspace(0, 1, 64).expand(1, 48, 64)])
    places = [box(8, 8, 16), box(24, 8, 16)]
    with caplog.at_level("INFO"):
        PasteFace.execute(torch.rand(1, 48, 64, 3), torch.rand(2, 8, 8, 3), places, label_map=label_map, mask=masks)
    said = [record.message for record in caplog.records]
    assert said == (["mask: mask 2 is soft. Its pixels above 0.5 count, all others do not."] if label_map else [])


@pytest.mark.parametrize("faces, count", [(torch.rand(2, 8, 8, 3), 2), (None, 0)])
def test_other_faces_than_were_cut_out_are_refused(faces, count):
    with pytest.raises(ValueError, match=f"faces: there are {count} faces for 3 regions"):
        PasteFace.execute(torch.rand(2, 48, 64, 3), faces, BOXES)


@pytest.mark.parametrize("place, said", [
    (box(80, 8, 16), "lies outside of the image of 64 x 48 pixels"), (box(0, 0, 10 ** 6), "lies outside of the image"),
    (box(8, 8, 0), "has no pixel"), (box(0.1, 0.1, 0.4), "has no pixel")])
def test_regions_of_other_images_are_refused(place, said):
    with pytest.raises(ValueError, match=f"^regions: .* {said}.* Connect 'regions' of 'Crop Face'"):
        PasteFace.execute(torch.rand(1, 48, 64, 3), torch.rand(1, 8, 8, 3), place)


# Landmarks

def found(pictures=1):
    known = weights.known_face()
    face = {"landmarks_xy": np.array(known["landmarks"], np.float32)}
    return {"frames": [[face]] * pictures, "image_size": tuple(known["image_size"]),
            "connection_sets": {name: frozenset(map(tuple, edges)) for name, edges in known["connection_sets"].items()}}


def centre(labels, name):
    return (labels == CLASSES.index(name)).nonzero().float().mean(0).tolist()


def test_landmarks_become_the_parts_of_a_face():
    labels = to_indices(LabelMapFromLandmarks.execute(found()).args[0])[0]
    assert labels.unique().tolist() == sorted(map(CLASSES.index, [*landmarks.OUTLINES, "background"]))
    left, right, nose, mouth, brow = (
        centre(labels, name) for name in ("l_eye", "r_eye", "nose", "mouth", "l_brow"))
    assert left[1] > nose[1] > right[1], "the person's left is the picture's right"
    assert brow[0] < left[0] < nose[0] < mouth[0]
    assert centre(labels, "u_lip")[0] < mouth[0] < centre(labels, "l_lip")[0]


def test_landmarks_are_outlined_along_the_meshs_own_edges():
    sets = found()["connection_sets"]
    for name, edges in dict(skin="face_oval", l_eye="left_eye", r_eye="right_eye").items():
        ring = landmarks.OUTLINES[name]
        assert {frozenset(edge) for edge in sets[edges]} == {
            frozenset(edge) for edge in itertools.pairwise((*ring, ring[0]))}
    known = {vertex for edge in sets["lips"] for vertex in edge}
    assert known == set(landmarks.OUTLINES["u_lip"]) | set(landmarks.OUTLINES["l_lip"])
    for name, edges in dict(l_brow="left_eyebrow", r_brow="right_eyebrow").items():
        assert {vertex for edge in sets[edges] for vertex in edge} == set(landmarks.OUTLINES[name])


def test_faces_are_painted_on_a_label_map():
    hair = to_image(torch.full((1, 512, 512), HAIR, dtype=torch.uint8))
    labels = to_indices(LabelMapFromLandmarks.execute(found(2), hair).args[0])
    alone = to_indices(LabelMapFromLandmarks.execute(found(2)).args[0])
    assert labels.shape == (2, 512, 512) and torch.equal(labels[alone > 0], alone[alone > 0])
    assert (labels[alone == 0] == HAIR).all()
    for wrong in (hair[:, :256], hair.repeat(3, 1, 1, 1)):
        with pytest.raises(ValueError, match="label_map: .* landmarks are of 2 images of"):
            LabelMapFromLandmarks.execute(found(2), wrong)


def test_masks_are_painted_on_a_label_map():
    base = to_image(torch.full((2, 8, 8), SKIN, dtype=torch.uint8))
    mask = torch.zeros(1, 4, 4)
    mask[:, :2] = 1
    labels = to_indices(LabelMapFromMasks.execute({"mask0": mask}, "hair", 6, 8, base).args[0])
    assert labels.shape == (2, 8, 6) and (labels[:, :4] == HAIR).all() and (labels[:, 4:] == SKIN).all()
    with pytest.raises(ValueError, match="label_map: the batch has 2 label maps, but the masks are a batch of 3"):
        LabelMapFromMasks.execute({"mask0": mask.repeat(3, 1, 1)}, "hair", 6, 8, base)


# Preview

class Fixed:
    """A parser that sees the same label map in every picture."""

    def __init__(self, labels):
        self.labels = labels

    def parse(self, pictures):
        return self.labels.expand(len(pictures), -1, -1), None


@pytest.fixture
def shown(monkeypatch):
    """Runs the preview without writing pictures; gives the sheets and the report."""
    monkeypatch.setattr(preview.ui, "PreviewImage", lambda image, cls: SimpleNamespace(as_dict=dict))

    def run(*args, **inputs):
        output = PreviewLabelMap.execute(*args, **inputs)
        assert output.ui["text"] == (output.args[1],)
        return output.args
    return run


@pytest.fixture
def labels():
    """Three quarters skin and a quarter hair, 40 wide and 20 high."""
    labels = torch.full((1, 20, 40), SKIN, dtype=torch.uint8)
    labels[:, :, :10] = HAIR
    return labels


def test_a_legend_names_the_shares(shown, labels):
    sheet, report = shown(to_image(labels))
    shares, doubt = report.splitlines()
    assert shares == "skin 75.0%, hair 25.0%" and 'also fit the palette "colours with red and blue swapped"' in doubt
    assert sheet.shape[:2] == (1, 480) and sheet.shape[2] > 960
    assert torch.equal(to_indices(sheet[:, :, :960])[0, ::24, ::24], labels[0])
    legend = (sheet[0, :, 960:] * 255).round().int()
    rows = [(legend == torch.tensor(PALETTE[k])).all(-1).any(1).nonzero().min() for k in (SKIN, HAIR)]
    assert rows[0] < rows[1]


def test_a_picture_stands_beside_under_the_colours_and_is_judged(shown, labels):
    picture = torch.full((2, 10, 20, 3), 0.5)
    seen = torch.full((1, 10, 20), SKIN, dtype=torch.uint8)
    sheet, report = shown(to_image(labels), picture=picture, opacity=0.25, parser=Fixed(seen))
    assert report.splitlines()[:2] == ["skin 75.0%, hair 25.0%, label agreement 0.750, mean IoU 0.375"] * 2
    assert sheet.shape[:2] == (2, 480)
    middle = sheet[0, 240]
    torch.testing.assert_close(middle[960 + 480], torch.full((3,), 0.5), atol=0.01, rtol=0)
    mixed = 0.75 * 0.5 + 0.25 * torch.tensor(PALETTE[SKIN]) / 255
    torch.testing.assert_close(middle[1920 + 480], mixed, atol=0.01, rtol=0)


def test_the_bundled_parser_judges_by_default(shown, labels):
    assert "label agreement" in shown(to_image(labels), picture=torch.rand(1, 20, 40, 3))[1]


@pytest.mark.parametrize("count", [3, 0])
def test_pictures_that_do_not_fit_are_refused(shown, labels, count):
    with pytest.raises(ValueError, match=f"picture: {count} images for 2 label maps"):
        shown(to_image(labels).repeat(2, 1, 1, 1), picture=torch.rand(count, 20, 40, 3))


def test_a_long_preview_can_be_cancelled(shown, labels):
    interrupt_current_processing(True)
    with pytest.raises(InterruptProcessingException):
        shown(to_image(labels))


# Cache

def kept(mask, key, tokens):
    pair = torch.ones(1, 1, tokens, 2), torch.ones(1, 1, tokens, 2)
    return mask.store.get_cache(torch.device("cpu")).get(key, lambda: StaticEntry([pair] * 3, None, False), RunReport())


def test_cache_info_counts_what_is_kept():
    mask = MaskInput(torch.zeros(1, 4, 4, dtype=torch.uint8), torch.ones(len(CLASSES)))
    assert CacheInfo.execute(mask).args == ("cache entries 0, cache bytes 0, cache hits 0", 0, 0, 0, "")
    kept(mask, "a", 4), kept(mask, "b", 8), kept(mask, "a", 4)
    report, entries, nbytes, hits, device = CacheInfo.execute(mask).args
    assert (entries, nbytes, hits, device) == (2, 3 * 2 * (4 + 8) * 2 * 4, 1, "cpu")
    assert report.splitlines()[1:] == ["entry 1: 384 bytes on cpu, 3 blocks, 0 hits",
                                       "entry 2: 192 bytes on cpu, 3 blocks, 1 hits"]


def test_cache_info_finds_the_masks_of_a_conditioning_once():
    masks = [MaskInput(torch.zeros(1, 4, 4, dtype=torch.uint8), torch.ones(len(CLASSES))) for _ in range(2)]
    kept(masks[0], "a", 4), kept(masks[1], "a", 8)
    text = [[torch.zeros(1, 2, 3), {"pooled_output": None}]]
    both = attach_mask(text, masks[0], 1.0) + attach_mask(text, masks[0], 0.5)
    both[1][1]["mdit_mask.other"] = MaskReference(masks[1])
    assert CacheInfo.execute(both).args[1] == 2
    assert CacheInfo.execute(text).args[1] == 0


def test_cache_info_is_never_taken_from_the_hosts_cache():
    fingerprint = CacheInfo.fingerprint_inputs(source=None)
    assert fingerprint != fingerprint
