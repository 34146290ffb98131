"""Loading the published files by names and shapes at full size, and refused files."""
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

import comfy.clip_model
import comfy.diffusers_convert
import comfy.ldm.models.autoencoder
import comfy.model_base
import comfy.ops
import comfy.sd
import comfy.utils
from mditface.mdit.face_diffuser import weights as published
from mditface.mdit.face_diffuser.subject import SubjectEncoder

UNET = dict(image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[2, 2, 2, 2],
            channel_mult=[1, 2, 4, 4], transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0], transformer_depth_middle=1,
            transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], context_dim=768, num_heads=8,
            num_head_channels=-1, use_spatial_transformer=True, use_linear_in_transformer=False, legacy=False)
VISION = dict(model_type="clip_vision_model", num_channels=3, hidden_act="quick_gelu", hidden_size=1024,
              num_attention_heads=16, num_hidden_layers=24, patch_size=14, image_size=224, projection_dim=768,
              intermediate_size=4096)
VAE = dict(double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=128, ch_mult=[1, 2, 4, 4],
           num_res_blocks=2, attn_resolutions=[], dropout=0.0)
META = dict(dtype=torch.float32, device="meta")


def read_shapes(module: torch.nn.Module) -> dict[str, tuple]:
    return {name: tuple(weight.shape) for name, weight in module.state_dict().items()}


def unet_shapes() -> dict[str, tuple]:
    network = read_shapes(comfy.model_base.UNetModel(**UNET, **META, operations=comfy.ops.disable_weight_init))
    return {name: network[own] for name, own in comfy.utils.unet_to_diffusers(UNET).items() if own in network}


def vae_shapes(names: list[str]) -> dict[str, tuple]:
    with torch.device("meta"):
        network = read_shapes(comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=VAE, embed_dim=4))
    numbered = {name: torch.full((1,), float(i)) for i, name in enumerate(names)}
    own = comfy.diffusers_convert.convert_vae_state_dict(dict(numbered))
    found = {names[int(number.flatten()[0])]: network[key] for key, number in own.items()}
    attention = {name for name in found if ".attentions." in name and name.endswith("weight")}
    return {name: shape[:2] if name in attention else shape for name, shape in found.items()}


def text_shapes() -> dict[str, tuple]:
    config = dict(num_hidden_layers=12, hidden_size=768, num_attention_heads=12, intermediate_size=3072,
                  hidden_act="quick_gelu", max_position_embeddings=77, eos_token_id=49407)
    return read_shapes(comfy.clip_model.CLIPTextModel_(config, torch.float32, "meta", comfy.ops.disable_weight_init))


@pytest.fixture(scope="module")
def tiny_file(own_golden):
    return load_file(own_golden / "face-diffuser" / "sdm_tiny.safetensors")


@pytest.fixture(scope="module")
def full(tiny_file):
    """Tensors with the published names and shapes that take no memory: one number each. No file may hold such ones."""
    names = [key.removeprefix(published.VAE) for key in tiny_file if key.startswith(published.VAE)]
    subject = SubjectEncoder(VISION, comfy.ops.disable_weight_init, **META)
    shapes = {**{published.UNET + name: shape for name, shape in unet_shapes().items()},
              **{published.TEXT + name: shape for name, shape in text_shapes().items()},
              **{published.VAE + name: shape for name, shape in vae_shapes(names).items()},
              **read_shapes(subject)}
    frozen = (published.TEXT, published.VAE)
    weights = {name: torch.full((1,), 0.01 + 1e-5 * i, dtype=torch.bfloat16 if name.startswith(frozen) else
                                torch.float32).expand(shape) for i, (name, shape) in enumerate(shapes.items())}
    ids = {"text_encoder.embeddings.position_ids": 77, "image_encoder.vision_model.embeddings.position_ids": 257}
    return {**weights, **{name: torch.arange(count)[None] for name, count in ids.items()}}


def test_the_published_file(full, tiny_file, monkeypatch):
    assert set(full) <= set(tiny_file) | {key for key in full if ".encoder.layers." in key}
    monkeypatch.setattr(published, "read_state_dict", lambda *_: full)
    loaded = published.load_face_diffuser("pytorch_model.bin", torch.float16)
    model = loaded.model.model
    assert type(model.model_config).__name__ == "SD15" and model.model_type is comfy.model_base.ModelType.EPS
    key = "transformer_blocks.0.attn2.to_k.weight"
    found = model.diffusion_model.state_dict()[f"middle_block.1.{key}"]
    assert torch.equal(found, full[f"unet.mid_block.attentions.0.{key}"].half())
    text = loaded.clip.encode_from_tokens_scheduled(loaded.clip.tokenize("a man"))[0][0]
    assert text.shape == (1, 77, 768)
    assert loaded.vae.latent_channels == 4
    network = loaded.subject.network
    assert (network.image_size, network.width, len(network.image_encoder.vision_model.encoder.layers)) == (224, 768, 24)
    assert network.image_encoder.vision_model.encoder.layers[0].self_attn.heads == 16


class Stub:
    """Stands for what a loader of the host makes."""

    def __init__(self, *args, **options):
        self.options = options

    def throw_exception_if_invalid(self):
        pass


@pytest.fixture
def stubs(monkeypatch):
    """Replace the host's loaders, which accept only full sizes."""
    for loader in ("load_diffusion_model_state_dict", "load_text_encoder_state_dicts", "VAE"):
        monkeypatch.setattr(comfy.sd, loader, Stub)


def test_the_kind_of_a_file_is_detected_from_its_keys(stubs, tiny_file, tmp_path):
    path = str(tmp_path / "any.safetensors")
    save_file(tiny_file, path)
    assert published.load_face_diffuser(path).subject.network.width == 64
    save_file({key: weight for key, weight in tiny_file.items() if not key.startswith(published.SUBJECT_PARTS)}, path)
    assert published.load_face_diffuser(path).subject is None


@pytest.mark.parametrize("part", ["model", "clip", "vae", "subject"])
def test_the_host_can_load_each_part_again(stubs, tiny_file, tmp_path, part):
    """The host does so for copies on other devices."""
    save_file(tiny_file, tmp_path / "any.safetensors")
    made = getattr(published.load_face_diffuser(str(tmp_path / "any.safetensors"), torch.float16, ["words"]), part)
    factory, arguments = getattr(made, "patcher", made).cached_patcher_init
    again = factory(*arguments, disable_dynamic=True)
    if part == "subject":
        assert again.model.state_dict().keys() == made.network.state_dict().keys()
    elif part == "vae":  # the host has no switch for it
        assert again.options["sd"].keys() == made.options["sd"].keys()
    else:
        assert again.options == {**made.options, "disable_dynamic": True}


@pytest.mark.parametrize("damage, words", [
    (lambda w: w.pop("postfuse_module.layer_norm.bias"), "missing .postfuse_module.layer_norm.bias"),
    (lambda w: w.update({"postfuse_module.mlp1.fc2.weight": torch.zeros(3, 3)}), r"\(3, 3\), must be \(64, 64\)"),
    (lambda w: w["unet.conv_in.bias"].fill_(torch.nan), "NaN or infinite numbers in unet.conv_in.bias"),
    (lambda w: w.pop("image_encoder.visual_projection.weight"), "visual_projection"),
    (lambda w: [w.pop(key) for key in list(w) if key.startswith("vae.")], "it lacks vae: it is truncated, or not"),
])
def test_damaged_files(stubs, tiny_file, tmp_path, damage, words):
    weights = {key: weight.clone() for key, weight in tiny_file.items()}
    damage(weights)
    path = tmp_path / "damaged.safetensors"
    save_file(weights, path)
    with pytest.raises(ValueError, match=f"(?s)^weights_name: '.*damaged.safetensors'.*{words}"):
        published.load_face_diffuser(str(path))


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_code_in_a_file_is_run(tmp_path):
    torch.save({"unet.conv_in.weight": torch.zeros(1), "x": Trap(tmp_path / "sprung")}, tmp_path / "trap.bin")
    with pytest.raises(ValueError, match="weights_name: .*trap.bin': it holds more than weights"):
        published.load_face_diffuser(str(tmp_path / "trap.bin"))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": {"b": torch.zeros(1)}}, {"unet.x": torch.zeros(1)}, b"no file"])
def test_files_of_something_else(content, tmp_path):
    path = tmp_path / "other.bin"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match="weights_name: '.*other.bin'"):
        published.load_face_diffuser(str(path))
