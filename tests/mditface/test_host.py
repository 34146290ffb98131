"""The model as a citizen of the host: loading, stock samplers, LoRA, guidance, memory estimates."""
import re
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import nodes
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced
from mditface.mdit.mditface import host
from mditface.mdit.mditface.cache import CachePatcher
from mditface.mdit.mditface.guidance import DualGuider, Guidance
from mditface.mdit.mditface.mask import BoundMask, MaskReference
from mditface.mdit.mditface.sample import sample
from mditface.mdit.mditface.reader import CacheOptions, MaskCond
from mditface.mdit.shared.masks import CONDITIONING_KEY
from mditface.nodes.sampling import Sampler
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import SIDE, TOLERANCE, batches, evaluate, lora, masked, reporting, run


def without(name):
    return lambda weights: {k: v for k, v in weights.items() if k != name}


def renamed(old, new):
    return lambda weights: {new if k == old else k: v for k, v in weights.items()}


def filled(name, value):
    return lambda weights: {**weights, name: torch.full_like(weights[name], value)}


EDITS = {
    "missing": (without("blocks.1.msk.qkv.weight"), r"missing \[blocks\.1\.msk\.qkv\.weight\]"),
    "renamed": (renamed("final.mod.bias", "last.mod.bias"),
                r"missing \[final\.mod\.bias\], unknown \[last\.mod\.bias\]"),
    "unknown": (lambda weights: {**weights, "blocks.9.x": torch.ones(1)}, r"unknown \[blocks\.9\.x\]"),
    "wrong shape": (lambda weights: {**weights, "x_embed.bias": torch.ones(7)},
                    r"x_embed\.bias is \(7,\), must be \(32,\)"),
    "nan": (filled("x_embed.bias", float("nan")), r"NaN or infinite numbers in x_embed\.bias"),
    "infinite": (filled("text_encoder.norm.weight", float("inf")), r"NaN or infinite.* in norm\.weight"),
    "half a text encoder": (without("text_encoder.norm.weight"), r"missing \[norm\.weight\]"),
}


@pytest.mark.parametrize("edit, message", EDITS.values(), ids=EDITS.keys())
def test_damaged_weights_are_named(tmp_path, edit, message):
    with pytest.raises(ValueError, match=message):
        host.load_mdit(tiny.write(tmp_path / "damaged.safetensors", edit=edit))


def test_truncated_and_foreign_files_are_refused(tmp_path):
    path = tiny.write(tmp_path / "cut.safetensors")
    whole = open(path, "rb").read()
    no_size = struct.pack("<Q", 1 << 60) + whole[8:]
    for content in (whole[:len(whole) // 2], whole[:4], b"", b"no tensors at all", no_size):
        open(path, "wb").write(content)
        with pytest.raises(ValueError, match=r"cut\.safetensors.*(truncated|another format)"):
            host.load_mdit(path)


def test_other_families_are_told_from_mdit(tmp_path):
    path = str(tmp_path / "other.safetensors")
    save_file({"double_blocks.0.weight": torch.ones(2)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="not a stand-alone MDiT model"):
        host.load_mdit(path)


@pytest.mark.parametrize("changes, message", [
    ({"mdit.config": '{"width": 32}'}, r"missing fields \['depth'"),
    ({"mdit.config": "{"}, "mdit.config"),
    ({"mdit.config": "[]"}, "mdit.config"),
    ({"mdit.format": "2"}, "format 1"),
])
def test_damaged_headers_are_named(tmp_path, changes, message):
    path = tiny.write(tmp_path / "header.safetensors")
    save_file(load_file(path), path, tiny.CONFIG.to_metadata() | changes)
    with pytest.raises(ValueError, match=message):
        host.load_mdit(path)


@pytest.mark.parametrize("changes", [dict(width=64), dict(depth=4), dict(mask_cells=1), dict(qk_norm="none")])
def test_a_header_that_does_not_fit_the_weights_is_refused(tmp_path, changes):
    path = tiny.write(tmp_path / "header.safetensors")
    save_file(load_file(path), path, tiny.config(**changes).to_metadata() | tiny.TEXT.to_metadata())
    with pytest.raises(ValueError, match="does not fit its model"):
        host.load_mdit(path)


def test_weights_arrive_unchanged(tmp_path):
    path = tiny.write(tmp_path / "tiny.safetensors")
    weights, model = load_file(path), host.load_mdit(path).model.model.diffusion_model
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_a_file_from_a_wrapped_network(tmp_path, loaded):
    path = tiny.write(tmp_path / "tiny.safetensors",
                      edit=lambda weights: {f"module.{name}": weight for name, weight in weights.items()})
    found = host.load_mdit(path)
    for name, weight in loaded.model.model.diffusion_model.state_dict().items():
        assert torch.equal(weight, found.model.model.diffusion_model.state_dict()[name]), name
    assert found.clip is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weight_type_can_be_chosen(tmp_path, dtype):
    model = host.load_mdit(tiny.write(tmp_path / "tiny.safetensors"), dtype).model
    assert model.model.diffusion_model.x_embed.weight.dtype == model.model.get_dtype() == dtype


def test_a_file_may_hold_no_text_encoder(tmp_path):
    path = str(tmp_path / "bare.safetensors")
    save_file(tiny.random_weights(tiny.network()), path, tiny.CONFIG.to_metadata())
    assert host.load_mdit(path).clip is None


def test_the_stock_text_node_works(loaded):
    ((tokens, extra),) = nodes.CLIPTextEncode().encode(loaded.clip, "young (blond:1.4) woman")[0]
    ((plain, _),) = nodes.CLIPTextEncode().encode(loaded.clip, "young blond woman")[0]
    assert tokens.shape == (1, tiny.TEXT.length, tiny.CONFIG.text_dim)
    assert extra["pooled_output"].shape == (1, tiny.CONFIG.pooled_dim)
    assert not torch.allclose(tokens, plain)


def test_text_of_another_encoder_is_refused(loaded, texts):
    foreign = [[torch.zeros(1, 77, 768), {"pooled_output": torch.zeros(1, 768)}]]
    with pytest.raises(ValueError, match="768 wide, this model needs 16"):
        run(loaded.model, foreign, texts[1])


def test_a_conditioning_without_pooled_text_works(loaded, texts):
    bare, empty = ([[text, extra] for text, _ in texts[0]]
                   for extra in ({}, {"pooled_output": torch.zeros(1, tiny.CONFIG.pooled_dim)}))
    torch.testing.assert_close(run(loaded.model, bare, texts[1])[0], run(loaded.model, empty, texts[1])[0], **TOLERANCE)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc"])
def test_stock_samplers_walk_along_the_guided_predictions(loaded, texts, sampler):
    """Each prediction of the expected walk is a run of its own, without a cache."""
    empty, steps, positive = torch.zeros(1, 3, SIDE, SIDE), 3, masked(texts[0], tiny.mask())
    found = nodes.KSampler().sample(loaded.model, 1, steps, 2.0, sampler, "simple", positive, texts[1],
                                    {"samples": empty})[0]["samples"]
    guider = comfy.samplers.CFGGuider(reporting(loaded.model, CacheOptions("off"))[0])
    guider.set_conds(positive, texts[1])
    guider.set_cfg(2.0)
    sigmas = comfy.samplers.KSampler(loaded.model, steps, "cpu", sampler, "simple").sigmas
    expected = comfy.samplers.sampler_object(sampler).sampler_function(
        lambda x, sigma, **_: evaluate(guider, x, sigma[0].item()), comfy.sample.prepare_noise(empty, 1), sigmas,
        extra_args={}, disable=True)  # UniPC raises the last noise level
    expected = loaded.model.get_model_object("model_sampling").inverse_noise_scaling(sigmas[-1], expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", [comfy.samplers.CFGGuider, DualGuider])
def test_the_custom_sampler_runs_our_guider_and_the_stock_one(loaded, texts, kind):
    guider = kind(loaded.model)
    guider.set_conds(masked(texts[0], tiny.mask()), texts[1])
    guider.set_guidance(Guidance(2.0, 1.0)) if kind is DualGuider else guider.set_cfg(2.0)
    sigmas = comfy.samplers.calculate_sigmas(loaded.model.get_model_object("model_sampling"), "simple", 2)
    out = SamplerCustomAdvanced.execute(Noise_RandomNoise(0), guider, comfy.samplers.sampler_object("euler"), sigmas,
                                        {"samples": torch.zeros(1, 3, SIDE, SIDE)})
    negative = masked(texts[1], tiny.mask()) if kind is DualGuider else texts[1]  # what mask scale 1 leaves of it
    expected, _ = run(loaded.model, masked(texts[0], tiny.mask()), negative)
    torch.testing.assert_close(out[0]["samples"], expected, **TOLERANCE)


def test_the_pixel_space_vae_goes_there_and_back(loaded):
    picture = torch.rand(1, 32, 24, 3)
    latent = nodes.VAEEncode().encode(loaded.vae, picture)[0]["samples"]
    assert latent.shape == (1, 3, 32, 24)
    torch.testing.assert_close(nodes.VAEDecode().decode(loaded.vae, {"samples": latent})[0], picture, rtol=0, atol=1e-2)


def test_picture_to_picture_keeps_more_with_less_denoising(loaded, texts):
    latent = {"samples": torch.rand(1, 3, SIDE, SIDE) - 0.5}
    positive = masked(texts[0], tiny.mask())

    def distance(denoise):
        (out,) = nodes.KSampler().sample(loaded.model, 0, 4, 2.0, "euler", "simple", positive, texts[1], latent,
                                         denoise)
        return (out["samples"] - latent["samples"]).abs().mean()
    assert distance(0.2) < distance(0.6) < distance(1.0)


def test_inpainting_keeps_what_the_noise_mask_spares(loaded, texts):
    picture = torch.rand(1, 3, SIDE, SIDE) - 0.5
    spared = torch.zeros(1, SIDE, SIDE)
    spared[:, :, SIDE // 2:] = 1
    (latent,) = nodes.SetLatentNoiseMask().set_mask({"samples": picture}, spared)
    out = nodes.common_ksampler(loaded.model, 0, 3, 2.0, "euler", "simple", masked(texts[0], tiny.mask()), texts[1],
                                latent)[0]["samples"]
    torch.testing.assert_close(out[..., :SIDE // 2], picture[..., :SIDE // 2], rtol=0, atol=1e-5)
    assert not torch.allclose(out[..., SIDE // 2:], picture[..., SIDE // 2:], atol=0.1)


def from_noise(loaded, texts, mask, noise):
    return comfy.sample.sample(loaded.model, noise, 2, 2.0, "euler", "simple", masked(texts[0], mask), texts[1],
                               torch.zeros_like(noise))


@pytest.mark.parametrize("maps", [1, 3])
def test_a_batch_equals_its_rows(loaded, texts, maps):
    noise = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    mask = tiny.mask(maps)
    together = from_noise(loaded, texts, mask, noise)
    for i in range(3):
        own = tiny.mask()
        own.labels = mask.labels[i % maps:i % maps + 1]
        torch.testing.assert_close(together[i:i + 1], from_noise(loaded, texts, own, noise[i:i + 1]), rtol=0, atol=1e-5)


def test_maps_must_be_one_or_as_many_as_latents(loaded, texts):
    with pytest.raises(ValueError, match="3 latents, but the mask has 2 label maps"):
        run(loaded.model, masked(texts[0], tiny.mask(2)), texts[1], latent=(3, 3, SIDE, SIDE))


def test_a_lora_equals_merged_weights(tmp_path, texts, loaded):
    added = lora("blocks.0.img.qkv", "blocks.2.txt.qkv", "blocks.1.msk.qkv")
    patched, _ = comfy.sd.load_lora_for_models(loaded.model, None, added, 0.5, 0)
    assert len(patched.patches) == 3

    def merge(weights):
        for layer in ("blocks.0.img.qkv", "blocks.2.txt.qkv", "blocks.1.msk.qkv"):
            up, down = (added[f"diffusion_model.{layer}.lora_{side}.weight"] for side in ("up", "down"))
            weights[f"{layer}.weight"] += 0.5 * up @ down
        return weights
    merged = host.load_mdit(tiny.write(tmp_path / "merged.safetensors", edit=merge)).model
    outs = [run(model, masked(texts[0], tiny.mask()), texts[1])[0] for model in (patched, merged, loaded.model)]
    torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=1e-5)
    assert not torch.allclose(outs[0], outs[2], atol=1e-3)


@pytest.mark.parametrize("height, width", [(13, 10), (17, 16), (5, 31)])
def test_odd_latent_sizes(loaded, texts, height, width):
    latent = (2, 3, height, width)
    mask = tiny.mask()
    out, _ = run(loaded.model, masked(texts[0], mask), texts[1], latent=latent)
    assert out.shape == latent and out.isfinite().all()
    again, _ = run(loaded.model, masked(texts[0], tiny.mask()), texts[1], CacheOptions("off"), latent=latent)
    torch.testing.assert_close(out, again, **TOLERANCE)


@pytest.mark.parametrize("mask_on", ["positive", "both", "neither"])
def test_both_halves_run_in_one_call(loaded, texts, mask_on):
    mask, (model, seen) = tiny.mask(), batches(loaded.model)
    positive = texts[0] if mask_on == "neither" else masked(texts[0], mask)
    negative = masked(texts[1], mask) if mask_on == "both" else texts[1]
    run(model, positive, negative, steps=3)
    assert seen == [2, 2, 2]


def test_a_mask_enters_the_estimate_of_memory(loaded, texts):
    bound = BoundMask(MaskReference(tiny.mask()), torch.Size((1, 3, SIDE, SIDE)), loaded.model.model,
                      tiny.CONFIG.mask_layout)
    shapes = loaded.model.model.extra_conds_shapes(model_conds={CONDITIONING_KEY: MaskCond(bound)})
    plain = loaded.model.model.memory_required([1, 3, SIDE, SIDE])
    assert loaded.model.model.memory_required([1, 3, SIDE, SIDE], {k: [v] for k, v in shapes.items()}) > 1.5 * plain
    assert loaded.model.model.extra_conds_shapes() == {}
    assert MaskCond(bound).size() == shapes[CONDITIONING_KEY] == [1, 3, SIDE, SIDE]
    none = {CONDITIONING_KEY: [MaskCond(None).size()]}
    assert loaded.model.model.memory_required([1, 3, SIDE, SIDE], none) == plain


def test_model_and_cache_are_loaded_together_with_room_for_both(loaded, texts, monkeypatch):
    calls, load = [], comfy.model_management.load_models_gpu

    def record(models, memory_required=0, **kwargs):
        calls.append(([(type(m), m.model_size()) for m in models], memory_required))
        return load(models, memory_required=memory_required, **kwargs)
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", record)
    mask = tiny.mask()
    run(loaded.model, *texts)
    for _ in range(2):
        run(loaded.model, masked(texts[0], mask), texts[1])
    (_, plain), (models, required), (again, _) = calls
    assert required > plain
    size = 2 * tiny.CONFIG.depth * (SIDE // tiny.CONFIG.patch) ** 2 * tiny.CONFIG.width * 4
    assert [m for m in models if m[0] is CachePatcher] == [(CachePatcher, size)]
    assert [m for m in again if m[0] is CachePatcher] == [(CachePatcher, size)]


def prediction(loaded, x, positive):
    guider = comfy.samplers.CFGGuider(loaded.model)
    guider.set_conds(positive, positive)
    return evaluate(guider, x)


@pytest.mark.parametrize("text_scale, mask_scale, rows", [(3.0, 1.5, 3), (1.0, 2.0, 3), (3.0, 1.0, 2), (1.0, 1.0, 1),
                                                          (0.0, 0.5, 3), (2.0, 0.0, 3)])
def test_dual_guidance_is_its_formula(loaded, texts, text_scale, mask_scale, rows):
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    mask, (model, seen) = tiny.mask(), batches(loaded.model)
    full, mask_only, none = (prediction(loaded, x, cond) for cond in (
        masked(texts[0], mask), masked(texts[1], mask), texts[1]))
    guider = DualGuider(model)
    guider.set_conds(masked(texts[0], mask), texts[1])
    guider.set_guidance(Guidance(text_scale, mask_scale))
    out = evaluate(guider, x)
    expected = none + mask_scale * (mask_only - none) + text_scale * (full - mask_only)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    assert seen == [rows]


@pytest.mark.parametrize("text_scale, rows", [(3.0, 2), (1.0, 1)])
def test_without_a_mask_dual_guidance_is_the_stock_one(loaded, texts, text_scale, rows):
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    model, seen = batches(loaded.model)
    guider, stock = DualGuider(model), comfy.samplers.CFGGuider(loaded.model)
    for one in (guider, stock):
        one.set_conds(*texts)
    guider.set_guidance(Guidance(text_scale, 4.0))
    stock.set_cfg(text_scale)
    torch.testing.assert_close(evaluate(guider, x), evaluate(stock, x), **TOLERANCE)
    assert seen == [rows]


def test_a_mask_on_the_negative_is_not_read_by_dual_guidance(loaded, texts):
    x = torch.ones(1, 3, SIDE, SIDE)
    outs = []
    for negative in (texts[1], masked(texts[1], tiny.mask(seed=3))):
        guider = DualGuider(loaded.model)
        guider.set_conds(masked(texts[0], tiny.mask()), negative)
        guider.set_guidance(Guidance(3.0, 2.0))
        outs.append(evaluate(guider, x))
    torch.testing.assert_close(*outs, **TOLERANCE)


def our_sampler(loaded, texts, latent, mask=None, cache=CacheOptions(), model=None, **changes):
    settings = dict(seed=0, steps=2, guidance=Guidance(2.0, 1.5), sampler_name="euler", scheduler="simple")
    return sample(model or loaded.model, **{**settings, **changes}, positive=masked(texts[0], mask or tiny.mask()),
                  negative=texts[1], latent=latent, denoise=1.0, cache=cache)


def test_our_sampler_counts_its_passes(loaded, texts):
    mask, latent = tiny.mask(), {"samples": torch.zeros(1, 3, SIDE, SIDE)}
    first, report = our_sampler(loaded, texts, latent, mask)
    assert (report.passes, report.hits) == (1, 1)
    assert str(report).partition("\n")[2].startswith("static passes 1, cache hits 1, cache bytes ")
    assert re.match(r"Drawn in \d+\.\d s, mask computed\n", str(report))
    again = our_sampler(loaded, texts, latent, mask, seed=4)[1]
    assert again.passes == 0 and str(again).partition("\n")[0].endswith(" s, mask reused")
    off, _ = our_sampler(loaded, texts, latent, mask, CacheOptions("off"))
    torch.testing.assert_close(off["samples"], first["samples"], **TOLERANCE)


def test_the_node_hands_on_each_of_its_inputs(loaded, texts):
    latent = {"samples": torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))}
    mine, ours = (masked(texts[0], tiny.mask()) for _ in range(2))
    node = Sampler.execute(loaded.model, 5, 2, 3.0, 1.5, "heun", "normal", mine, texts[1], latent, 0.7, "8-bit", True)
    expected, _ = sample(loaded.model, seed=5, steps=2, guidance=Guidance(3.0, 1.5), sampler_name="heun",
                         scheduler="normal", positive=ours, negative=texts[1], latent=latent, denoise=0.7,
                         cache=CacheOptions("8-bit", True))
    assert torch.equal(node[0]["samples"], expected["samples"])
    assert node[1].partition("\n")[2].startswith("static passes 1, ")


def test_empty_latents_of_the_stock_node_fit(loaded, texts):
    (latent,) = nodes.EmptyLatentImage().generate(64, 48, 2)
    assert latent["samples"].shape[1] == 4
    out, _ = our_sampler(loaded, texts, latent)
    assert out["samples"].shape == (2, 3, 48, 64)
    assert "downscale_ratio_spacial" not in out


def test_the_label_map_is_stretched_and_the_report_says_so(loaded, texts):
    report = our_sampler(loaded, texts, {"samples": torch.zeros(1, 3, SIDE, 2 * SIDE)})[1]
    assert "label map 32 x 32 resized to 32 x 16" in str(report)
    assert "resized" not in str(our_sampler(loaded, texts, {"samples": torch.zeros(1, 3, 24, 24)})[1])


@pytest.mark.parametrize("samples", [torch.ones(1, 4, SIDE, SIDE), torch.zeros(0, 3, SIDE, SIDE)])
def test_latents_of_another_model_are_refused(loaded, texts, samples):
    with pytest.raises(ValueError, match="latent_image: shape"):
        our_sampler(loaded, texts, {"samples": samples})


def test_a_mask_needs_a_model_that_reads_it(loaded, texts):
    class Other(torch.nn.Module):
        pass
    other = comfy.model_patcher.ModelPatcher(Other(), torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"Other.*Load Face Model \(MDiT\)"):
        our_sampler(loaded, texts, {"samples": torch.zeros(1, 3, SIDE, SIDE)}, model=other)


def test_reports_of_two_runs_are_apart(loaded, texts):
    (first, one), (_, two) = reporting(loaded.model), reporting(loaded.model)
    nodes.common_ksampler(first, 0, 2, 1.0, "euler", "simple", masked(texts[0], tiny.mask()), texts[1],
                          {"samples": torch.zeros(1, 3, SIDE, SIDE)})
    assert (one.passes, two.passes) == (1, 0)


def test_blocks_that_another_node_replaced_are_refused(loaded, texts, monkeypatch):
    """As first-block caches do while the model is called."""
    network = loaded.model.model.diffusion_model
    monkeypatch.setitem(network._modules, "blocks", torch.nn.ModuleList([torch.nn.Sequential(*network.blocks)]))
    with pytest.raises(ValueError, match="model: another node put 'Sequential' in place of its 3 blocks"):
        run(loaded.model, *texts)
