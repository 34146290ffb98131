"""PT-DiT in the host: files, errors, samplers, LoRA, text, VAE."""
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import comfy.controlnet
import comfy.sample
import comfy.samplers
import comfy.sd
import nodes
from comfy_extras.nodes_custom_sampler import BasicScheduler
from mditface.mdit.pt_dit import host, text
from mditface.mdit.pt_dit.config import PTDiTSettings, read_config
from mditface.mdit.pt_dit.schedule import compute_shift
from mditface.mdit.pt_dit.vae import load_vae
from mditface.mdit.shared.schedule import compute_flow_sigmas
from mditface.nodes.pt_dit import PTDiTCost, PTDiTShift, PTDiTWindows
from mditface.nodes.sampling import ExactSigmas
from mditface.tests.pt_dit import tiny
from mditface.tests.pt_dit.tiny import CONFIG, normal
from mditface.tests.shared import hooks

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")

BLOCK = "transformer_blocks.0."


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("pt-dit") / "tiny.safetensors")


@pytest.fixture(scope="module")
def loaded(file):
    return host.load_pt_dit(file, torch.float32)


def prompt(length, seed=0, width=CONFIG.caption, **extra):
    return [[normal(1, length, width, seed=seed), extra]]


def sample(model, positive=None, negative=None, size=(1, 4, 16, 16), steps=2, cfg=2.0, noise=None):
    noise = normal(*size) if noise is None else noise
    return comfy.sample.sample(model, noise, steps, cfg, "euler", "simple", positive or prompt(6),
                               negative or prompt(1, 1), torch.zeros_like(noise))


# Files


@pytest.mark.parametrize("wrap", [lambda sd: sd, lambda sd: {"model": sd, "step": 7}, lambda sd: {"state_dict": sd},
                                  lambda sd: {"model": {f"module.{name}": weight for name, weight in sd.items()}}],
                         ids=["bare", "model", "state_dict", "module"])
def test_every_container_gives_the_same_model(tmp_path, file, loaded, wrap):
    path = tmp_path / "tiny.pt"
    torch.save(wrap(load_file(file)), path)
    path.with_suffix(".json").write_text(tiny.JSON)
    weights = host.load_pt_dit(str(path), torch.float32).model.diffusion_model.state_dict()
    for name, weight in loaded.model.diffusion_model.state_dict().items():
        assert torch.equal(weights[name], weight), name


def test_the_configuration_comes_from_shapes_and_the_json(file, loaded):
    assert loaded.model.diffusion_model.config == CONFIG


def test_without_a_json_heads_and_windows_are_the_published_ones(tmp_path, file):
    weights = load_file(file)
    config = read_config(weights, str(tmp_path / "alone.safetensors"))
    assert (config.heads, config.settings) == (2, PTDiTSettings((1, 8, 8)))


@pytest.mark.parametrize("fields, heads", [({"num_heads": 4}, 4), ({"head_dim": 36, "compress_ratios": [1, 8, 8]}, 4),
                                         ({"num_attention_heads": 3, "attention_head_dim": 48,
                                           "compress_ratios": [1, 2, 2]}, 3)])
def test_a_json_with_newer_or_older_names_gives_the_heads(tmp_path, file, fields, heads):
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert read_config(load_file(file), str(tmp_path / "alone.safetensors")).heads == heads


def test_a_json_of_something_else_is_not_read(tmp_path, file):
    (tmp_path / "config.json").write_text('{"architectures": ["Other"]}')
    assert read_config(load_file(file), str(tmp_path / "alone.safetensors")).heads == 2


@pytest.mark.parametrize("fields, message", [
    ({"num_heads": 5, "head_dim": 8}, "144 is not 5 heads of 8"),
    ({"num_heads": 2, "head_dim": 72, "sample_size": 128}, "sample_size 128"),
    ({"num_heads": 2, "compress_ratios": [8, 8]}, "compress_ratios has 2 entries, must have 3"),
    ({"num_heads": 2, "proxy_compress_ratios": [1, 0, 4]}, r"compress_ratios .* no windows"),
    ({"num_heads": 2, "compress_ratios": 8}, "compress_ratios is 8, must be"),
])
def test_a_json_that_does_not_fit_is_refused(tmp_path, file, fields, message):
    path = tmp_path / "tiny.safetensors"
    save_file(load_file(file), path)
    path.with_name("config.json").write_text(json.dumps({"predictor": fields}))
    with pytest.raises(ValueError, match=f"model_name: .*tiny.safetensors.*{message}"):
        host.load_pt_dit(str(path))


def test_a_damaged_json_is_named(tmp_path, file):
    path = tmp_path / "tiny.safetensors"
    save_file(load_file(file), path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(ValueError, match="tiny.json.*is damaged"):
        host.load_pt_dit(str(path))


EDITS = {
    "pixart": (lambda sd: {name: weight for name, weight in sd.items() if "proxy_attn1" not in name},
               "no PT-DiT weights.*host's own loaders"),
    "missing": (lambda sd: {name: weight for name, weight in sd.items() if name != f"{BLOCK}attn3.to_q.bias"},
                r"missing \[transformer_blocks\.0\.attn3\.to_q\.bias\]"),
    "no text": (lambda sd: {name: weight for name, weight in sd.items() if "caption" not in name},
                r"lacks caption_projection\.linear_1\.weight"),
    "wrong shape": (lambda sd: sd | {f"{BLOCK}linear_2.bias": torch.ones(7)}, r"linear_2\.bias is \(7,\), must be"),
    "nan": (lambda sd: sd | {f"{BLOCK}linear_2.bias": torch.full((144,), torch.nan)}, "NaN or infinite numbers in"),
}


@pytest.mark.parametrize("edit, message", EDITS.values(), ids=EDITS.keys())
def test_files_that_are_no_pt_dit_are_refused(tmp_path, edit, message):
    with pytest.raises(ValueError, match=f"(?s)model_name: .*bad.safetensors.*{message}"):
        host.load_pt_dit(tiny.write(tmp_path / "bad.safetensors", edit=edit))


@pytest.mark.parametrize("name, content", [("cut.safetensors", b"\x08"), ("cut.pt", b"nonsense")])
def test_unreadable_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*cannot be read"):
        host.load_pt_dit(str(tmp_path / name))


def test_a_file_that_runs_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return exec, ("raise SystemExit",)
    torch.save({"model": Harmful()}, tmp_path / "harmful.pt")
    with pytest.raises(ValueError, match="harmful.pt.*holds more than weights"):
        host.load_pt_dit(str(tmp_path / "harmful.pt"))


def test_unknown_keys_are_ignored(tmp_path):
    host.load_pt_dit(tiny.write(tmp_path / "more.safetensors", edit=lambda sd: sd | {"ema_step": torch.ones(1)}))


@pytest.mark.parametrize("dtype, computed", [(torch.float16, torch.float32), (torch.bfloat16, None),
                                             (torch.float32, torch.float32)])
def test_weight_types(file, dtype, computed):
    model = host.load_pt_dit(file, dtype).model
    assert model.get_dtype() == dtype
    assert model.get_dtype_inference() != torch.float16
    assert torch.accelerator.is_available() or model.get_dtype_inference() == (computed or model.get_dtype_inference())


def test_low_precision_is_close(file, loaded):
    expected = sample(loaded)
    for dtype in (torch.float16, torch.bfloat16):
        error = (sample(host.load_pt_dit(file, dtype)) - expected).abs().mean() / expected.abs().mean()
        assert error < 0.02


def test_memory_is_requested(loaded):
    model = loaded.model
    small, large = (model.memory_required([2, 4, side, side]) for side in (64, 128))
    assert 0 < small < large
    assert model.memory_usage_factor == pytest.approx(0.5 * CONFIG.width / 1152)


# Sampling


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc"])
def test_stock_samplers_walk_along_the_guided_predictions(loaded, sampler):
    empty = torch.zeros(1, 4, 16, 16)
    (out,) = nodes.KSampler().sample(loaded, 1, 2, 2.0, sampler, "simple", prompt(6), prompt(1), {"samples": empty})
    expected = walk(loaded, comfy.sample.prepare_noise(empty, 1), sampler)
    torch.testing.assert_close(out["samples"], expected, rtol=1e-5, atol=1e-4)


def walk(patcher, noise, sampler="euler", steps=2, cfg=2.0):
    """A run of a sampler on the bare network, its two predictions guided by hand."""
    def predict(x, sigma, **_):
        cond, uncond = (patcher.model.apply_model(x, sigma, c_crossattn=text[0][0]) for text in (prompt(6), prompt(1)))
        return uncond + cfg * (cond - uncond)
    sigmas = comfy.samplers.KSampler(patcher, steps, "cpu", sampler, "simple").sigmas
    function = comfy.samplers.sampler_object(sampler).sampler_function
    out = function(predict, noise, sigmas, extra_args={}, disable=True)  # UniPC raises the last noise level
    sampling = patcher.get_model_object("model_sampling")
    return patcher.model.process_latent_out(sampling.inverse_noise_scaling(sigmas[-1], out))


def test_a_batch_equals_its_rows(loaded):
    noise = normal(3, 4, 16, 16)
    together = sample(loaded, noise=noise)
    for i in range(3):
        torch.testing.assert_close(together[i:i + 1], sample(loaded, noise=noise[i:i + 1]), rtol=0, atol=1e-5)


def test_items_of_a_batch_may_have_noise_levels_of_their_own(loaded):
    noisy, text, sigmas = normal(3, 4, 16, 16), normal(3, 6, CONFIG.caption), torch.tensor([0.9, 0.5, 0.1])
    together = loaded.model.apply_model(noisy, sigmas, c_crossattn=text)
    for i in range(3):
        alone = loaded.model.apply_model(noisy[i:i + 1], sigmas[i:i + 1], c_crossattn=text[i:i + 1])
        torch.testing.assert_close(together[i:i + 1], alone, rtol=0, atol=1e-5)


def test_videos_are_sampled(loaded):
    noise = normal(1, 4, 3, 16, 16)
    found = sample(loaded, prompt(6), prompt(1), noise=noise)
    torch.testing.assert_close(found, walk(loaded, noise), rtol=0, atol=1e-4)


def test_prompts_of_other_lengths_share_a_call_without_changing(loaded):
    """The host repeats the shorter one; with masks it may not."""
    noise, (long, short) = normal(1, 4, 16, 16), (normal(1, 6, CONFIG.caption), normal(1, 3, CONFIG.caption))
    plain = sample(loaded, [[long, {}]], [[short, {}]], noise=noise)
    padded = torch.cat((short, 9 * torch.ones_like(short)), dim=1)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0]])
    masked = sample(loaded, [[long, {"attention_mask": torch.ones_like(mask)}]], [[padded, {"attention_mask": mask}]],
                    noise=noise)
    torch.testing.assert_close(plain, masked, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("load", [comfy.sd.load_lora_for_models, comfy.sd.load_bypass_lora_for_models],
                         ids=["patched", "bypass"])
@pytest.mark.parametrize("side", [16, 32], ids=["fewer tokens than the width", "more"])
def test_a_lora_in_the_hosts_naming_equals_merged_weights(tmp_path, file, load, side):
    loaded, size = host.load_pt_dit(file, torch.float32), (1, 4, side, side)
    layers = ("transformer_blocks.0.proxy_attn1.to_q", "transformer_blocks.1.attn3.to_out.0",
              "transformer_blocks.0.linear_1_visual", "caption_projection.linear_1")
    weights = loaded.model.diffusion_model.state_dict()
    lora = {}
    for name, prefix in zip(layers, ("diffusion_model.", "lora_unet_", "diffusion_model.", "lora_unet_")):
        out, into = weights[f"{name}.weight"].shape
        key = prefix + (name.replace(".", "_") if "_unet_" in prefix else name)
        lora |= {f"{key}.lora_up.weight": normal(out, 2), f"{key}.lora_down.weight": normal(2, into)}
    plain = sample(loaded, size=size)
    patched, _ = load(loaded, None, lora, 0.1, 0)

    def merge(sd):
        for name in layers:
            up, down = normal(sd[f"{name}.weight"].shape[0], 2), normal(2, sd[f"{name}.weight"].shape[1])
            sd[f"{name}.weight"] = sd[f"{name}.weight"] + 0.1 * up @ down
        return sd
    merged = host.load_pt_dit(tiny.write(tmp_path / "merged.safetensors", edit=merge), torch.float32)
    found = sample(patched, size=size)
    torch.testing.assert_close(found, sample(merged, size=size), rtol=0, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-3)


@pytest.mark.parametrize("width, found", [(768, "text tokens 768 wide"), (4096, "text tokens 4096 wide")])
def test_text_of_another_encoder_is_refused(loaded, width, found):
    with pytest.raises(ValueError, match=f"{found}, this model needs 24, those of T5-XXL: .*'Load CLIP'"):
        sample(loaded, prompt(6, width=width))


# Schedule and windows


def test_shift_and_sigmas_by_nodes(loaded):
    shifted = PTDiTShift.execute(loaded, 1024, 512).args[0]
    assert shifted.get_model_object("model_sampling").shift == pytest.approx(2 ** 0.5)
    assert loaded.get_model_object("model_sampling").shift == 2.0
    sigmas = ExactSigmas.execute(shifted, 20).args[0]
    torch.testing.assert_close(sigmas, BasicScheduler.execute(shifted, "simple", 20, 1.0).args[0])
    assert sigmas[0] == 1 and sigmas[-1] == 0
    torch.testing.assert_close(ExactSigmas.execute(shifted, 10, 0.5).args[0], sigmas[-11:])


def test_a_controlnet_is_refused(loaded):
    with pytest.raises(ValueError, match="conditioning: it holds a ControlNet made for other models, which PT-DiT"):
        sample(loaded, prompt(6, control=comfy.controlnet.ControlBase()))


def test_sigmas_are_exact_for_any_number_of_steps():
    for steps in (1, 7, 30):
        u = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
        torch.testing.assert_close(compute_flow_sigmas(2.0, steps).double(), 2 * u / (1 + u), rtol=1e-6, atol=1e-7)


def test_frames_of_a_video_shift_further():
    assert compute_shift(512, 512, 51) == pytest.approx(15 ** 0.5)
    with pytest.raises(ValueError, match="frames: 16 frames"):
        compute_shift(512, 512, 16)


def test_windows_are_set_on_a_clone(loaded):
    model = PTDiTWindows.execute(loaded, 2, 4, 1, 2, positions="rowcol").args[0]
    assert host.get_settings(model) == PTDiTSettings((1, 2, 4), (1, 2), "rowcol")
    assert host.get_settings(loaded) == CONFIG.settings
    assert not torch.allclose(sample(model), sample(loaded), atol=1e-4)
    assert "windows of 8," in PTDiTCost.execute(model, 256, 256).args[0]


@pytest.mark.parametrize("call", [
    lambda model: PTDiTWindows.execute(model, 8, 8, 1, 1), lambda model: PTDiTShift.execute(model, 512, 512),
    lambda model: PTDiTCost.execute(model, 512, 512)])
def test_models_of_other_families_are_refused(call):
    device = torch.device("cpu")
    other = comfy.model_patcher.ModelPatcher(torch.nn.Linear(1, 1), device, device)
    with pytest.raises(ValueError, match="model: this is a Linear, not a PT-DiT"):
        call(other)


# Text


class FakeClip:
    """Returns the tokens that it was made with."""

    def __init__(self, **tokens):
        self.tokens = tokens

    def tokenize(self, text):
        self.text = text
        return dict(self.tokens)

    def encode_from_tokens_scheduled(self, tokens):
        return tokens


def test_prompts_are_cleaned():
    dirty = "A CAT  &amp; a dog, <b>bold</b> https://x.org/y @someone \u732b #tag"
    assert text.clean(dirty) == "a cat & a dog, bold tag"


def test_long_prompts_keep_their_end():
    section = [(i, 1.0) for i in range(300)] + [(1, 1.0)]
    (found,) = text.encode(FakeClip(t5xxl=[section]), "x")["t5xxl"]
    assert len(found) == 200 and found[:199] == section[:199] and found[-1] == (1, 1.0)
    assert text.encode(FakeClip(t5xxl=[section[:200]]), "x")["t5xxl"] == [section[:200]]


def test_the_hosts_pixart_tokenizer_gives_one_end_token_for_an_empty_prompt():
    from comfy.text_encoders.pixart_t5 import PixArtTokenizer
    tokens = PixArtTokenizer().tokenize_with_weights("")["t5xxl"]
    assert [[token for token, _ in section] for section in tokens] == [[1]]


@pytest.mark.parametrize("clip, message", [(None, "clip: it is missing"),
                                           (FakeClip(l=[]), "clip: .* of l, PT-DiT reads"),
                                           (FakeClip(l=[], t5xxl=[]), "of l, t5xxl, PT-DiT reads T5-XXL alone")])
def test_other_text_encoders_are_refused(clip, message):
    with pytest.raises(ValueError, match=f"{message}.*type 'pixart'"):
        text.encode(clip, "a cat")


# VAE


@pytest.fixture(scope="module")
def vae_file(own_golden):
    return own_golden / "pt-dit" / "vae_model.safetensors"


def test_the_vae_is_one_of_the_hosts(vae_file, tmp_path):
    wrapped = {f"module.{name}": weight for name, weight in load_file(vae_file).items()}
    torch.save({"state_dict": wrapped | {"module.loss.logvar": torch.ones(1)}, "epoch": 3}, tmp_path / "vae.ckpt")
    image = torch.rand(1, 40, 56, 3)
    found = [nodes.VAEEncode().encode(load_vae(str(path)), image)[0]["samples"]
             for path in (vae_file, tmp_path / "vae.ckpt")]
    assert found[0].shape == (1, 4, 5, 7)
    torch.testing.assert_close(*found)
    (decoded,) = nodes.VAEDecode().decode(load_vae(str(vae_file)), {"samples": found[0]})
    assert decoded.shape == image.shape


@pytest.mark.parametrize("edit, message", [
    (lambda sd: {name.replace(".conv.weight", ".weight"): weight for name, weight in sd.items()},
     r"is not the VAE of PT-DiT \(no decoder\.conv_in\.conv\.weight\).*other families"),
    (lambda sd: {name: weight for name, weight in sd.items() if name != "decoder.norm_out.bias"},
     r"missing \[decoder\.norm_out\.bias\]"),
    (lambda sd: sd | {"decoder.norm_out.bias": torch.ones(3)}, r"norm_out\.bias is \(3,\), must be \(32,\)"),
    (lambda sd: sd | {"decoder.norm_out.bias": torch.full((32,), torch.inf)}, "NaN or infinite"),
])
def test_vaes_of_other_families_are_refused(vae_file, tmp_path, edit, message):
    save_file(edit(load_file(vae_file)), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=f"(?s)vae_name: .*other.safetensors.*{message}"):
        load_vae(str(tmp_path / "other.safetensors"))


def test_blocks_that_another_node_replaced_are_refused(loaded, monkeypatch):
    """As first-block caches do while the model is called."""
    network = loaded.model.diffusion_model
    monkeypatch.setitem(network._modules, "transformer_blocks", torch.nn.ModuleList([
        torch.nn.Sequential(*network.transformer_blocks)]))
    with pytest.raises(ValueError, match="model: another node put 'Sequential' in place of its 2 blocks"):
        sample(loaded)


@pytest.mark.parametrize("hook", hooks.ALL.values(), ids=hooks.ALL.keys())
def test_every_hook_of_the_host_acts(loaded, hook):
    """The stock samplers call most of them; the network calls its own wrappers."""
    assert not torch.allclose(sample(hook(loaded)), sample(loaded), atol=1e-3)
