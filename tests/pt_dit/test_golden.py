"""PT-DiT against the reference's outputs (the set has a README).

Every set of the same layout passes: sizes and cases are read from its files alone.
"""
import json
import re

import pytest
import torch

import comfy.ops
import comfy.sample
import comfy.samplers
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from mditface.mdit.shared import windows
from mditface.mdit.pt_dit import host, model
from mditface.mdit.pt_dit.config import POSITIONS, PTDiTSettings, PublishedFields, read_settings
from mditface.mdit.pt_dit.schedule import compute_shift
from mditface.mdit.pt_dit.vae import load_vae
from mditface.mdit.shared.schedule import compute_flow_sigmas
from mditface.tests.golden_set import find, find_all, lack, load, read, read_metadata

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")

CLOSE = dict(rtol=1e-4, atol=3e-5)
WALK = dict(rtol=1e-3, atol=3e-4)
VAE = dict(rtol=1e-4, atol=1e-4)
SCALE = 0.18215  # of the latents
EXACT = dict(rtol=0, atol=0)
PARTS = ("input", "proxy_tokens", "proxy_after_self_attn", "after_inject", "after_window_attn",
         "after_shift_window_attn", "after_text_attn", "output")


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "pt-dit"


@pytest.fixture(scope="module")
def loaded(folder):
    return host.load_pt_dit(str(find(folder, "model.safetensors")), torch.float32)


@pytest.fixture(scope="module")
def network(loaded):
    return loaded.model.diffusion_model


def label(compared):
    """A message that starts with the name of what is compared."""
    return lambda message: f"{compared}: {message}"


def record(block) -> tuple[dict, list]:
    """What flows between the parts of a block's next run, under the names of the set; and the hooks to remove."""
    found = {}

    def after(module, keep):
        return module.register_forward_hook(lambda module, args, out: found.update(keep(args[0], out)))
    return found, [
        block.register_forward_pre_hook(lambda module, args: found.update(input=args[0])),
        after(block.proxy_attn1, lambda x, out: {"attended": out}),
        after(block.linear_1_visual, lambda x, out: {"after_inject": found["input"] + out}),
        after(block.linear_2, lambda x, out: {"shifted": out}),
        after(block.attn2, lambda x, out: {"after_window_attn": x - found["shifted"], "after_shift_window_attn": x,
                                           "after_text_attn": x + out}),
        after(block, lambda x, out: {"output": out})]


def to_settings(fields: dict) -> PTDiTSettings:
    """The windows that a case's fields describe."""
    names = ("compress_ratios", "proxy_compress_ratios")
    return read_settings(PublishedFields(**{name: tuple(fields[name]) for name in names if name in fields}))


@pytest.fixture(scope="module")
def cases(folder):
    """Name, tensors and settings of each case."""
    return [(file.stem, load(file), to_settings(read_metadata(file)))
            for file in find_all(folder, "case_*.safetensors")]


def predict(network, tensors, options):
    return network.predict(tensors["latent"], tensors["timestep"], tensors["context"], tensors.get("context_mask"),
                           {model.OPTIONS_KEY: options})


def test_outputs(cases, network):
    for case, tensors, settings in cases:
        for positions, name in zip(POSITIONS, ("output", "output_rowcol")):
            if name in tensors:
                options = PTDiTSettings(settings.window, settings.proxies, positions)
                torch.testing.assert_close(predict(network, tensors, options), tensors[name], **CLOSE,
                                           msg=label(f"{case} {name}"))


def test_the_network_the_host_calls_gives_the_negative_of_the_first_channels(cases, network):
    for case, tensors, settings in cases:
        if "output" in tensors:
            found = network(tensors["latent"], tensors["timestep"], tensors["context"], tensors.get("context_mask"),
                            transformer_options={model.OPTIONS_KEY: settings})
            torch.testing.assert_close(found, -tensors["output"][:, :found.shape[1]], **CLOSE, msg=label(case))


def test_blocks_part_by_part(folder, cases, network):
    checked = 0
    for case, tensors, settings in cases:
        blocks = sorted({int(key[5:].split(".")[0]) for key in tensors if re.match(r"block\d", key)})
        recorded = {i: record(network.transformer_blocks[i]) for i in blocks}
        predict(network, tensors, settings)
        frames, height, width = tensors["latent"].shape[2:]
        grid = frames, height // network.config.patch, width // network.config.patch
        for i, (found, hooks) in recorded.items():
            for hook in hooks:
                hook.remove()
            pool = windows.build_pool(grid, settings.window, settings.proxies, found["input"])
            found["proxy_tokens"] = pool.average(found["input"])
            found["proxy_after_self_attn"] = found["proxy_tokens"] + found["attended"]
            for name in PARTS:
                expected = tensors.get(f"block{i}.{name}")
                if expected is not None:
                    torch.testing.assert_close(found[name].view_as(expected), expected, **CLOSE,
                                               msg=label(f"{case} block{i}.{name}"))
                    checked += 1
    if not checked:
        lack(folder, "parts of blocks")


def test_time_and_text(folder, cases, network):
    times = [(tensors["timestep"], tensors.get("t_emb"), tensors.get("t6")) for _, tensors, _ in cases]
    if (folder / "components.safetensors").is_file():
        components = read(folder, "components.safetensors")
        if "time.t" in components:
            times.append([components.get(f"time.{name}") for name in ("t", "embedding", "modulation")])
    compared = 0
    for t, embedding, modulation in times:
        vec, vectors = network.adaln_single(t, torch.float32)
        compared += compare(vec, embedding) + compare(vectors.flatten(1), modulation)
    for _, tensors, _ in cases:
        compared += compare(network.caption_projection(tensors["context"]), tensors.get("caption"))
    if not compared:
        lack(folder, "embeddings of time or text")


def compare(found, expected) -> bool:
    """Whether the set holds what is expected; if so, it is compared."""
    if expected is not None:
        torch.testing.assert_close(found, expected, **CLOSE)
    return expected is not None


def test_components(folder):
    tensors = read(folder, "components.safetensors")
    for name, expected in tensors.items():
        kind, part, shape = (*name.split(".", 2), "", "")[:3]
        sizes = {key: tuple(map(int, value.split("x")))
                 for key, value in re.findall(r"(win|ratio|f|h|w|d)(\d[\dx]*)", shape)}
        grid = tuple(sizes[key][0] for key in "fhw") if shape else None
        if kind == "pos":
            found = model.build_position_table(grid, sizes["d"][0], part).view_as(expected)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6, msg=label(name))
        elif (kind, part) == ("pool", "input"):
            settings = to_settings({"compress_ratios": sizes["win"], "proxy_compress_ratios": sizes["ratio"]})
            layout = windows.build_layout(grid, settings.window, settings.proxies, expected)
            found = layout.pool.average(expected.flatten(1, 3))
            torch.testing.assert_close(found, tensors[f"pool.proxies.{shape}"], rtol=0, atol=1e-6, msg=label(name))
        elif kind in ("window", "mask"):
            layout = windows.build_layout(grid, sizes["win"], (1, 1), torch.empty(1))
            if kind == "mask":
                found = (layout.shifted.bias == 0).to(expected)
            else:
                found = (layout.plain if part == "index" else layout.shifted).token_of_slot.view_as(expected)
            torch.testing.assert_close(found, expected, **EXACT, msg=label(name))


def test_time_steps(folder):
    tensors = read(folder, "sampler.safetensors")
    tables = {name: expected for name, expected in tensors.items() if name.startswith("timesteps.")}
    if not tables:
        lack(folder, "tables of time steps")
    for name, expected in tables.items():
        steps, frames, height, width = map(int, re.search(r"steps(\d+)_f(\d+)_h(\d+)_w(\d+)", name).groups())
        found = 1000 * compute_flow_sigmas(compute_shift(width, height, frames), steps)[:-1]
        torch.testing.assert_close(found, expected.to(found), rtol=1e-5, atol=2e-3, msg=label(name))


def conditioning(tensors, name):
    masked = {"attention_mask": tensors[f"{name}_mask"]} if f"{name}_mask" in tensors else {}
    return [[tensors[name], masked]]


def test_the_samplers_walk_the_reference_trajectory(folder, loaded):
    """With the exact schedule, and with the host's where that is the same: if the number of steps divides 1000."""
    tensors, walk = read(folder, "sampler.safetensors"), read_metadata(folder / "sampler.safetensors")
    if "noise" not in tensors:
        lack(folder, "trajectory")
    noise = tensors["noise"]
    steps, seen = walk["steps"], []
    shift = compute_shift(walk["width_px"], walk["height_px"], walk.get("frames", 1))
    (shifted,) = ModelSamplingSD3().patch(loaded, shift)
    if "compress_ratios" in walk:
        shifted = host.apply_settings(shifted, to_settings(walk))
    schedules = [compute_flow_sigmas(shift, steps)]
    if 1000 % steps == 0:
        schedules.append(comfy.samplers.calculate_sigmas(shifted.get_model_object("model_sampling"), "simple", steps))
    for sigmas in schedules:
        seen.clear()
        prompts = (conditioning(tensors, name) for name in ("cond", "uncond"))
        final = comfy.sample.sample_custom(
            shifted, noise, walk["cfg_scale"], comfy.samplers.sampler_object("euler"), sigmas, *prompts,
            torch.zeros_like(noise), callback=lambda i, x0, x, total: seen.append(x.clone()), disable_pbar=True)
        for i, expected in enumerate(tensors.get("step.latent", [])):
            torch.testing.assert_close(seen[i].view_as(expected), expected, **WALK, msg=label(f"step {i}"))
        torch.testing.assert_close(loaded.model.latent_format.process_in(final), tensors["final"], **WALK)


def test_noise_and_target_are_the_hosts(folder, loaded):
    tensors = read(folder, "sampler.safetensors")
    if "train.t" not in tensors:
        lack(folder, "training pair")
    sampling = loaded.get_model_object("model_sampling")
    sigma = (tensors["train.t"] / 1000).view(-1, 1, 1, 1, 1)
    noisy = sampling.noise_scaling(sigma, tensors["train.noise"], tensors["train.x0"])
    torch.testing.assert_close(noisy, tensors["train.x_t"], **CLOSE)
    target = -tensors["train.target_velocity"]  # the host's direction
    torch.testing.assert_close(sampling.calculate_denoised(sigma, target, noisy), tensors["train.x0"], **CLOSE)


@pytest.fixture(scope="module")
def vae(folder):
    return load_vae(str(find(folder, "vae_model.safetensors")))


@pytest.fixture(scope="module")
def pictures(folder):
    """The tensors of the VAE's case, frames as rows (B F, C, H, W)."""
    return {name: tensor.transpose(1, 2).flatten(0, 1)
            for name, tensor in read(folder, "vae_case.safetensors").items()}


def test_encoder(folder, vae, pictures):
    if "encode.image" not in pictures:
        lack(folder, "encoded picture")
    network, image = vae.first_stage_model, pictures["encode.image"]
    moments = network.quant_conv(network.encoder(image))
    torch.testing.assert_close(moments, pictures["encode.moments"], **VAE)
    latent = vae.encode((image.movedim(1, -1) + 1) / 2)
    torch.testing.assert_close(latent * SCALE, pictures["encode.latent_mode"], **VAE)


def test_decoder(folder, vae, pictures):
    if "decode.latent" not in pictures:
        lack(folder, "decoded picture")
    latent, expected = pictures["decode.latent"] / SCALE, pictures["decode.image"]
    torch.testing.assert_close(vae.first_stage_model.decode(latent), expected, **VAE)
    image = ((expected + 1) / 2).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(vae.decode(latent), image, **VAE)


def test_published_keys(folder):
    published = json.loads(find(folder, "published_keys.json").read_text())["transformer"]
    expected = {name: tuple(shape) for name, shape in published["top_level"].items() if name != host.STORED_TABLE}
    for i in range(published["num_layers"]):
        expected |= {published["block_prefix"].format(i=i) + name: tuple(shape)
                     for name, shape in published["block"].items()}
    weights = {name: torch.empty(shape, device="meta") for name, shape in expected.items()}
    config = host.read_config(weights, str(folder / "nowhere" / "model.safetensors"))
    network = model.PTDiT(config, device="meta", operations=comfy.ops.disable_weight_init)
    assert {name: tuple(weight.shape) for name, weight in network.state_dict().items()} == expected
