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
from mditface.mdit.shared.candidates import expand_to_children, join_2x2, propagate_candidates, split_2x2
from mditface.mdit.dynast import block, canny, face, keypoints, pose, weights
from mditface.mdit.dynast.config import LEVELS, read_config
from mditface.mdit.dynast.model import DynaST
from mditface.mdit.dynast.label import prepare_exemplar

UNIT = dict(rtol=1e-4, atol=1e-5)
FEATURES = dict(rtol=1e-3, atol=1e-4)
BLOCKS = dict(rtol=1e-3, atol=1e-3)
SHARES = dict(rtol=1e-3, atol=2e-4)  # conf and warped images
EXACT = dict(rtol=0, atol=0)
GRADIENT = 1e-3  # of a tensor's largest entry


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "dynast"


def label(*compared):
    """A message that starts with the names of what is compared."""
    return lambda message: f"{' '.join(map(str, compared))}: {message}"


def under(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def check_gradient(found, expected, name):
    torch.testing.assert_close(found, expected, rtol=0, atol=GRADIENT * expected.abs().max().item(), msg=label(name))


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
        return sparse_attention.attend_sparsely(*args)
    monkeypatch.setattr(sparse_attention, "threshold", recording("masks", sparse_attention.threshold))
    monkeypatch.setattr(sparse_attention, "select_best", recording("scores", sparse_attention.select_best))
    monkeypatch.setattr(block, "attend_sparsely", attend)
    return found


# The attention alone


def unit(kind, tensors, grids):
    """What `attend_sparsely` finds, as the set lays it out, and its inputs as leaves."""
    leaves = {name: tensors[f"in.{name}"].clone().requires_grad_() for name in (
        "q", "k", "q_prune", "k_prune", "v", "v2")}
    q, k, q_prune, k_prune, v, v2 = (block.to_rows(leaf) for leaf in leaves.values())
    candidates, top_k = None, None
    if kind == "dense":
        q_prune = q_prune / q_prune.shape[-1]
    else:
        handed = tensors["in.prev_idx"].long()
        top_k = handed.shape[-1]
        if kind == "inter":
            candidates = expand_to_children(handed, grids[1][1] // 2)
        else:
            candidates = propagate_candidates(handed, grids[0], grids[1])
    if kind == "inter":
        q, q_prune = (split_2x2(x, grids[0]).flatten(1, 2) for x in (q, q_prune))
    query = sparse_attention.Projections(q, q_prune)
    key = sparse_attention.Projections(k, k_prune)
    options = sparse_attention.SparseOptions(tensors["in.smooth"].item(), top_k)
    found = block.attend_sparsely(query, key, v, candidates, options, v2)
    if kind == "inter":
        found = sparse_attention.SparseOutput(*(join_2x2(x.unflatten(1, (-1, 4)), grids[0]) for x in found))
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
        torch.testing.assert_close(values, tensors[f"out.{name}"], **UNIT, msg=label(name))
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
        settings = json.loads(file.metadata()["config"])
    config, state = weights.read_generator(str(path), settings["top_k"], settings["smooth"])
    assert (config.nc, config.ngf, config.max_multi, config.pos_dim, config.prune_dim, config.blocks, config.size) == (
        *(settings[key] for key in ("nc", "ngf", "max_multi", "pos_dim", "prune_dim", "n_layers", "crop_size")),)
    network = DynaST(config)
    network.load_state_dict(state)
    return network.eval()


def inputs(tensors):
    return tensors["in.seg_u8"] / 255, tensors["in.ref_image"], tensors["in.ref_seg_u8"] / 255


def outputs_of(network):
    """The first output of each module by name, while the network runs: embed_q1 runs twice."""
    found = {}

    def keep(name, out):
        found.setdefault(name, out)  # and returns None, because the result of a hook replaces the output
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
            torch.testing.assert_close(outputs[theirs], tensors[ours], **FEATURES, msg=label(name, ours))


def test_generator(folder, seen):
    assert applications(folder)
    for name in applications(folder):
        seen.clear()
        network, tensors = generator(folder, name), load_file(folder / f"forward_{name}.safetensors")
        modules = outputs_of(network)
        with torch.inference_mode():
            found = network(*inputs(tensors), warp_all=True)
        torch.testing.assert_close(found.image, tensors["out.image"], **FEATURES, msg=label(name))
        for level in LEVELS:
            check_features(level, name, tensors, modules)
        masks, scores, warped = iter(seen["masks"]), iter(seen["scores"]), iter(found.warped)
        for level in LEVELS:
            for i in range(network.config.blocks):
                prefix = f"block.{level}.{i}."
                mask = torch.cat(next(masks)) > 0
                expected = tensors[prefix + "mask"]
                torch.testing.assert_close(mask.view_as(expected).to(torch.uint8), expected, **EXACT,
                                           msg=label(name, prefix, "mask"))
                out, attended = modules[f"transformer_{level}.{i}"]
                torch.testing.assert_close(out, tensors[prefix + "out"], **BLOCKS, msg=label(name, prefix, "out"))
                torch.testing.assert_close(attended.output, tensors[prefix + "attn_out"], **BLOCKS,
                                           msg=label(name, prefix, "attn_out"))
                torch.testing.assert_close(attended.conf, tensors[prefix + "conf"], **SHARES,
                                           msg=label(name, prefix, "conf"))
                torch.testing.assert_close(next(warped), tensors[prefix + "warped"], **SHARES,
                                           msg=label(name, prefix, "warped"))
                scored = next(scores)
                if prefix + "cor_map" in tensors:
                    expected = tensors[prefix + "cor_map"]
                    torch.testing.assert_close(torch.cat(scored).view_as(expected), expected, **FEATURES,
                                               msg=label(name, prefix, "cor_map"))
                handed = tensors.get(prefix + "topk_idx")
                if level == LEVELS[0] and i == network.config.blocks - 1:
                    handed = tensors["topk_idx_level4"]
                if handed is not None:
                    torch.testing.assert_close(attended.chosen, handed.long(), **EXACT,
                                               msg=label(name, prefix, "chosen"))


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
    found = {name: tuple(shape) for name, shape in weights.list_published_shapes(config).items()}
    assert found == shapes


# Labels


def numbered(tensors, kind):
    numbers = sorted({name.split(".")[1] for name in tensors if name.startswith(f"{kind}.")})
    assert numbers
    return [under(tensors, f"{kind}.{number}.") for number in numbers]


def test_face_labels(folder):
    for case in numbered(load_file(folder / "preprocess.safetensors"), "face"):
        size, image = case["label"].shape[-1], case["image_u8"].numpy()
        parts = [mask.numpy() > 0 if there else torch.zeros_like(mask).numpy() > 0
                 for mask, there in zip(case["part_masks_u8"], case["part_present"])]
        assert (face.to_luma(image, size) == case["gray_u8"].numpy()).all()
        assert (canny.find_edges(case["gray_u8"].numpy()) == (case["canny"].numpy() > 0)).all()
        assert (face.build_face_label(image, parts, size) == case["label"].numpy()).all()
        torch.testing.assert_close(prepare_exemplar(image, size), case["image"], rtol=0, atol=1e-6)


def test_pose_labels(folder):
    for case in numbered(load_file(folder / "preprocess.safetensors"), "pose"):
        indices = case["subset"].flatten()[:keypoints.POINTS].int().tolist()
        points = [None if i < 0 else tuple(case["candidate"][i, :2].tolist()) for i in indices]
        found = pose.build_pose_label(points, *case["source_hw"].tolist(), case["label"].shape[-1])
        assert (found == case["label"].numpy()).all()
        if "image_u8" in case:
            image = prepare_exemplar(case["image_u8"].numpy(), case["label"].shape[-1])
            torch.testing.assert_close(image, case["image"], rtol=0, atol=1e-6)
