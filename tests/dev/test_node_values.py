"""What the nodes take that the host gets: values of their inputs' types and ranges, and errors that name the input."""
import pytest
import torch

from mditface.nodes import NODES
from mditface.nodes.adapter import ApplyAdapter
from mditface.nodes.comparing import ChangedRegion
from mditface.nodes.conditioning import ApplyExemplar, ApplyMask, EncodePicture, MaskTokenizer
from mditface.nodes.face_mogle import LoadFaceMoGLE
from mditface.nodes.interactdiffusion import ApplyInteractDiffusion
from mditface.nodes.labelmap import EditLabelMap, LabelMapFromMasks
from mditface.nodes.mmface import ConditionMMFace, LoadMMFace
from mditface.nodes.parsing import CropFace, PasteFace
from mditface.nodes.preview import PreviewLabelMap
from mditface.nodes.pt_dit import LoadPTDiT
from mditface.nodes.relief import BuildControlMaps
from mditface.nodes.sampling import DualGuiderNode, Sampler
from mditface.nodes.values import KINDS, check_value, check_values

NAN = float("nan")
IMAGE = torch.zeros(1, 8, 8, 3)
GOOD = {"IMAGE": IMAGE, "MASK": IMAGE[..., 0], "LATENT": {"samples": torch.zeros(1, 4, 8, 8)}, "INT": 5, "FLOAT": 0.5,
        "BOOLEAN": True, "STRING": "text", "CONDITIONING": [[torch.zeros(1, 6, 8), {}]]}
BAD = (None, "x", b"x", float("nan"), 10 ** 400, [], {}, [[1]], IMAGE[0], IMAGE[..., :1], IMAGE.byte(),
       IMAGE.to("meta"), IMAGE.to_sparse(), {"samples": "x"}, [["x", {}]], object(), torch.nn.Linear, len)

TAKEN = {"STRING": [1], "INT": [4], "CONDITIONING": [5], "MDIT_INTERACTIONS": [5], "MASK": [8, 9]}  # places in BAD


def find_input(kind, name):
    return next(one for one in kind.GET_SCHEMA().inputs if one.id == name)


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_other_kinds_are_refused(kind):
    takes = KINDS[kind][0]
    if kind in GOOD:
        assert takes(GOOD[kind])
    taken = [place for place, value in enumerate(BAD) if takes(value)]
    assert taken == TAKEN.get(kind, [])


@pytest.mark.parametrize("kind, name, value", [
    (Sampler, "steps", 0), (Sampler, "steps", "4"), (Sampler, "cfg", float("inf")), (Sampler, "seed", 2 ** 64),
    (Sampler, "sampler_name", "x"), (Sampler, "offload", "x"), (Sampler, "positive", None), (Sampler, "model", None),
    (Sampler, "latent_image", IMAGE), (BuildControlMaps, "label_map", IMAGE[:0]), (BuildControlMaps, "gap", 10 ** 400),
    (BuildControlMaps, "style", ["soft"]), (LabelMapFromMasks, "masks", []), (LabelMapFromMasks, "classes", "\ud83d"),
    (LabelMapFromMasks, "masks", {"mask0": "x"}), (EditLabelMap, "operation", {"operation": "x"}),
    (EditLabelMap, "class_name", 5),
    (EditLabelMap, "operation", {"operation": "scale", "width": "x", "height": 1.0}),
    (EditLabelMap, "operation", {"operation": "scale", "width": NAN, "height": 1.0}),
    (ApplyInteractDiffusion, "schedule", 5),
    (ApplyInteractDiffusion, "schedule", {"schedule": "steps", "full": NAN, "fade": 0.0}),
    (ApplyMask, "strength", NAN), (ApplyMask, "end", NAN), (ApplyExemplar, "strength", NAN),
    (EncodePicture, "placement", "left"), (EncodePicture, "picture", IMAGE[:0]), (MaskTokenizer, "token_reduction", 5),
    (ConditionMMFace, "sketch", IMAGE[:0]), (LoadMMFace, "objective", "red"), (LoadMMFace, "time", "red"),
    (LoadFaceMoGLE, "class_pictures", "red"), (LoadFaceMoGLE, "gate_time", "red"), (LoadPTDiT, "weight_dtype", "fp8"),
    (Sampler, "cache", "red"), (DualGuiderNode, "text_scale", "x"), (ApplyAdapter, "weight", float("inf")),
    (ApplyAdapter, "condition_size", -16), (ApplyAdapter, "condition_size", "a"), (CropFace, "context", NAN),
    (PreviewLabelMap, "opacity", NAN), (ChangedRegion, "feather", NAN), (BuildControlMaps, "gap", -0.5)])
def test_errors_name_the_input(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name}[.:]") as caught:
        check_value(find_input(kind, name), name, value)
    str(caught.value).encode()


def test_an_optional_input_may_be_empty():
    check_value(find_input(LabelMapFromMasks, "label_map"), "label_map", None)


def test_an_input_that_the_node_did_not_ask_for_may_be_empty():
    check_value(find_input(PasteFace, "faces"), "faces", None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_one_broken_pixel_is_refused(value, dtype):
    image = IMAGE.to(dtype, copy=True)
    check_value(find_input(PasteFace, "faces"), "faces", image)
    image[0, 3, 4, 1] = value
    with pytest.raises(ValueError, match="^faces: it has NaN or infinite values: check the node that made it"):
        check_value(find_input(PasteFace, "faces"), "faces", image)


def test_a_part_may_have_its_short_name():
    check_value(find_input(EditLabelMap, "class_name"), "class_name", "l_eye")


def test_each_node_stays_what_it_is():
    for kind in NODES:
        checked = check_values(kind)
        assert checked.__name__ == kind.__name__ and checked.GET_SCHEMA().node_id == kind.GET_SCHEMA().node_id
        assert issubclass(checked, kind) and checked.execute.__func__ is not kind.execute.__func__


def test_a_checked_node_runs_and_refuses():
    node = check_values(BuildControlMaps)
    with pytest.raises(ValueError, match="^label_map: 'x' .str. is not an image"):
        node.execute(label_map="x")
    with pytest.raises(ValueError, match="^label_map: it is missing"):
        node.execute(gap=0.5)
    with pytest.raises(ValueError, match="background alone"):
        node.execute(label_map=IMAGE)
