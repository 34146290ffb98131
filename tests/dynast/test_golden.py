"""DynaST against the reference's outputs (the set has a README).

Every set of the same layout passes: sizes and settings are read from its files.
"""
import itertools
from collections import defaultdict

import pytest
import torch

from mditface.mdit.shared import keypoints, sparse_attention
from mditface.mdit.shared.candidates import expand_to_children, join_2x2, propagate_candidates, split_2x2
from mditface.mdit.dynast import block, canny, face, pose, weights
from mditface.mdit.dynast.config import LEVELS, read_config
from mditface.mdit.dynast.model import DynaST
from mditface.mdit.dynast.label import prepare_exemplar
from mditface.tests.golden_set import find_all, lack, load, read, read_metadata

UNIT = dict(rtol=1e-4, atol=1e-5)
FEATURES = dict(rtol=1e-3, atol=1e-4)
BLOCKS = dict(rtol=1e-3, atol=1e-3)
SHARES = dict(rtol=1e-3, atol=2e-4)  # conf and warped images
EXACT = dict(rtol=0, atol=0)
GRADIENT = 1e-3  # of a tensor's largest entry
FLIPPED = 1e-3  # share of the decisions that other orders of summation may turn


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "dynast"


def label(*compared):
    """A message that starts with the names of what is compared."""
    return lambda message: f"{' '.join(map(str, compared))}: {message}"


def compare(found, expected, name, tolerance):
    """Compares what the set holds."""
    if expected is not None:
        torch.testing.assert_close(found, expected, **tolerance, msg=label(name))


def count_flipped(found, expected, name) -> int:
    """How many decisions differ; more than a few are an error."""
    if expected is None:
        return 0
    flipped = (found.view_as(expected) != expected).sum().item()
    assert flipped <= FLIPPED * expected.numel(), f"{name}: {flipped} of {expected.numel()} differ"
    return flipped


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
        top_k = tensors["out.topk_idx"].shape[-1] if "out.topk_idx" in tensors else None
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
    tensors = read(folder, "attention_unit.safetensors").under(f"{kind}.")
    if not tensors:
        lack(folder, f"{kind} attention")
    grids = tensors["in.q"].shape[-2:], tensors["in.k"].shape[-2:]
    found, leaves = unit(kind, tensors, grids)
    masks = torch.cat(seen["masks"][0]) > 0
    flipped = count_flipped(masks, tensors.get("out.mask"), "mask")
    if "out.topk_idx" in tensors:
        flipped += count_flipped(found.chosen, tensors["out.topk_idx"].long(), "chosen")
    values = {name: getattr(found, name).mT.unflatten(2, grids[0]) for name in ("output", "conf", "warped")}
    if flipped:
        return
    for name, value in values.items():
        compare(value, tensors.get(f"out.{name}"), name, UNIT)
    gradients = tensors.under("grad.")
    if gradients:
        sum((value * tensors[f"w.{name}"]).sum() for name, value in values.items()).backward()
    for name, expected in gradients.items():
        check_gradient(leaves[name].grad, expected, name)


# The generator


def applications(folder):
    """The names of the generators whose pass is stored, too."""
    names = [path.stem.removeprefix("generator_") for path in find_all(folder, "generator_*.safetensors")]
    return [name for name in names if (folder / f"forward_{name}.safetensors").is_file()] or lack(folder, "forward_*")


def generator(folder, name) -> DynaST:
    path = folder / f"generator_{name}.safetensors"
    settings = read_metadata(path).get("config") or lack(folder, f"settings of {path.name}")
    config, state = weights.read_generator(str(path), settings["top_k"], settings["smooth"])
    fields = {"n_layers": "blocks", "crop_size": "size"}
    found = {key: getattr(config, fields.get(key, key), value) for key, value in settings.items()}
    assert found == settings
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
    for name in applications(folder):
        seen.clear()
        network, tensors = generator(folder, name), load(folder / f"forward_{name}.safetensors")
        modules = outputs_of(network)
        with torch.inference_mode():
            found = network(*inputs(tensors), warp_all=True)
        if count_flipped_of_blocks(name, tensors, modules, seen["masks"]):
            # One decision moves a neighborhood: nearly all of the image is still the same.
            assert ((found.image - tensors["out.image"]).abs() <= 1e-3).double().mean() >= 0.99, name
            continue
        compare(found.image, tensors.get("out.image"), name, FEATURES)
        for level in LEVELS:
            check_features(level, name, tensors, modules)
        scores, warped = iter(seen["scores"]), iter(found.warped)
        for prefix, (out, attended) in list_blocks(modules):
            compare(out, tensors.get(prefix + "out"), (name, prefix, "out"), BLOCKS)
            compare(attended.output, tensors.get(prefix + "attn_out"), (name, prefix, "attn_out"), BLOCKS)
            compare(attended.conf, tensors.get(prefix + "conf"), (name, prefix, "conf"), SHARES)
            compare(next(warped), tensors.get(prefix + "warped"), (name, prefix, "warped"), SHARES)
            scored, expected = next(scores), tensors.get(prefix + "cor_map")
            if expected is not None:
                compare(torch.cat(scored).view_as(expected), expected, (name, prefix, "cor_map"), FEATURES)


def list_blocks(modules):
    """Prefix in the set and outputs of each transformer block, in the order in which they run."""
    for level in LEVELS:
        for i in itertools.count():
            if f"transformer_{level}.{i}" not in modules:
                break
            yield f"block.{level}.{i}.", modules[f"transformer_{level}.{i}"]


def count_flipped_of_blocks(name, tensors, modules, masks) -> int:
    """How many decisions of all blocks differ: what is pruned, and which candidates are handed on."""
    flipped, blocks = 0, list(list_blocks(modules))
    for (prefix, (_, attended)), mask in zip(blocks, masks, strict=True):
        flipped += count_flipped(torch.cat(mask) > 0, tensors.get(prefix + "mask"), (name, prefix, "mask"))
        handed = tensors.get(prefix + "topk_idx")
        if handed is None and prefix == [block for block, _ in blocks if block.startswith(f"block.{LEVELS[0]}.")][-1]:
            handed = tensors.get(f"topk_idx_level{LEVELS[0]}")
        if handed is not None:
            flipped += count_flipped(attended.chosen, handed.long(), (name, prefix, "chosen"))
    return flipped


def test_gradients(folder):
    compared = 0
    for name in applications(folder):
        network, tensors = generator(folder, name), load(folder / f"forward_{name}.safetensors")
        parameters, expected = dict(network.named_parameters()), tensors.under("grad.")
        if expected:
            (network(*inputs(tensors)).image * tensors["grad_weight"]).sum().backward()
        for parameter, gradient in expected.items():
            check_gradient(parameters[parameter].grad, gradient, f"{name} {parameter}")
        compared += len(expected)
    if not compared:
        lack(folder, "gradients")


def test_published_names_and_shapes(folder):
    shapes = {name: tuple(shape.tolist()) for name, shape in
              read(folder, "published_shapes.safetensors").items()}
    config = read_config({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    found = {name: tuple(shape) for name, shape in weights.list_published_shapes(config).items()}
    assert found == shapes


# Labels


def numbered(folder, kind):
    tensors = read(folder, "preprocess.safetensors")
    numbers = sorted({name.split(".")[1] for name in tensors if name.startswith(f"{kind}.")})
    return [tensors.under(f"{kind}.{number}.") for number in numbers] or lack(folder, f"label of a {kind}")


def test_face_labels(folder):
    for case in numbered(folder, "face"):
        size, image = case["label"].shape[-1], case["image_u8"].numpy()
        parts = [mask.numpy() > 0 if there else torch.zeros_like(mask).numpy() > 0
                 for mask, there in zip(case["part_masks_u8"], case["part_present"])]
        assert (face.build_face_label(image, parts, size) == case["label"].numpy()).all()
        luma = face.to_luma(image, size)
        compare(torch.tensor(luma), case.get("gray_u8"), "gray_u8", EXACT)
        if "canny" in case:
            assert (canny.find_edges(luma) == (case["canny"].numpy() > 0)).all()
        compare(prepare_exemplar(image, size), case.get("image"), "image", dict(rtol=0, atol=2e-6))


def test_pose_labels(folder):
    for case in numbered(folder, "pose"):
        indices = case["subset"].flatten()[:keypoints.POINTS].int().tolist()
        points = [None if i < 0 else tuple(case["candidate"][i, :2].tolist()) for i in indices]
        size = case["label"].shape[-1]
        assert (pose.build_pose_label(points, *case["source_hw"].tolist(), size) == case["label"].numpy()).all()
        if "image_u8" in case:
            image = prepare_exemplar(case["image_u8"].numpy(), size)
            compare(image, case.get("image"), "image", dict(rtol=0, atol=2e-6))
