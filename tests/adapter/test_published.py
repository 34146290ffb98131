"""FLUX.2, Chroma, Qwen-Image and Z-Image in their published layouts, whose sizes the host takes for granted."""
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

import comfy.latent_formats
import comfy.ldm.chroma.model
import comfy.ldm.flux.model
import comfy.ldm.lumina.model
import comfy.ldm.qwen_image.model
import comfy.model_detection
import comfy.ops
import comfy.sd
import comfy.supported_models
from mditface.mdit.labelmap import CLASSES
from mditface.mdit.mditface.adapter.config import AdapterConfig
from mditface.mdit.mditface.adapter.families import chroma, find_family, flux2, qwen, zimage
from mditface.mdit.mditface.adapter.reader import apply_adapter
from mditface.mdit.mditface.mask import MaskInput
from mditface.tests.adapter import bases
from mditface.tests.mditface import runs, tiny
from mditface.tests.mditface.runs import OFF, TOLERANCE, masked

run = partial(runs.run, latent=(1, 128, 4, 6))
PUBLISHED = bases.FLUX2 | dict(in_channels=128, out_channels=128, patch_size=1)


class VAE:
    """Encodes pictures (b, H, W, 3) to (b, 128, H / 16, W / 16) without weights: averages, projected."""

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        cells = torch.nn.functional.avg_pool2d(pictures[..., :3].movedim(-1, 1), 16)  # (b, 3, h, w)
        projection = torch.randn(128, 3, generator=torch.Generator().manual_seed(0))
        return torch.einsum("oc,bchw->bohw", projection, cells * 2 - 1)

    def spacial_compression_encode(self) -> int:
        return 16


@pytest.fixture(scope="module", params=[False, True], ids=["klein", "dev"])
def model(request, tmp_path_factory):
    """FLUX.2 from a file in the published layout, without and with guidance."""
    options = PUBLISHED | dict(guidance_embed=request.param)
    network = comfy.ldm.flux.model.Flux(**options, device="meta", dtype=torch.float32,
                                        operations=comfy.ops.disable_weight_init)
    path = tmp_path_factory.mktemp("published") / "flux2.safetensors"
    weights = bases.random_weights(network)
    save_file({name.replace("_norm.weight", "_norm.scale"): weight for name, weight in weights.items()}, path)
    return comfy.sd.load_diffusion_model(str(path))


def test_flux2_as_published(model, texts, tmp_path):
    assert find_family(model.model.diffusion_model) is flux2.FAMILY
    assert isinstance(model.model.latent_format, comfy.latent_formats.Flux2)
    config = AdapterConfig("flux2", 256, (2, 3), rank=2, alpha=3.0)
    adapter = bases.write(tmp_path / "own.safetensors", bases.terms("flux2", config), config)
    reading = apply_adapter(model, adapter)
    positive = masked(texts[0], MaskInput(tiny.labels(), torch.ones(len(CLASSES)), vae=VAE()))
    out, report = run(reading, positive, texts[1])
    assert report.bytes == 2 * 5 * 24 * 256 * 4  # keys and values of 5 blocks, a token for each cell of 16 pixels
    torch.testing.assert_close(out, run(reading, positive, texts[1], OFF)[0], **TOLERANCE)
    assert not torch.allclose(out, run(model, *texts)[0], atol=1e-3)


def test_chroma_as_published():
    """Its modulation counts 344 parts: those of 38 single blocks, 19 double ones for image and text, and the end."""
    published = dict(hidden_size=3072, num_heads=24, depth=19, depth_single_blocks=38, out_dim=3072, hidden_dim=5120)
    network = comfy.ldm.chroma.model.Chroma(**bases.CHROMA | published, device="meta",
                                            operations=comfy.ops.disable_weight_init)
    assert find_family(network) is chroma.FAMILY
    assert chroma.FAMILY.measure(network) == (3072, (19, 38))
    assert 38 * 3 + 19 * 6 * 2 + 2 == chroma.MODULATIONS


def detected(network: torch.nn.Module, kind: type):
    """A network of the sizes that the host reads from the keys of a file, and the class of its model."""
    config = comfy.model_detection.model_config_from_unet(network.state_dict(), "")
    assert type(config) is kind
    options = {name: value for name, value in config.unet_config.items() if name != "image_model"}
    return type(network)(**options, device="meta", operations=comfy.ops.disable_weight_init)


def check_layers(family, network: torch.nn.Module, width: int):
    """Each layer of block 0 that may have a term has the widths that the family says."""
    for blocks in family.blocks.values():
        for name, layer in blocks.layers.items():
            module = network.get_submodule(f"{blocks.path.format(0)}.{layer.path}")
            assert (module.in_features, module.out_features) == (layer.n_in * width, layer.n_out[0] * width), name


@pytest.mark.parametrize("edit", [False, True])
def test_qwen_image_as_published(edit):
    """Of 2511, too, whose references see time 0."""
    network = comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(
        num_layers=2, default_ref_method="index_timestep_zero" if edit else "index", device="meta",
        operations=comfy.ops.disable_weight_init)
    network = detected(network, comfy.supported_models.QwenImage)
    assert network.default_ref_method == ("index_timestep_zero" if edit else "index")
    assert find_family(network) is qwen.FAMILY
    assert qwen.FAMILY.measure(network) == (3072, (2, 0))
    qwen.FAMILY.check(network)
    check_layers(qwen.FAMILY, network, 3072)


def test_z_image_as_published():
    sizes = dict(dim=3840, n_heads=30, n_kv_heads=30, axes_dims=[32, 48, 48], pad_tokens_multiple=32, cap_feat_dim=2560)
    network = comfy.ldm.lumina.model.NextDiT(**bases.ZIMAGE | sizes, device="meta",
                                             operations=comfy.ops.disable_weight_init)
    network = detected(network, comfy.supported_models.ZImage)
    assert find_family(network) is zimage.FAMILY
    assert zimage.FAMILY.measure(network) == (3840, (0, 3))
    assert network.pad_tokens_multiple == 32 and network.rope_embedder.theta == 256
    check_layers(zimage.FAMILY, network, 3840)


def test_label_maps_through_a_vae_of_videos(cases, texts):
    """Each is a video of one frame: a batch would be one video."""
    case, latent = cases["qwen-image"], (2, 16, 8, 8)
    labels = MaskInput(tiny.labels(2), torch.ones(len(CLASSES)), vae=bases.FrameVAE())
    out, _ = runs.run(case.model, masked(texts[0], labels), texts[1], latent=latent)
    expected, _ = runs.run(case.model, masked(texts[0], bases.mask(batch=2)), texts[1], latent=latent)
    torch.testing.assert_close(out, expected, **TOLERANCE)


def test_a_mask_lies_on_one_image(cases, texts):
    case = cases["qwen-image"]
    with pytest.raises(ValueError, match="latent_image: it holds 3 frames, but a mask lies on one image"):
        runs.run(case.model, masked(texts[0], bases.mask()), texts[1], latent=(1, 16, 3, 8, 8))
