"""What the host's nodes save of a stand-alone model loads again, or is refused before a file is written."""
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import comfy.sd
import comfy.utils
from comfy.taesd.taesd import TAESD
from comfy_extras import nodes_model_merging as merging
from mditface.mdit.mditface import host
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import TOLERANCE, masked, run, with_lora
from mditface.tests.shared.saving import save

OTHER = dict(exemplar_blocks=(1,), text_reads_mask=False, rope_theta=500.0)  # not the defaults


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of one configuration and other weights."""
    folder = tmp_path_factory.mktemp("models")
    return [host.load_mdit(tiny.write(folder / f"{seed}.safetensors", tiny.config(**OTHER), seed)) for seed in (0, 5)]


def sample(loaded, clip=None) -> torch.Tensor:
    clip = clip or loaded.clip
    texts = tiny.conditioning(clip, "young woman, (blonde:1.2) hair"), tiny.conditioning(clip, "")
    return run(loaded.model, masked(texts[0], tiny.mask()), texts[1])[0]


MERGES = {
    "as it is": lambda one, other: one,
    "simple": lambda one, other: merging.ModelMergeSimple().merge(one, other, 0.3)[0],
    "blocks": lambda one, other: merging.ModelMergeBlocks().merge(one, other, input=0.2, middle=0.5, out=0.7)[0],
    "add": lambda one, other: merging.ModelAdd().merge(one, other)[0],
    "subtract": lambda one, other: merging.ModelSubtract().merge(one, other, 0.5)[0],
    "lora": lambda one, other: with_lora(one, 0.8),
}


@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES.keys())
@pytest.mark.parametrize("kind", ["CheckpointSave", "ModelSave"])
def test_a_saved_model_is_the_same_model(models, tmp_path, merge, kind):
    one, other = models
    model = merge(one.model, other.model)
    parts = dict(clip=one.clip, vae=one.vae) if kind == "CheckpointSave" else {}
    again = host.load_mdit(save(kind, tmp_path, model=model, **parts))
    assert again.model.model.diffusion_model.config == tiny.config(**OTHER)
    assert (again.clip is None) == (kind == "ModelSave")
    expected = sample(one._replace(model=model))
    torch.testing.assert_close(sample(again, again.clip or one.clip), expected, **TOLERANCE)
    image = torch.rand(1, 32, 32, 3)
    torch.testing.assert_close(again.vae.decode(again.vae.encode(image)), image)


def test_saving_twice_changes_nothing(models, tmp_path):
    first = save("CheckpointSave", tmp_path / "first", **models[0]._asdict())
    second = load_file(save("CheckpointSave", tmp_path / "second", **host.load_mdit(first)._asdict()))
    for name, weight in load_file(first).items():
        assert torch.equal(second.pop(name), weight), name
    assert not second


def test_merged_and_saved_text_encoders_load_again(models, tmp_path):
    one, other = models
    (clip,) = merging.CLIPMergeSimple().merge(one.clip, other.clip, 0.4)
    clip.add_patches({"norm.weight": ("diff", (torch.ones(tiny.TEXT.width),))})
    again = host.load_mdit(save("CLIPSave", tmp_path, clip=clip))
    assert (again.model, again.vae) == (None, None)
    expected = tiny.conditioning(clip, "young woman, (blonde:1.2) hair")[0]
    found = tiny.conditioning(again.clip, "young woman, (blonde:1.2) hair")[0]
    torch.testing.assert_close(found[0], expected[0], **TOLERANCE)
    torch.testing.assert_close(found[1]["pooled_output"], expected[1]["pooled_output"], **TOLERANCE)


def test_a_vae_in_the_file_is_saved_with_it_and_alone(tmp_path):
    cfg = tiny.config(in_channels=4, latent_format="sd15")
    vae = {f"vae.{name}": weight for name, weight in tiny.random_weights(TAESD(latent_channels=4)).items()}
    loaded = host.load_mdit(tiny.write(tmp_path / "latent.safetensors", cfg, edit=lambda weights: weights | vae))
    image = torch.rand(1, 32, 32, 3)
    again = host.load_mdit(save("CheckpointSave", tmp_path / "all", **loaded._asdict())).vae
    alone = comfy.sd.VAE(sd=comfy.utils.load_torch_file(save("VAESave", tmp_path, vae=loaded.vae)))
    for found in (again, alone):
        assert torch.equal(found.encode(image), loaded.vae.encode(image))


class ForeignText:
    """A text encoder that no MDiT file can hold."""

    def __init__(self, clip):
        self.load_model = clip.load_model

    def state_dict_for_saving(self):
        return {"clip_l.transformer.weight": torch.ones(2)}


@pytest.mark.parametrize("inputs, message", [
    (lambda loaded: dict(clip=ForeignText(loaded.clip)), "clip: it is not the text encoder of an MDiT model"),
    (lambda loaded: dict(clip_vision=loaded.vae), "clip_vision: an MDiT file holds none"),
])
def test_what_cannot_be_saved_is_refused_before_it_is_written(models, tmp_path, inputs, message):
    with pytest.raises(ValueError, match=message):
        merging.save_checkpoint(models[0].model, **inputs(models[0]), filename_prefix="saved", output_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_stored_header_that_was_converted_is_named(models, tmp_path):
    path = save("ModelSave", tmp_path, model=models[0].model)
    save_file({name: weight.half() for name, weight in load_file(path).items()}, path)
    with pytest.raises(ValueError, match=r"mdit\.\w+ is stored as torch\.float16.*another tool converted it"):
        host.load_mdit(path)


def test_words_of_other_scripts_survive(models, tmp_path):
    russian = "\u0436\u0435\u043d\u0449\u0438\u043d\u0430"
    header = json.loads(tiny.TEXT.to_metadata()["mdit.text"]) | {"synonyms": {"femme": "woman", russian: "woman"}}
    path = str(tmp_path / "scripts.safetensors")
    source = tiny.write(tmp_path / "source.safetensors")
    text = {"mdit.text": json.dumps(header, ensure_ascii=False)}
    save_file(load_file(source), path, tiny.CONFIG.to_metadata() | text)
    loaded = host.load_mdit(path)
    again = host.load_mdit(save("CheckpointSave", tmp_path / "again", **loaded._asdict()))
    assert again.clip.tokenizer.config == loaded.clip.tokenizer.config
