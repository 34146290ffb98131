"""EasyControl's condition adapter on FLUX against the authors' outputs (docs/design/adapters.md, section 5.5;
the set has a README).

Every set of the same layout passes: sizes, steps and options are read from its files alone.
"""
import itertools
import json
import re
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

import comfy.model_management
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrappersMP
from mditface.mdit.labelmap import CLASSES
from mditface.mdit.mditface.adapter.families import flux
from mditface.mdit.mditface.adapter.reader import apply_adapter, make_mask_key
from mditface.mdit.mditface.adapter.weights import load_adapter
from mditface.mdit.mditface.mask import BoundMask, MaskInput, MaskReference, MaskSource
from mditface.mdit.mditface.pictures import PictureInput
from mditface.mdit.mditface.prompt import Prompt
from mditface.tests.adapter.flux_set import (
    STATE, TOLERANCE, Latents, Recorded, call, close, equal_sinusoids, load_base, names, sample)
from mditface.tests.golden_set import find, lack, load_all

IDS = dict(rtol=0, atol=1e-6)
SETUP = ("cond_latent", "pooled", "guidance", "strength")  # what the keys depend on, besides the picture's size


@pytest.fixture
def kernel():
    """The attention function that the host chooses itself."""


@pytest.fixture(scope="module", autouse=True)
def frequencies():
    with equal_sinusoids():
        yield


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "easycontrol"


@pytest.fixture(scope="module")
def cases(folder):
    return load_all(folder, "case_*.safetensors")


@pytest.fixture(scope="module")
def trajectories(folder):
    return load_all(folder, "traj_*.safetensors")


@pytest.fixture(scope="module")
def base(folder):
    return load_base(folder)


@pytest.fixture(scope="module")
def adapter(folder, base):
    adapter = load_adapter(str(find(folder, "condition_lora.safetensors")))
    comfy.model_management.load_models_gpu([base, adapter.patcher])
    return adapter


def flat_map(count, vae) -> MaskInput:
    return MaskInput(torch.zeros(count, 8, 8, dtype=torch.uint8), torch.ones(len(CLASSES)), vae=vae)


def make_picture(count, vae) -> PictureInput:
    return PictureInput(torch.rand(count, 8, 8, 3), vae=vae)


class Setup(NamedTuple):
    """A model with the adapter and a mask of a case or a trajectory, for latents of a shape."""
    model: object
    reader: object
    mask: MaskSource
    bound: BoundMask


def set_up(base, adapter, case, shape, make_mask=flat_map) -> Setup:
    latent, pixels = case["cond_latent"], base.model.latent_format.spacial_downscale_ratio
    own_size = latent.shape[-2:] == shape[-2:]
    model = apply_adapter(base, adapter, case["strength"].item(), 0 if own_size else latent.shape[-1] * pixels)
    reader = model.wrappers[WrappersMP.APPLY_MODEL][make_mask_key(adapter)][0].__self__
    mask = make_mask(latent.shape[0], Latents(base.model.process_latent_out(latent)))
    layout, reference = reader.get_layout(base.model), MaskReference(mask)
    if own_size or latent.shape[-2] == latent.shape[-1]:
        return Setup(model, reader, mask, BoundMask(reference, shape, base.model, layout))
    return Setup(model, reader, mask, Rectangle(reference, shape, base.model, layout, latent))


class Rectangle(BoundMask):
    """A condition that no label map gives: neither square nor of the picture's size."""

    def __init__(self, reference, shape, model, layout, latent):
        super().__init__(reference, shape, model, layout._replace(tokenizer="class_embed"))
        self.layout, self.latent = layout, latent
        self.labels = torch.zeros(latent.shape[0], *(side * self.pixels for side in latent.shape[-2:]))


def ids(rows, cols):
    places = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), dim=-1).flatten(0, 1)
    return torch.cat((torch.zeros(places.shape[0], 1), places), dim=1)


@pytest.mark.parametrize("make_mask", [flat_map, make_picture])
def test_one_call_with_and_without_the_cache(base, adapter, cases, make_mask):
    for name, case in cases.items():
        setup = set_up(base, adapter, case, case["latent"].shape, make_mask)
        for mode, passes in (("off", 1), ("auto", 1), ("auto", 0)):
            out, report = call(base, case, setup, mode)
            assert report.passes == passes
            for expected in ("out", "out_cached"):
                close(out, case.get(expected), f"{name}, {expected}, cache {mode}", **TOLERANCE)


def test_without_a_mask_the_model_is_the_bare_one(base, adapter, cases):
    for name, case in cases.items():
        bare, _ = call(base, case)
        close(bare, case.get("out_base"), name, **TOLERANCE)
        setup = set_up(base, adapter, case, case["latent"].shape)._replace(bound=None)
        out, report = call(base, case, setup)
        assert torch.equal(out, bare), name
        assert report.passes == 0


def test_stored_keys_and_values(folder, base, adapter, cases):
    compared = 0
    for name, case in cases.items():
        setup = set_up(base, adapter, case, case["latent"].shape)
        call(base, case, setup)
        (entry,) = setup.mask.store.list_entries()
        for i, block in enumerate(names(base)):
            for part, stored in zip("kv", entry[i]):
                compared += close(stored, case.get(f"{block}.{part}"), f"{name}, {block}.{part}", **TOLERANCE)
    if not compared:
        lack(folder, "keys and values")


class Raw(flux.FluxStream):
    """Remembers the keys as they are before norm and rotation."""

    def split_heads(self, norm, qkv, pe):
        self.k = qkv.unflatten(-1, (3, self.heads, -1))[:, :, 1].transpose(1, 2)  # (b, H, M, D)
        return super().split_heads(norm, qkv, pe)


def test_the_mask_stream_block_by_block(folder, base, adapter, cases):
    compared = 0
    for name, case in cases.items():
        bound = set_up(base, adapter, case, case["latent"].shape).bound
        stream = Raw(base.model.diffusion_model, adapter.config, adapter.terms, case["strength"].item())
        tokens, _ = bound.get_tokens(None)
        msk, pe = stream.start(tokens, tokens.tokens, {})
        vec = stream.make_vector(torch.zeros(1), Prompt(y=case["pooled"], guidance=case["guidance"]), torch.float32)
        for i, block in enumerate(names(base)):
            inputs = stream.make_inputs(i, msk, vec, pe)
            msk = inputs.finish(optimized_attention(*inputs[:3], stream.heads, skip_reshape=True))
            for part, value, tolerance in (("k_raw", stream.k, TOLERANCE), ("state", msk, STATE)):
                compared += close(value, case.get(f"{block}.{part}"), f"{name}, {block}.{part}", **tolerance)
    if not compared:
        lack(folder, "states of the condition")


def test_places_of_the_tokens(base, adapter, cases, trajectories):
    for name, case in (cases | trajectories).items():
        latent = case["latent"] if "latent" in case else case["noise"]
        tokens, _ = set_up(base, adapter, case, latent.shape).bound.get_tokens(None)
        close(ids(tokens.rows, tokens.cols), case.get("cond_ids"), name, **IDS)
        close(ids(*map(torch.arange, tokens.extent)), case.get("image_ids"), name, **IDS)


def test_one_entry_serves_calls_that_differ_in_the_picture_alone(base, adapter, cases):
    for one, other in itertools.combinations(cases, 2):
        first, second = cases[one], cases[other]
        if first["latent"].shape != second["latent"].shape or not all(
                torch.equal(first[name], second[name]) for name in SETUP):
            continue
        setup = set_up(base, adapter, first, first["latent"].shape)
        call(base, first, setup)
        out, report = call(base, second, setup)
        assert (report.passes, report.hits) == (0, 1)
        close(out, second.get("out"), f"{other} after {one}", **TOLERANCE)


def test_trajectories_through_the_hosts_sampler(base, adapter, trajectories):
    for name, expected in trajectories.items():
        setup, steps = set_up(base, adapter, expected, expected["noise"].shape), len(expected["sigmas"]) - 1
        for mode, passes in (("auto", 1), ("auto", 0), ("off", steps)):
            with Recorded(base) as velocities:
                states, out, report = sample(setup.model, expected, MaskReference(setup.mask), mode)
            assert report.passes == passes
            close(torch.cat(velocities), expected.get("velocities"), f"{name}, velocities, cache {mode}", **TOLERANCE)
            latents = torch.cat((*states[1:], out))
            close(latents, expected.get("latents"), f"{name}, latents, cache {mode}", **TOLERANCE)
        close(out, expected.get("final_uncached"), f"{name}, uncached", **TOLERANCE)


def test_trajectories_without_a_mask(base, adapter, trajectories):
    for name, expected in trajectories.items():
        _, bare, _ = sample(base, expected)
        close(bare, expected.get("final_base"), name, **TOLERANCE)
        applied = set_up(base, adapter, expected, expected["noise"].shape).model
        assert torch.equal(sample(applied, expected)[1], bare), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_published_keys_are_read(folder, tmp_path, dtype):
    shapes = json.loads(find(folder, "published_keys.json").read_text())
    weights = {key: torch.zeros([1 if side == "rank" else side for side in shape], dtype=dtype)
               for key, shape in shapes.items()}
    save_file(weights, tmp_path / "published.safetensors")
    adapter = load_adapter(str(tmp_path / "published.safetensors"))
    (width,) = {side for shape in shapes.values() for side in shape if side != "rank"}
    depth = tuple(len({key.split(".")[1] for key in shapes if re.match(prefix, key)})
                  for prefix in ("transformer_blocks", "single_transformer_blocks"))
    assert (adapter.config.family, adapter.config.width, adapter.config.depth) == ("flux", width, depth)
    assert adapter.config.rank == 1
    assert {weight.dtype for weight in adapter.terms.parameters()} == {dtype}
    assert 2 * len(adapter.terms) == len(weights)
