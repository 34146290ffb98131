"""DynaST against the reference's outputs (the set has a README).

Every set of the same layout passes: sizes and settings are read from its files.
"""
import json
from collections import defaultdict

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mditface.mdit.shared import sparse_attention
from mditface.mdit.shared.candidates import children, propagated, unwindowed, windowed
from mditface.mdit.dynast import block, canny, face, pose, weights
from mditface.mdit.dynast.config import LEVELS, read_config
from mditface.mdit.dynast.model import DynaST
from mditface.mdit.dynast.pictures import prepared

UNIT = dict(rtol=1e-4, atol=1e-5)
FEATURES = dict(rtol=1e-3, atol=1e-4)
BLOCKS = dict(rtol=1e-3, atol=1e-3)
SHARES = dict(rtol=1e-3, atol=2e-4)  # conf and warped pictures
EXACT = dict(rtol=0, atol=0)
GRADIENT = 1e-3  # of a tensor's largest entry


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "dynast"


def said(*what):
    """Puts what was compared before the message."""
    return lambda message: f"{' '.join(map(str, what))}: {message}"


def under(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def check_gradient(found, expected, name):
    torch.testing.assert_close(found, expected, rtol=0, atol=GRADIENT * expected.abs().max().item(), msg=said(name))


@pytest.fixture
def seen(monkeypatch):
    """What is scored and kept, by attention, chunks joined: masks, and scores."""
    found = defaultdict(list)

    def recording(name, function):
        def wrapped(values, *rest):
            found[name][-1].append(values.detach().flatten(0, 1))
            return function(values, *rest)
        return wrapped

    def attend(*args):
        found["masks"].append([])
        found["scores"].append([])
        return sparse_attention.attend(*args)
    monkeypatch.setattr(sparse_attention, "passed", recording("masks", sparse_attention.passed))
    monkeypatch.setattr(sparse_attention, "best", recording("scores", sparse_attention.best))
    monkeypatch.setattr(block, "attend", attend)
    return found


# The attention alone


def unit(kind, tensors, grids):
    """What `attend` finds, as the set lays it out, and its inputs as leaves."""
    leaves = {name: tensors[f"in.{name}"].clone().requires_grad_() for name in (
        "q", "k", "q_prune", "k_prune", "v", "v2")}
    q, k, q_prune, k_prune, v, v2 = (block.rows(leaf) for leaf in leaves.values())
    candidates, top_k = None, None
    if kind == "dense":
        q_prune = q_prune / q_prune.shape[-1]
    else:
        handed = tensors["in.prev_idx"].long()
        top_k = handed.shape[-1]
        candidates = children(handed, grids[1][1] // 2) if kind == "inter" else propagated(handed, *grids)
    if kind == "inter":
        q, q_prune = (windowed(x, grids[0]).flatten(1, 2) for x in (q, q_prune))
    found = block.attend(sparse_attention.Side(q, q_prune), sparse_attention.Side(k, k_prune), v, candidates,
                         sparse_attention.Asked(tensors["in.smooth"].item(), top_k), v2)
    if kind == "inter":
        found = sparse_attention.Attended(*(unwindowed(x.unflatten(1, (-1, 4)), grids[0]) for x in found))
    return found, leaves


@pytest.mark.parametrize("chunk", [sparse_attention.CHUNK, 50])
@pytest.mark.parametrize("kind", ["dense", "inter", "inner"])
def test_attention_and_its_gradients(folder, seen, monkeypatch, kind, chunk):
    monkeypatch.setattr(sparse_attention, "CHUNK", chunk)
    tensors = under(load_file(folder / "attention_unit.safetensors"), f"{kind}.")
    grids = tensors["in.q"].shape[-2:], tensors["in.k"].shape[-2:]
    found, leaves = unit(kind, tensors, grids)
    masks = torch.cat(seen["masks"][0]) > 0
    torch.testing.assert_close(masks.view_as(tensors["out.mask"]).to(torch.uint8), tensors["out.mask"], **EXACT)
    if "out.topk_idx" in tensors:
        torch.testing.assert_close(found.chosen, tensors["out.topk_idx"].long(), **EXACT)
    loss = 0
    for name in ("output", "conf", "warped"):
        values = getattr(found, name).mT.unflatten(2, grids[0])
        torch.testing.assert_close(values, tensors[f"out.{name}"], **UNIT, msg=said(name))
        loss = loss + (values * tensors[f"w.{name}"]).sum()
    loss.backward()
    for name, leaf in leaves.items():
        check_gradient(leaf.grad, tensors[f"grad.{name}"], name)


# The generator


def applications(folder):
    return sorted(path.stem.removeprefix("generator_") for path in folder.glob("generator_*.safetensors"))


def generator(folder, name) -> DynaST:
    path = folder / f"generator_{name}.safetensors"
    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["config"])
    config, state = weights.read(str(path), told["top_k"], told["smooth"])
    assert (config.nc, config.ngf, config.max_multi, config.pos_dim, config.prune_dim, config.blocks, config.size) == (
        *(told[key] for key in ("nc", "ngf", "max_multi", "pos_dim", "prune_dim", "n_layers", "crop_size")),)
    network = DynaST(config)
    network.load_state_dict(state)
    return network.eval()


def inputs(tensors):
    return tensors["in.seg_u8"] / 255, tensors["in.ref_image"], tensors["in.ref_seg_u8"] / 255


def outputs_of(network):
    """The first output of each module by name, while the network runs: embed_q1 runs twice."""
    found = {}

    def keep(name, out):
        found.setdefault(name, out)  # and returns None, for a hook's answer would take the output's place
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, __, out, name=name: keep(name, out))
    return found


def check_features(level, name, tensors, outputs):
    """What encoders, residual blocks and upsamplers of a level gave, as far as the set has it."""
    pairs = {f"enc_q.{level}": f"encoder_q.layer{level}", f"enc_kv.{level}": f"encoder_kv.layer{level}",
             f"embed_q.{level}": f"embed_q{level}", f"embed_kv.{level}": f"embed_kv{level}",
             f"embed_{level}": f"embed_{level}", f"decoder_{level + 1}{level}": f"decoder_{level + 1}{level}",
             f"pos_{level + 1}{level}": f"pos_{level + 1}{level}"}
    for ours, theirs in pairs.items():
        if ours in tensors:
            torch.testing.assert_close(outputs[theirs], tensors[ours], **FEATURES, msg=said(name, ours))


def test_generator(folder, seen):
    assert applications(folder)
    for name in applications(folder):
        seen.clear()
        network, tensors = generator(folder, name), load_file(folder / f"forward_{name}.safetensors")
        modules = outputs_of(network)
        with torch.inference_mode():
            found = network(*inputs(tensors), warp_all=True)
        torch.testing.assert_close(found.image, tensors["out.image"], **FEATURES, msg=said(name))
        for level in LEVELS:
            check_features(level, name, tensors, modules)
        masks, scores, warped = iter(seen["masks"]), iter(seen["scores"]), iter(found.warped)
        for level in LEVELS:
            for i in range(network.config.blocks):
                place = f"block.{level}.{i}."
                mask = torch.cat(next(masks)) > 0
                expected = tensors[place + "mask"]
                torch.testing.assert_close(mask.view_as(expected).to(torch.uint8), expected, **EXACT,
                                           msg=said(name, place, "mask"))
                out, attended = modules[f"transformer_{level}.{i}"]
                torch.testing.assert_close(out, tensors[place + "out"], **BLOCKS, msg=said(name, place, "out"))
                torch.testing.assert_close(attended.output, tensors[place + "attn_out"], **BLOCKS,
                                           msg=said(name, place, "attn_out"))
                torch.testing.assert_close(attended.conf, tensors[place + "conf"], **SHARES,
                                           msg=said(name, place, "conf"))
                torch.testing.assert_close(next(warped), tensors[place + "warped"], **SHARES,
                                           msg=said(name, place, "warped"))
                scored = next(scores)
                if place + "cor_map" in tensors:
                    expected = tensors[place + "cor_map"]
                    torch.testing.assert_close(torch.cat(scored).view_as(expected), expected, **FEATURES,
                                               msg=said(name, place, "cor_map"))
                handed = tensors.get(place + "topk_idx")
                if level == LEVELS[0] and i == network.config.blocks - 1:
                    handed = tensors["topk_idx_level4"]
                if handed is not None:
                    torch.testing.assert_close(attended.chosen, handed.long(), **EXACT, msg=said(name, place, "chosen"))


def test_gradients(folder):
    for name in applications(folder):
        network, tensors = generator(folder, name), load_file(folder / f"forward_{name}.safetensors")
        (network(*inputs(tensors)).image * tensors["grad_weight"]).sum().backward()
        parameters, expected = dict(network.named_parameters()), under(tensors, "grad.")
        assert expected
        for parameter, gradient in expected.items():
            check_gradient(parameters[parameter].grad, gradient, f"{name} {parameter}")


def test_published_names_and_shapes(folder):
    shapes = {name: tuple(shape.tolist()) for name, shape in
              load_file(folder / "published_shapes.safetensors").items()}
    config = read_config({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    found = {name: tuple(shape) for name, shape in weights.published_shapes(config).items()}
    assert found == shapes


# Labels


def numbered(tensors, kind):
    numbers = sorted({name.split(".")[1] for name in tensors if name.startswith(f"{kind}.")})
    assert numbers
    return [under(tensors, f"{kind}.{number}.") for number in numbers]


def test_face_labels(folder):
    for case in numbered(load_file(folder / "preprocess.safetensors"), "face"):
        size, picture = case["label"].shape[-1], case["image_u8"].numpy()
        parts = [mask.numpy() > 0 if there else torch.zeros_like(mask).numpy() > 0
                 for mask, there in zip(case["part_masks_u8"], case["part_present"])]
        assert (face.luma(picture, size) == case["gray_u8"].numpy()).all()
        assert (canny.canny(case["gray_u8"].numpy()) == (case["canny"].numpy() > 0)).all()
        assert (face.face_label(picture, parts, size) == case["label"].numpy()).all()
        torch.testing.assert_close(prepared(picture, size), case["image"], rtol=0, atol=1e-6)


def test_pose_labels(folder):
    for case in numbered(load_file(folder / "preprocess.safetensors"), "pose"):
        places = case["subset"].flatten()[:pose.POINTS].int().tolist()
        points = [None if place < 0 else tuple(case["candidate"][place, :2].tolist()) for place in places]
        found = pose.pose_label(points, *case["source_hw"].tolist(), case["label"].shape[-1])
        assert (found == case["label"].numpy()).all()
        if "image_u8" in case:
            image = prepared(case["image_u8"].numpy(), case["label"].shape[-1])
            torch.testing.assert_close(image, case["image"], rtol=0, atol=1e-6)
