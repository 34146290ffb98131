"""MMFace-DiT against the authors' outputs (the set has a README).

Every set of the same layout passes: sizes and cases are read from its files alone.
"""
import json
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import comfy.ops
import comfy.sample
import comfy.samplers
from mditface.mdit.labelmap import PALETTE
from mditface.mdit.mmface import host, model, text
from mditface.mdit.mmface.condition import (
    MASK, OWN_KEY, SKETCH, ConditionPicture, ConditionReference, draw_mask, draw_sketch, stretch)
from mditface.mdit.mmface.layers import compute_waves
from mditface.mdit.shared.norm import layer_norm, modulate
from mditface.tests.golden_set import find, find_all, lack, load, read

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")

COMPONENT = dict(rtol=1e-5, atol=3e-5)
CLOSE = dict(rtol=1e-4, atol=1e-4)
EXACT = dict(rtol=0, atol=0)
WALK = 2e-4  # of the mean square
SAMPLERS = {"flow": "euler", "diffusion": "dpmpp_2m"}


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "mmface-dit"


def build_weights(folder, name: str) -> tuple[dict, dict]:
    """The configuration and the weights that a layout describes."""
    layout = json.loads(find(folder, name).read_text())
    pool = read(folder, "pool.safetensors")["pool"]
    weights = {}
    for tensor in layout["tensors"]:
        places = (torch.arange(math.prod(tensor["shape"])) + tensor["first"]) % pool.numel()
        weights[tensor["key"]] = (pool[places] * tensor["scale"] + tensor["shift"]).reshape(tensor["shape"])
    return layout["config"], weights


@pytest.fixture(scope="module")
def models(folder, tmp_path_factory):
    """One weight set as a MODEL of each objective."""
    path = tmp_path_factory.mktemp("mmface") / "dit_model_weights_ema.safetensors"
    save_file(build_weights(folder, "model_layout.json")[1], path)
    return {objective: host.load_mmface(str(path), torch.float32, objective, "exact") for objective in SAMPLERS}


@pytest.fixture(scope="module")
def network(models):
    return models["diffusion"].model.diffusion_model


@pytest.fixture(scope="module")
def cases(folder):
    return {file.stem: load(file) for file in find_all(folder, "case_*.safetensors")}


def check_parts(found, tensors, tolerance):
    """Compares what a file holds of intermediate results."""
    for name in found.keys() & tensors.keys():
        torch.testing.assert_close(found[name], tensors[name], **tolerance, msg=label(name))


def label(compared):
    """A message that starts with the name of what is compared."""
    return lambda message: f"{compared}: {message}"


def objective_of(tensors, times="timestep") -> str:
    """Times of flow end at 1, those of diffusion at 999, and its noise levels above 10."""
    return "flow" if tensors[times].max() <= 1 else "diffusion"


def compute_time(tensors, rounded=False):
    if objective_of(tensors) == "diffusion":
        return tensors["timestep"]
    return model.compute_flow_time(tensors["timestep"], "as trained" if rounded else "exact")


def predict(network, tensors, context, pooled, condition=None, time=None, options={}):
    condition = tensors["condition"] if condition is None else condition
    x = torch.cat((tensors["latent"], condition), dim=1)
    time = compute_time(tensors) if time is None else time
    return network.predict(x, time, context, pooled, tensors["modality"].long(), options)


def test_outputs(cases, network):
    for case, tensors in cases.items():
        if "context" in tensors and "guidance" not in tensors:
            time = compute_time(tensors, rounded="time" in tensors)
            if "time" in tensors:
                torch.testing.assert_close(time, tensors["time"], **EXACT, msg=label(case))
            found = predict(network, tensors, tensors["context"], tensors["pooled"], time=time)
            torch.testing.assert_close(found, tensors["out"], **CLOSE, msg=label(case))


def test_one_zero_token_stands_for_no_sequence(cases, network, monkeypatch):
    """What the authors' class does. Sampling refuses it."""
    without = {case: tensors for case, tensors in cases.items() if "context" not in tensors}
    monkeypatch.setitem(network._modules, "clip_seq_proj", torch.nn.Identity())
    for case, tensors in without.items():
        zero = torch.zeros(len(tensors["latent"]), 1, network.config.width)
        found = predict(network, tensors, zero, tensors["pooled"])
        torch.testing.assert_close(found, tensors["out"], **CLOSE, msg=label(case))


def test_block_states(folder, cases, network):
    checked = 0
    for case, tensors in cases.items():
        if "0.image" not in tensors:
            continue
        seen = []
        options = {"patches": {"double_block": [lambda args: seen.append((args["img"], args["txt"])) or args]}}
        predict(network, tensors, tensors["context"], tensors["pooled"], options=options)
        for i, (img, txt) in enumerate(seen):
            torch.testing.assert_close(img, tensors[f"{i}.image"], **CLOSE, msg=label(f"{case} {i}.image"))
            torch.testing.assert_close(txt, tensors[f"{i}.text"], **CLOSE, msg=label(f"{case} {i}.text"))
            checked += 1
    if not checked:
        lack(folder, "states of blocks")


def test_guidance(folder, cases, network):
    """The authors' formula, and that of two scales."""
    with_guidance = {case: tensors for case, tensors in cases.items() if "guidance" in tensors}
    if not with_guidance:
        lack(folder, "case of guidance")
    for case, tensors in with_guidance.items():
        negative = tensors["negative_context"], tensors["negative_pooled"]
        both = predict(network, tensors, tensors["context"], tensors["pooled"])
        mask_only = predict(network, tensors, *negative)
        nothing = predict(network, tensors, *negative, condition=torch.zeros_like(tensors["condition"]))
        check_parts({"both": both, "mask_only": mask_only, "nothing": nothing}, tensors, CLOSE)
        guided = tensors["guidance"] * (both - mask_only)
        torch.testing.assert_close(mask_only + guided, tensors["out"], rtol=1e-4, atol=3e-4, msg=label(case))
        if "mask_guidance" in tensors:
            two = nothing + tensors["mask_guidance"] * (mask_only - nothing) + guided
            check_parts({"out_two_scales": two}, tensors, dict(rtol=1e-4, atol=3e-4))


def test_what_the_host_calls(cases, models):
    """The base model's denoised image, from the host's noise level, with the network's sign and time."""
    for case, tensors in cases.items():
        if "context" not in tensors or "guidance" in tensors or "time" in tensors:
            continue
        objective = objective_of(tensors)
        base = models[objective].model
        t = tensors["timestep"]
        sigma = 1 - t if objective == "flow" else base.model_sampling.sigma(t)
        level = sigma.view(-1, 1, 1, 1)
        x = tensors["latent"] if objective == "flow" else tensors["latent"] * (level ** 2 + 1) ** 0.5
        out = -tensors["out"] if objective == "flow" else tensors["out"]
        found = base.apply_model(x, sigma, tensors["condition"], tensors["context"], y=tensors["pooled"],
                                 modality=tensors["modality"].long())
        scale = max(1.0, level.max().item())
        torch.testing.assert_close(found / scale, (x - level * out) / scale, **CLOSE, msg=label(case))


def test_embeddings(folder, network):
    tensors = read(folder, "components.safetensors")
    found = {
        "patch.out": network.x_embedder(tensors["patch.in"]),
        "time.diffusion.features": compute_waves(tensors["time.diffusion.t"], model.TIME_FEATURES),
        "time.diffusion.out": network.t_embedder(tensors["time.diffusion.t"], torch.float32),
        "time.flow.t": model.compute_flow_time(tensors["time.flow.tau"], "exact"),
        "time.flow.out": network.t_embedder(tensors["time.flow.t"], torch.float32),
        "pooled.out": network.c_embedder(tensors["pooled.in"]),
        "pooled.null_out": network.c_embedder(network.c_embedder.null_feature_pooled.expand_as(tensors["pooled.in"])),
        "sequence.out": network.clip_seq_proj(tensors["sequence.in"]),
        "modality.out": network.modality_embedder.weight,
    }
    check_parts(found, tensors, COMPONENT)


def test_positions(folder):
    tensors = read(folder, "components.safetensors")
    ids = tensors["positions.ids"]
    h, w = (ids.amax(0) + 1).tolist()
    found = model.compute_rotations(h, w, len(ids) - h * w)[0, 0]
    torch.testing.assert_close(found, tensors["positions.rotations"], rtol=0, atol=1e-6)


def test_a_block_and_the_final_layer(folder, network):
    tensors = {name.removeprefix("block."): value
               for name, value in read(folder, "components.safetensors").items()}
    block = network.blocks[0]
    img, txt, vec = (tensors[name] for name in ("image_in", "text_in", "vector"))
    side = math.isqrt(img.shape[1])
    pe = model.compute_rotations(side, img.shape[1] // side, txt.shape[1])
    modulation = block.adaLN_modulation(vec)
    m = modulation.unsqueeze(1).chunk(12, dim=2)
    u, v = modulate(layer_norm(img), m[0], m[1]), modulate(layer_norm(txt), m[6], m[7])
    found = {"modulation": modulation, "attention_image_in": u, "attention_text_in": v}
    found["attention_image_out"], found["attention_text_out"] = block.attn(u, v, pe)
    found["image_out"], found["text_out"] = block(img, txt, vec, pe)
    found["final.tokens"] = network.final_layer(tensors["final.in"], tensors["final.vector"])
    check_parts(found, tensors, COMPONENT)


def convolve(weight, bias):
    """The set's stand-in for a VAE, as an object that encodes like the host's."""
    return SimpleNamespace(encode=lambda image: F.conv2d(2 * image.movedim(-1, 1) - 1, weight, bias, stride=8))


@pytest.mark.parametrize("name", ["mask", "sketch"])
def test_pictures(folder, models, name):
    tensors = read(folder, "pictures.safetensors")
    if name == "mask":
        assert tensors["palette"].tolist() == [list(color) for color in PALETTE]
        labels = tensors["label_map"][None]
        images = draw_mask(SimpleNamespace(labels=labels, visible=torch.ones(len(PALETTE))))
    else:
        images = draw_sketch(tensors["sketch"][None] / 255)
    pixels = tensors[f"{name}.pixels"]
    height, width = pixels.shape[1:]
    found = (stretch(images, height, width)[0].movedim(-1, 0) * 255).round().to(torch.uint8)
    torch.testing.assert_close(found, pixels, **EXACT)
    vae = convolve(tensors["vae_weight"], tensors["vae_bias"])
    picture = ConditionPicture(images, MASK if name == "mask" else SKETCH, vae, "test")
    latents = picture.encode(height, width)
    torch.testing.assert_close(latents, tensors[f"{name}.vae_latents"], **COMPONENT)
    torch.testing.assert_close(models["flow"].model.process_latent_in(latents), tensors[f"{name}.latents"], **COMPONENT)


def test_noise_and_target_are_the_hosts(folder, models):
    tensors = read(folder, "objective.safetensors")
    image, noise = tensors["image"], tensors["noise"]
    for objective, base in models.items():
        sampling = base.get_model_object("model_sampling")
        t = tensors["flow.tau" if objective == "flow" else "diffusion.t"]
        sigma = (1 - t if objective == "flow" else sampling.sigma(t)).view(-1, 1, 1, 1)
        noisy = sampling.noise_scaling(sigma, noise, image)
        torch.testing.assert_close(sampling.calculate_input(sigma, noisy), tensors[f"{objective}.noised"], **CLOSE)
        target = tensors[f"{objective}.target"]
        denoised = sampling.calculate_denoised(sigma, -target if objective == "flow" else target, noisy)
        torch.testing.assert_close(denoised, image, rtol=1e-4, atol=1e-4 * max(1, sigma.max().item()))


def conditioning(tensors, prefix, reference):
    return [[tensors[f"{prefix}context"], {"pooled_output": tensors[f"{prefix}pooled"], OWN_KEY: reference}]]


def test_the_samplers_walk_the_reference_trajectories(folder, models):
    """From the start to the decoder's input, with the authors' noise levels and with those of our node."""
    for file in find_all(folder, "traj_*.safetensors"):
        tensors = load(file)
        objective = objective_of(tensors, "sigmas")
        patcher = models[objective]
        sigmas = tensors["sigmas"]
        sampling = patcher.get_model_object("model_sampling")
        exact = patcher.model.compute_exact_sigmas(sampling, len(sigmas) - 1)
        torch.testing.assert_close(exact, sigmas, rtol=1e-5, atol=1e-6, msg=label(file.stem))
        walked, seen = walk(patcher, tensors, SAMPLERS[objective], exact)
        compare(walked, tensors.get("decoder_input"), f"{file.stem} decoder_input")
        compare(patcher.model.process_latent_in(walked), tensors.get("final"), f"{file.stem} final")
        for i, expected in enumerate(tensors.get("latents", [])[:-1]):
            scale = 1 if objective == "flow" else (sigmas[i + 1] ** 2 + 1) ** 0.5
            compare(seen[i + 1], expected * scale, f"{file.stem} step {i}")


def compare(found, expected, name):
    """Compares what the set holds."""
    if expected is None:
        return
    error = (found.view_as(expected) - expected).abs().max() / expected.square().mean().sqrt()
    assert error < WALK, f"{name}: {error:.1e} of the mean square"


def walk(patcher, tensors, sampler, sigmas):
    """The sampled latents in the VAE's space, and the states before each step."""
    noise, condition = tensors["noise"], tensors["condition"]
    height, width = (8 * side for side in noise.shape[-2:])
    encoded = {("mmface", height, width): patcher.model.process_latent_out(condition)}
    picture = ConditionPicture(torch.zeros(1, height, width, 3), int(tensors["modality"]), None, "test", encoded)
    positive = conditioning(tensors, "", ConditionReference(picture))
    has_negative = "negative_context" in tensors
    negative = conditioning(tensors, "negative_", ConditionReference(picture)) if has_negative else positive
    seen = []
    final = comfy.sample.sample_custom(
        patcher, noise, tensors["guidance"].item(), comfy.samplers.sampler_object(sampler), sigmas, positive, negative,
        torch.zeros_like(noise), callback=lambda i, x0, x, total: seen.append(x.clone()), disable_pbar=True)
    return final, seen


def test_texts(folder, tmp_path, monkeypatch):
    config, weights = build_weights(folder, "text_layout.json")
    monkeypatch.setattr(text, "HEAD_DIM", config["hidden_size"] // config["num_attention_heads"])
    save_file(weights, tmp_path / "model.safetensors")
    clip = text.load_clip(str(tmp_path / "model.safetensors"), torch.float32)
    tensors = read(folder, "text.safetensors")
    for name, prompt in json.loads(find(folder, "prompts.json").read_text()).items():
        tokens = clip.tokenize(prompt)
        assert [token for token, _ in tokens["h"][0]] == tensors[f"{name}.ids"][0].tolist(), name
        sequence, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
        torch.testing.assert_close(sequence, tensors[f"{name}.sequence"], **COMPONENT, msg=label(name))
        torch.testing.assert_close(pooled, tensors[f"{name}.pooled"], **COMPONENT, msg=label(name))


def test_published_keys(folder):
    published = {name: tuple(shape) for name, shape in
                 json.loads(find(folder, "published_keys.json").read_text()).items()}
    weights = {name: torch.empty(shape, device="meta") for name, shape in published.items()}
    full = model.MMFaceDiT(host.read_config(weights), device="meta", operations=comfy.ops.disable_weight_init)
    assert {name: tuple(weight.shape) for name, weight in full.state_dict().items()} == published
