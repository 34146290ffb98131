"""Face-MoGLE against the authors' outputs (docs/design/face-mogle.md; the set has a README).

Every set of the same layout passes: sizes, steps and options are read from its files alone.
"""
import json
import re
from functools import partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import comfy.model_management
from comfy.patcher_extension import WrappersMP
from mditface.mdit.face_mogle.gate import make_time_features, mix_experts
from mditface.mdit.face_mogle.mixer import STEPS, ExpertMixer, load_gate
from mditface.mdit.labelmap import CLASSES, PALETTE
from mditface.mdit.mditface.adapter.condition import Condition
from mditface.mdit.mditface.adapter.reader import apply_adapter, make_mask_key
from mditface.mdit.mditface.adapter.weights import load_condition_adapter
from mditface.mdit.mditface.mask import EncodedPictures, MaskInput, MaskReference
from mditface.mdit.mditface.math import patchify
from mditface.tests.adapter.flux_set import STATE, TOLERANCE, call, close, equal_sinusoids, load_base, names, sample
from mditface.tests.golden_set import find, lack, load_all, read

LORA = "pytorch_lora_weights.safetensors"
GATE = "global_local_mask_moe.pt"
MIX = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module", autouse=True)
def frequencies():
    with equal_sinusoids():
        yield


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "face-mogle"


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
def gate(folder):
    return load_gate(str(find(folder, GATE)))


@pytest.fixture(scope="module")
def adapter(folder, base, gate):
    adapter = load_condition_adapter(str(find(folder, LORA)), "lora_name")
    comfy.model_management.load_models_gpu([base, adapter.patcher, gate.patcher])
    return adapter


class Convolution:
    """The set's stand-in for the VAE, in the host's layout."""

    def __init__(self, encoding):
        self.weight, self.bias = encoding["vae_weight"], encoding["vae_bias"]
        self.calls = 0

    def encode(self, pictures):
        self.calls += len(pictures)
        return F.conv2d(pictures.movedim(-1, 1) * 2 - 1, self.weight, self.bias, stride=8)


class Setup(NamedTuple):
    """A model with the adapter and its mixer, and a mask of a case for latents of its size."""
    model: object
    reader: object
    mixer: ExpertMixer
    bound: object


def set_up(base, adapter, gate, case) -> Setup:
    """The latents of the case's pictures stand where the VAE would leave them."""
    mixer = Recorder(gate, scale=(case["gate_time"] / case["timestep"][:len(case["gate_time"])])[0].item())
    model = apply_adapter(base, adapter.with_mixer(mixer))
    reader = model.wrappers[WrappersMP.APPLY_MODEL][make_mask_key(adapter.with_mixer(mixer))][0].__self__
    latents = base.model.process_latent_out(case["mask_latents"])  # (b, 20, C, h, w)
    pixels = base.model.latent_format.spacial_downscale_ratio
    height, width = (side * pixels for side in latents.shape[-2:])
    mask = MaskInput(torch.zeros(len(latents), height, width, dtype=torch.uint8), torch.ones(len(CLASSES)))
    mask.pictures[height, width, mixer.drawing] = EncodedPictures(latents.flatten(0, 1),
                                                                  list(range(latents[:, :, 0, 0, 0].numel())))
    reference = MaskReference(mask, case["condition_scale"].item())
    bound = reader.bind_mask(reference, case["latent"].shape, base.model, reader.get_layout(base.model), None)
    return Setup(model, reader, mixer, bound)


class Recorder(ExpertMixer):
    """Remembers what it weighed and mixed."""

    def mix(self, model, kept, noisy, sigma):
        with_weights = self.gate.copies.find(model.current_patcher)
        self.kept = kept
        self.weights = with_weights.weigh(kept[0], noisy.float(), self.scale * sigma)
        self.tokens = super().mix(model, kept, noisy, sigma)
        return self.tokens


def settings(gate_set):
    """The prefixes of the set's gate cases."""
    return sorted({name.split(".")[0] for name in gate_set})


def test_gate_and_experts(folder, gate):
    gate_set, network = read(folder, "gate.safetensors"), gate.patcher.model
    for name in settings(gate_set):
        part = gate_set.under(f"{name}.")
        tokens, noisy, time = part["mask_tokens"], part["noise_tokens"], part["time"]
        rows = time.repeat_interleave(len(noisy) // len(time))
        spread = tokens.repeat_interleave(len(noisy) // len(tokens), dim=0)
        experts = network.run_experts(tokens)
        weights = network.weigh(spread[:, 0], noisy, rows)
        close(make_time_features(time), part.get("time_features"), f"{name}, features of the time", **MIX)
        close(network.gating.timestep_embedding(time), part.get("time_embedding"), f"{name}, time", **MIX)
        close(experts, part.get("experts"), f"{name}, experts", **MIX)
        close(weights, part.get("weights"), f"{name}, weights", **MIX)
        outputs = experts.repeat_interleave(len(noisy) // len(experts), dim=0)
        close(mix_experts(weights, outputs), part.get("out"), f"{name}, mix", **MIX)


def test_from_a_label_map_to_tokens(folder, base, gate):
    encoding = read(folder, "encoding.safetensors")
    labels, vae = encoding["label_map"][None], Convolution(encoding)
    assert torch.equal(torch.tensor(PALETTE), encoding["palette"].long())
    mixer, mask = ExpertMixer(gate), MaskInput(labels, torch.ones(len(CLASSES)), vae=vae)
    pictures = torch.stack(list(mixer.draw(labels, mask.visible)))
    assert torch.equal((pictures * 255).round().to(torch.uint8).movedim(-1, 1), encoding["pictures"])
    encoded = mask.encode_pictures(*labels.shape[1:], mixer.drawing, mixer.draw)
    assert vae.calls == len(encoding["pictures"].unique(dim=0))
    latents = encoded.latents[encoded.numbers]
    close(latents, encoding.get("vae_latents"), "latents of the VAE", rtol=0, atol=1e-5)
    latents = base.model.process_latent_in(latents)
    close(latents, encoding.get("latents"), "latents", rtol=0, atol=1e-5)
    close(patchify(latents, 2), encoding.get("tokens"), "tokens", rtol=0, atol=1e-5)


def test_calls_with_and_without_the_cache(base, adapter, gate, cases):
    for name, case in cases.items():
        setup = set_up(base, adapter, gate, case)
        for mode, passes in (("off", 1), ("auto", 1), ("auto", 0), ("8-bit", 1)):
            out, report = call(base, case, setup, mode)
            assert report.passes == passes
            close(out, case.get("out"), f"{name}, cache {mode}", **TOLERANCE)
            close(setup.mixer.weights, case.get("gate"), f"{name}, gate", **MIX)
            close(setup.mixer.tokens, case.get("cond_tokens"), f"{name}, mix", **MIX)


def test_states_of_condition_and_image_after_each_block(folder, base, adapter, gate, cases, monkeypatch):
    states, leave = [], Condition.leave

    def record(condition, *args):
        leave(condition, *args)
        states.append(condition.tokens)
    monkeypatch.setattr(Condition, "leave", record)
    compared = 0
    for name, case in cases.items():
        states.clear()
        setup = set_up(base, adapter, gate, case)
        images = record_images(base, partial(call, base, case, setup), case["context"].shape[1])
        compared += close(setup.mixer.kept[1], case.get("experts"), f"{name}, experts", **MIX)
        for block, state, image in zip(names(base), states, images):
            last = block == names(base)[-1]  # the condition's state after it is not needed
            compared += not last and close(state, case.get(f"{block}.cond"), f"{name}, {block}.cond", **STATE)
            compared += close(image, case.get(f"{block}.img"), f"{name}, {block}.img", **STATE)
    if not compared:
        lack(folder, "states of the condition")


def record_images(base, function, text) -> list:
    """The image tokens after each block, while a function runs."""
    network, images = base.model.diffusion_model, []
    hooks = [block.register_forward_hook(lambda module, args, out: images.append(out[0].clone()))
             for block in network.double_blocks]
    hooks += [block.register_forward_hook(lambda module, args, out: images.append(out[:, text:].clone()))
              for block in network.single_blocks]
    function()
    for hook in hooks:
        hook.remove()
    return images


def test_the_embedded_condition(folder, base, adapter, gate, cases):
    compared = 0
    for name, case in cases.items():
        setup = set_up(base, adapter, gate, case)
        call(base, case, setup)
        tokens, _ = setup.bound.get_tokens(None)
        msk, _ = setup.reader.make_stream(base.model).start(tokens, setup.mixer.tokens, {})
        compared += close(msk, case.get("embedded"), f"{name}, embedded", **STATE)
        positions = F.pad(tokens.list_positions(), (1, 0))
        close(positions, case.get("cond_ids"), f"{name}, ids", rtol=0, atol=0)
    if not compared:
        lack(folder, "embedded condition")


def test_without_a_mask_the_model_is_the_bare_one(base, adapter, gate, cases):
    for name, case in cases.items():
        bare, _ = call(base, case)
        close(bare, case.get("out_base"), name, **TOLERANCE)
        setup = set_up(base, adapter, gate, case)
        out, report = call(base, case, setup._replace(bound=None))
        assert torch.equal(out, bare), name
        assert report.passes == 0
        setup.bound.reference.strength = 0.0
        assert torch.equal(call(base, case, setup)[0], bare), name


def test_trajectories_from_label_maps_through_the_hosts_sampler(folder, base, adapter, gate, trajectories):
    vae = Convolution(read(folder, "encoding.safetensors"))
    for name, expected in trajectories.items():
        model = apply_adapter(base, adapter.with_mixer(ExpertMixer(gate)))
        steps = len(expected["sigmas"]) - 1
        labels = expected["label_map"].view(-1, *expected["label_map"].shape[-2:])
        mask = MaskInput(labels, torch.ones(len(CLASSES)), vae=vae)
        reference = MaskReference(mask, expected["condition_scale"].item())
        close(STEPS * expected["sigmas"][:-1], expected.get("gate_times"), f"{name}, times of the gate", **MIX)
        for mode, passes in (("auto", 1), ("auto", 0), ("off", steps)):
            states, out, report = sample(model, expected, reference, mode)
            assert report.passes == passes
            latents = torch.stack((*states[1:], out))
            close(latents, expected.get("latents"), f"{name}, latents, cache {mode}", **TOLERANCE)
            close(out, expected.get("final"), f"{name}, final, cache {mode}", **TOLERANCE)
        assert torch.equal(sample(model, expected)[1], sample(base, expected)[1])
        close(sample(base, expected)[1], expected.get("final_base"), name, **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_published_keys_are_read(folder, tmp_path, dtype):
    shapes = json.loads(find(folder, "published_keys.json").read_text())
    lora, gate = shapes[LORA], shapes[GATE]
    narrow = {key: [1 if "lora_A" in key else shape[0], shape[1] if "lora_A" in key else 1]
              for key, shape in lora.items()}  # rank 1: the real one would fill a gigabyte in a test
    save_file({key: torch.zeros(shape, dtype=dtype) for key, shape in narrow.items()}, tmp_path / LORA)
    torch.save({key: torch.zeros(shape, dtype=dtype) for key, shape in gate.items()}, tmp_path / GATE)
    adapter = load_condition_adapter(str(tmp_path / LORA), "lora_name")
    depth = tuple(len({key.split(".")[2] for key in lora if re.match(prefix, key)})
                  for prefix in (r"transformer\.transformer_blocks", r"transformer\.single_transformer_blocks"))
    (width,) = {shape[1] for key, shape in lora.items() if key.endswith("attn.to_q.lora_A.weight")}
    assert (adapter.config.width, adapter.config.depth, adapter.config.rank) == (width, depth, 1)
    assert 2 * len(adapter.terms) == len(lora)
    weights = [*adapter.terms.parameters(), *load_gate(str(tmp_path / GATE)).patcher.model.parameters()]
    assert {weight.dtype for weight in weights} == {dtype}
