"""PT-DiT against the reference's outputs (the set has a README).

Every set of the same layout passes: sizes and cases are read from its files alone.
"""
import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import comfy.ops
import comfy.sample
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from mditface.mdit.shared import windows
from mditface.mdit.pt_dit import host, model
from mditface.mdit.pt_dit.config import POSITIONS, PTDiTSettings, read_settings
from mditface.mdit.pt_dit.schedule import compute_shift, compute_sigmas
from mditface.mdit.pt_dit.vae import load_vae

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")

CLOSE = dict(rtol=1e-4, atol=2e-5)
EXACT = dict(rtol=0, atol=0)
PARTS = ("input", "proxy_tokens", "proxy_after_self_attn", "after_inject", "after_window_attn",
         "after_shift_window_attn", "after_text_attn", "output")


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "pt-dit"


@pytest.fixture(scope="module")
def loaded(folder):
    return host.load_pt_dit(str(folder / "model.safetensors"), torch.float32)


@pytest.fixture(scope="module")
def network(loaded):
    return loaded.model.diffusion_model


def label(compared):
    """A message that starts with the name of what is compared."""
    return lambda message: f"{compared}: {message}"


def read(file):
    """Tensors and metadata, those of JSON parsed."""
    metadata = safe_open(file, "pt").metadata() or {}
    return load_file(file), {key: json.loads(value) if value[:1] in "[{" else value for key, value in metadata.items()}


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


def cases(folder):
    return sorted(folder.glob("case_*.safetensors"))


def predict(network, tensors, options):
    return network.predict(tensors["latent"], tensors["timestep"], tensors["context"], tensors.get("context_mask"),
                           {model.OPTIONS_KEY: options})


def test_outputs(folder, network):
    assert cases(folder)
    for file in cases(folder):
        tensors, metadata = read(file)
        for positions, name in zip(POSITIONS, ("output", "output_rowcol")):
            if name in tensors:
                options = PTDiTSettings(read_settings(metadata).window, read_settings(metadata).proxies, positions)
                torch.testing.assert_close(predict(network, tensors, options), tensors[name], **CLOSE,
                                           msg=label(f"{file.stem} {name}"))


def test_the_network_the_host_calls_gives_the_negative_of_the_first_channels(folder, network):
    for file in cases(folder):
        tensors, metadata = read(file)
        found = network(tensors["latent"], tensors["timestep"], tensors["context"], tensors.get("context_mask"),
                        transformer_options={model.OPTIONS_KEY: read_settings(metadata)})
        torch.testing.assert_close(found, -tensors["output"][:, :found.shape[1]], **CLOSE, msg=label(file.stem))


def test_blocks_part_by_part(folder, network):
    checked = 0
    for file in cases(folder):
        tensors, metadata = read(file)
        blocks = sorted({int(key[5:].split(".")[0]) for key in tensors if re.match(r"block\d", key)})
        recorded = {i: record(network.transformer_blocks[i]) for i in blocks}
        predict(network, tensors, read_settings(metadata))
        for i, (found, hooks) in recorded.items():
            for hook in hooks:
                hook.remove()
            grid = tensors[f"block{i}.input"].shape[1:4]
            settings = read_settings(metadata)
            pool = windows.build_pool(grid, settings.window, settings.proxies, found["input"])
            found["proxy_tokens"] = pool.average(found["input"])
            found["proxy_after_self_attn"] = found["proxy_tokens"] + found["attended"]
            for name in PARTS:
                expected = tensors[f"block{i}.{name}"]
                torch.testing.assert_close(found[name].view_as(expected), expected, **CLOSE,
                                           msg=label(f"{file.stem} block{i}.{name}"))
                checked += 1
    assert checked


def test_time_and_text(folder, network):
    tensors, _ = read(folder / "components.safetensors")
    vec, vectors = network.adaln_single(tensors["time.t"], torch.float32)
    torch.testing.assert_close(vec, tensors["time.embedding"], **CLOSE)
    torch.testing.assert_close(vectors.flatten(1), tensors["time.modulation"], **CLOSE)
    for tensors in [tensors for tensors, _ in map(read, cases(folder)) if "caption" in tensors]:
        torch.testing.assert_close(network.caption_projection(tensors["context"]), tensors["caption"], **CLOSE)
        vec, vectors = network.adaln_single(tensors["timestep"], torch.float32)
        torch.testing.assert_close(vec, tensors["t_emb"], **CLOSE)
        torch.testing.assert_close(vectors.flatten(1), tensors["t6"], **CLOSE)


def test_components(folder):
    tensors, _ = read(folder / "components.safetensors")
    for name, expected in tensors.items():
        kind, part, shape = (*name.split(".", 2), "")[:3]
        sizes = {key: tuple(map(int, value.split("x")))
                 for key, value in re.findall(r"(win|ratio|f|h|w|d)(\d[\dx]*)", shape)}
        grid = tuple(sizes[key][0] for key in "fhw") if shape else None
        if kind == "pos":
            found = model.build_position_table(grid, sizes["d"][0], part).view_as(expected)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6, msg=label(name))
        elif (kind, part) == ("pool", "input"):
            settings = read_settings({"compress_ratios": sizes["win"], "proxy_compress_ratios": sizes["ratio"]})
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
        else:
            assert kind in ("time", "pool"), name


def test_time_steps(folder):
    tensors, _ = read(folder / "sampler.safetensors")
    tables = {name: expected for name, expected in tensors.items() if name.startswith("timesteps.")}
    assert tables
    for name, expected in tables.items():
        steps, frames, height, width = map(int, re.search(r"steps(\d+)_f(\d+)_h(\d+)_w(\d+)", name).groups())
        found = 1000 * compute_sigmas(compute_shift(width, height, frames), steps)[:-1]
        torch.testing.assert_close(found, expected.to(found), rtol=1e-5, atol=2e-3, msg=label(name))


def conditioning(tensors, name):
    return [[tensors[name], {"attention_mask": tensors[f"{name}_mask"]}]]


def test_the_stock_sampler_walks_the_reference_trajectory(folder, loaded):
    tensors, metadata = read(folder / "sampler.safetensors")
    steps = tensors["step.latent"]
    noise = tensors["noise"]
    height, width = (8 * side for side in noise.shape[-2:])
    (shifted,) = ModelSamplingSD3().patch(loaded, compute_shift(width, height))
    seen = []
    prompts = (conditioning(tensors, name) for name in ("cond", "uncond"))
    final = comfy.sample.sample(shifted, noise, len(steps), 4.0, "euler", "simple", *prompts, torch.zeros_like(noise),
                                callback=lambda i, x0, x, total: seen.append(x.clone()))
    for i, expected in enumerate(steps):
        torch.testing.assert_close(seen[i].view_as(expected), expected, rtol=1e-3, atol=2e-4, msg=label(f"step {i}"))
    final = loaded.model.latent_format.process_in(final)
    torch.testing.assert_close(final, tensors["final"], rtol=1e-3, atol=2e-4)


def test_noise_and_target_are_the_hosts(folder, loaded):
    tensors, _ = read(folder / "sampler.safetensors")
    sampling = loaded.get_model_object("model_sampling")
    sigma = (tensors["train.t"] / 1000).view(-1, 1, 1, 1, 1)
    noisy = sampling.noise_scaling(sigma, tensors["train.noise"], tensors["train.x0"])
    torch.testing.assert_close(noisy, tensors["train.x_t"], **CLOSE)
    target = -tensors["train.target_velocity"]  # the host's direction
    torch.testing.assert_close(sampling.calculate_denoised(sigma, target, noisy), tensors["train.x0"], **CLOSE)


def test_vae(folder):
    vae, (tensors, _) = load_vae(str(folder / "vae_model.safetensors")), read(folder / "vae_case.safetensors")
    vae_close = dict(rtol=1e-4, atol=1e-4)
    network, image = vae.first_stage_model, tensors["encode.image"][:, :, 0]
    moments = network.quant_conv(network.encoder(image))
    torch.testing.assert_close(moments, tensors["encode.moments"][:, :, 0], **vae_close)
    latent = vae.encode((image.movedim(1, -1) + 1) / 2)
    torch.testing.assert_close(latent * 0.18215, tensors["encode.latent_mode"][:, :, 0], **vae_close)
    latent = tensors["decode.latent"][:, :, 0] / 0.18215
    torch.testing.assert_close(network.decode(latent), tensors["decode.image"][:, :, 0], **vae_close)
    image = ((tensors["decode.image"][:, :, 0] + 1) / 2).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(vae.decode(latent), image, **vae_close)


def test_published_keys(folder):
    published = json.loads((folder / "published_keys.json").read_text())["transformer"]
    expected = {name: tuple(shape) for name, shape in published["top_level"].items() if name != host.STORED_TABLE}
    for i in range(published["num_layers"]):
        expected |= {published["block_prefix"].format(i=i) + name: tuple(shape)
                     for name, shape in published["block"].items()}
    weights = {name: torch.empty(shape, device="meta") for name, shape in expected.items()}
    config = host.read_config(weights, str(folder / "nowhere" / "model.safetensors"))
    network = model.PTDiT(config, device="meta", operations=comfy.ops.disable_weight_init)
    assert {name: tuple(weight.shape) for name, weight in network.state_dict().items()} == expected
