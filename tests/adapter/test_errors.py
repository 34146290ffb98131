"""What a user reads when an adapter, its file, its model or its mask is wrong: which input, and what to do."""
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import comfy.ops
from comfy.ldm.flux.model import Flux
from comfy.ldm.lumina.model import NextDiT, NextDiTPixelSpace
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from mditface.mdit.mditface import host
from mditface.mdit.mditface.adapter.reader import apply_adapter
from mditface.mdit.mditface.adapter.config import METADATA_KEY
from mditface.mdit.mditface.adapter.weights import load_adapter
from mditface.mdit.mditface.mask import MaskInput
from mditface.mdit.mditface.sample import require_mdit
from mditface.nodes.adapter import ApplyAdapter, LoadAdapter
from mditface.tests.adapter import bases
from mditface.tests.mditface import runs, tiny


@pytest.fixture
def kernel():
    """The attention function that the host chooses itself."""


@pytest.fixture(scope="module")
def flux():
    return bases.load(bases.published("flux"))


@pytest.fixture(scope="module")
def sd3():
    return bases.load(bases.published("sd3"))


@pytest.fixture
def adapter(tmp_path):
    """Makes an adapter for a family, with changes of its header."""
    def make(family, **changes):
        config = bases.config(family, **changes)
        return bases.write(tmp_path / f"{family}.safetensors", bases.terms(family, config), config)
    return make


def refuses(error, parts, function, *args, **kwargs):
    with pytest.raises(error) as caught:
        function(*args, **kwargs)
    for part in parts:
        assert part in str(caught.value), caught.value


# Files


def truncated(path, weights, header):
    save_file(weights, path, header)
    path.write_bytes(path.read_bytes()[:-1000])


def a_web_page(path, weights, header):
    path.write_bytes(b"<html>404 Not Found</html>" * 10)


def a_pickle(path, weights, header):
    torch.save(weights, path)


def with_nan(path, weights, header):
    weights["double.1.proj.up"][0, 0] = float("nan")
    save_file(weights, path, header)


def without_header(path, weights, header):
    save_file(weights, path)


def header(path, weights, header, **changes):
    save_file(weights, path, {METADATA_KEY: json.dumps(json.loads(header[METADATA_KEY]) | changes)})


def unreadable_header(path, weights, own):
    save_file(weights, path, {METADATA_KEY: "{"})


def unknown_field(path, weights, own):
    header(path, weights, own, windows=3)


def a_newer_version(path, weights, own):
    header(path, weights, own, version=2, windows=3)


def unknown_family(path, weights, own):
    header(path, weights, own, family="sdxl")


def fewer_blocks(path, weights, own):
    header(path, weights, own, depth=[2, 1])


def another_width(path, weights, own):
    header(path, weights, own, width=320)


def no_layers(path, weights, own):
    save_file({}, path, own)


def renamed(path, weights, own):
    save_file({key.replace("proj", "out"): weight for key, weight in weights.items()}, path, own)


def a_layer_of_the_other_kind(path, weights, own):
    moved = {key.replace("double", "single"): weight.clone() for key, weight in weights.items() if "proj" in key}
    save_file(weights | moved, path, own)


def half_a_layer(path, weights, own):
    del weights["single.2.linear2.up"]
    save_file(weights, path, own)


def ordinary_lora(path, weights, own):
    save_file({f"transformer.transformer_blocks.0.attn.to_q.lora_{half}.weight": torch.zeros(4, 4) for half in "AB"},
              path)


def unknown_weights(path, weights, own):
    save_file(bases.published("flux"), path)


def easycontrol_without_a_layer(path, weights, own):
    kept = {key: weight for key, weight in bases.easycontrol().items() if "blocks.1.attn.processor.k" not in key}
    save_file(kept, path)


def easycontrol_with_two_conditions(path, weights, own):
    published = bases.easycontrol()
    save_file(published | {key.replace("loras.0", "loras.1"): weight.clone() for key, weight in published.items()},
              path)


def easycontrol_misshapen(path, weights, own):
    save_file({key: weight.flatten() for key, weight in bases.easycontrol().items()}, path)


FILES = {
    truncated: ("cannot be read as a safetensors file", "truncated", "download it again"),
    a_web_page: ("cannot be read as a safetensors file", "download it again"),
    a_pickle: ("cannot be read as a safetensors file", "download it again"),
    with_nan: ("NaN or infinite numbers in double.1.proj.up", "download it again"),
    without_header: ("no 'mdit.adapter' in its header", "use the original file"),
    unreadable_header: ("'mdit.adapter' header is damaged", "use the original file"),
    unknown_field: ("windows", "use the original file"),
    a_newer_version: ("version 2 of the adapter format, this pack reads version 1", "update the pack"),
    unknown_family: ("family is 'sdxl', must be one of sd3, flux, flux2, chroma, qwen-image, z-image",
                     "use the original file"),
    fewer_blocks: ("the layer single.1.", "outside the depth (2, 1)", "use the original file"),
    another_width: ("(2, 256)", "width 320", "download it again"),
    no_layers: ("holds no weights", "take the original file"),
    renamed: ("unknown key double.0.out", "use the original file"),
    a_layer_of_the_other_kind: ("unknown key single.0.proj", "use the original file"),
    half_a_layer: ("single.2.linear2 has no 'up' half", "download it again"),
    ordinary_lora: ("lacks terms for", "Load an ordinary LoRA with 'Load LoRA'"),
    unknown_weights: ("neither an MDiTFace adapter", "EasyControl"),
    easycontrol_without_a_layer: ("double.1.qkv_k", "single.1.linear1_k", "download it again"),
    easycontrol_with_two_conditions: ("loras.1", "only adapters with a single condition"),
    easycontrol_misshapen: ("lacks the 'down' half", "download it again"),
}


@pytest.mark.parametrize("damage", FILES, ids=lambda damage: damage.__name__)
def test_files(damage, tmp_path):
    path, config = tmp_path / "adapter.safetensors", bases.config("flux")
    damage(path, bases.terms("flux", config), config.to_metadata())
    refuses(ValueError, ("adapter_name: ", str(path), *FILES[damage]), load_adapter, str(path))


def test_a_file_that_is_not_there():
    said = "adapter_name: there is no file 'gone.safetensors'", "'mdit_adapters' and 'loras'", "Put the file there"
    refuses(FileNotFoundError, said, LoadAdapter.execute, "gone.safetensors")


# Models


def test_an_adapter_for_another_width(flux, adapter):
    refuses(ValueError, ("adapter: ", "width 128 and 2 + 3 blocks", "width 256 and 2 + 3 blocks", "load an adapter"),
            ApplyAdapter.execute, flux, adapter("flux", width=128))


def test_an_adapter_for_another_depth(sd3, flux, adapter):
    refuses(ValueError, ("adapter: ", "width 192 and 24 blocks", "width 192 and 3 blocks", "load an adapter"),
            apply_adapter, sd3, adapter("sd3", depth=(24, 0)))
    refuses(ValueError, ("2 + 4 blocks", "2 + 3 blocks", "belongs to FLUX.1-dev"),
            apply_adapter, flux, adapter("flux", depth=(2, 4), base_hint="FLUX.1-dev"))


def test_an_adapter_for_another_family(sd3, flux, adapter):
    refuses(ValueError, ("adapter: ", "made for family sd3, but the model has family flux", "made for this model"),
            apply_adapter, flux, adapter("sd3"))
    refuses(ValueError, ("made for family flux, but the model has family sd3",), apply_adapter, sd3, adapter("flux"))


def test_a_model_that_no_adapter_serves(adapter, tmp_path):
    standalone = host.load_mdit(tiny.write(tmp_path / "tiny.safetensors")).model
    families = ("SD3, SD3.5 (family sd3), FLUX.1 (family flux), FLUX.2 (family flux2), Chroma (family chroma), "
                "Qwen-Image (family qwen-image) and Z-Image (family z-image)")
    refuses(ValueError, ("model: a MDiTBaseModel", f"Load a model of {families}"),
            apply_adapter, standalone, adapter("flux"))


def test_a_flux_whose_input_holds_more_than_the_latent(adapter):
    fill = Flux(**bases.FLUX | {"in_channels": 96}, device="meta", operations=comfy.ops.disable_weight_init)
    patcher = SimpleNamespace(model=SimpleNamespace(diffusion_model=fill))
    refuses(ValueError, ("model: ", "384 features", "the output 64", "load FLUX.1-dev"),
            apply_adapter, patcher, adapter("flux"))


def test_qwen_image_layered(adapter):
    layered = QwenImageTransformer2DModel(**bases.QWEN, use_additional_t_cond=True, device="meta",
                                          operations=comfy.ops.disable_weight_init)
    patcher = SimpleNamespace(model=SimpleNamespace(diffusion_model=layered))
    refuses(ValueError, ("model: Qwen-Image-Layered", "load Qwen-Image or Qwen-Image-Edit"),
            apply_adapter, patcher, adapter("qwen-image"))


@pytest.mark.parametrize("kind, changes", [
    (NextDiT, {"z_image_modulation": False}), (NextDiTPixelSpace, {"decoder_hidden_size": 8})],
    ids=["Lumina 2", "in pixels"])
def test_other_models_of_z_images_class(adapter, kind, changes):
    network = kind(**bases.ZIMAGE | changes, device="meta", operations=comfy.ops.disable_weight_init)
    patcher = SimpleNamespace(model=SimpleNamespace(diffusion_model=network))
    refuses(ValueError, ("model: a SimpleNamespace cannot read masks", "Z-Image (family z-image)"),
            apply_adapter, patcher, adapter("z-image"))


def test_an_adapter_applied_twice(flux, adapter):
    one = adapter("flux")
    refuses(ValueError, ("adapter: the model already has this adapter", "set 'weight'"),
            apply_adapter, apply_adapter(flux, one), one, 0.5)


def test_a_sampler_without_an_adapter(flux):
    refuses(ValueError, ("model: ", "Apply Adapter (MDiT)"), require_mdit, flux)


# Masks


class OtherVAE(bases.AveragingVAE):
    """A VAE with latents of another number of channels, or of another size."""

    def __init__(self, channels=16, cells=8):
        self.channels, self.cells = channels, cells

    def encode(self, pictures):
        return super().encode(pictures[:, ::self.cells // 8, ::self.cells // 8])[:, :self.channels]


def sample_with(vae, base, adapter):
    mask = MaskInput(tiny.labels(), torch.ones(19), vae=vae)
    bases.run(apply_adapter(base, adapter), runs.masked(bases.text(0), mask), bases.text(1))


@pytest.mark.parametrize("vae, made", [(OtherVAE(channels=4), "(4, 8, 8)"), (OtherVAE(cells=16), "(16, 4, 4)")],
                         ids=["channels", "size"])
def test_a_mask_encoded_with_another_vae(sd3, adapter, vae, made):
    found = ("vae: the one at 'Label Map to Mask (MDiT)'", made, "64 x 64 pixels", "works on (16, 8, 8)",
             "connect the VAE that belongs to the model")
    refuses(ValueError, found, sample_with, vae, sd3, adapter("sd3"))


def test_a_mask_without_a_vae(flux, adapter):
    refuses(ValueError, ("connect the model's VAE to the 'vae' input",), sample_with, None, flux, adapter("flux"))


def test_the_right_vae_is_taken(sd3, adapter):
    sample_with(bases.VAE, sd3, adapter("sd3"))


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_what_does_not_go_with_windows(request, adapter, family):
    base = request.getfixturevalue(family)
    windowed = adapter(family, window=1, text_reads_mask=False)
    refuses(ValueError, ("condition_size: this adapter reads the mask in windows (window 1)", "set it to 0"),
            ApplyAdapter.execute, base, windowed, 1.0, 512)
    model = ApplyAdapter.execute(base, windowed, 1.0, 0)[0]
    for reduction in ("half", "half, merged"):
        refuses(ValueError, (f"token_reduction: '{reduction}' does not fit", "choose 'off' or 'merge'"), bases.run,
                model, runs.masked(bases.text(0), bases.mask(reduction=reduction)), bases.text(1))
    bases.run(model, runs.masked(bases.text(0), bases.mask(reduction="merge")), bases.text(1))


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_every_condition_size_of_the_node_samples(request, adapter, family):
    base, plain = request.getfixturevalue(family), adapter(family)
    outs = [bases.run(ApplyAdapter.execute(base, plain, 1.0, size)[0], runs.masked(bases.text(0), bases.mask()),
                      bases.text(1))[0] for size in (0, 16, 48, 128)]
    assert all(out.isfinite().all() for out in outs)
    assert not any(torch.allclose(outs[0], out, atol=1e-4) for out in outs[1:])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_sound_file_is_read(tmp_path, prefix):
    path, config = tmp_path / "sound.safetensors", bases.config("flux")
    terms = {prefix + name: weight for name, weight in bases.terms("flux", config).items()}
    save_file(terms, path, config.to_metadata())
    assert 2 * len(load_adapter(str(path)).terms) == len(load_file(path))
