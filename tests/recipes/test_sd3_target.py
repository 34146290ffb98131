"""The small base model in SD3's layout, the patches that stand in for its VAE, an adapter on it, and their bench."""
import json
import re
import weakref

import pytest
import torch
from safetensors.torch import load_file

import comfy.sd
from bench import adapter as bench
from mditface.mdit.mditface.adapter.weights import load_adapter
from mditface.mdit.recipes import patches
from mditface.mdit.training import bases
from mditface.mdit.training.patch_vae import PatchVAE
from mditface.mdit.training.settings import read_settings
from mditface.mdit.recipes.targets.kinds import SETTINGS, TARGETS
from mditface.tests.training.tiny_targets import EVERY, fitted, loss_on_fixed_batch

SIZE = 64  # pixels: 4 x 4 tokens

pytestmark = pytest.mark.usefixtures("in_training")


class Proof:
    """The proof's commands on tiny data."""

    def __init__(self, root, folder, shards):
        self.configs, self.folder = root / "mdit" / "recipes" / "configs", folder
        patches.main([str(shards), str(folder / "patches.safetensors"), "--size", str(SIZE)])
        clip = root / "mdit" / "mditface" / "weights" / "mditface-demo.safetensors"
        self.common = [f"data={shards}", f"heldout={shards}", f"vae={folder}/patches.safetensors", f"clip=[{clip}]",
                       f"cache={folder}/cache", f"size={SIZE}", "batch=4", "ema=0", "schedule.warmup=1",
                       *(f"every.{name}={count}" for name, count in EVERY.items())]

    def changes(self, name, *changes):
        part = [f"base={self.folder}/base.safetensors"] if name == "adapter" else ["depth=2"]
        files = [f"output={self.folder}/{name}-run", f"weights={self.folder}/{name}.safetensors"]
        return [*self.common, *part, *files, *changes]

    def target(self, name, *changes):
        settings = read_settings(self.configs / f"proof-{name}.yaml", self.changes(name, *changes), SETTINGS)
        return TARGETS[settings.target](settings)

    def fit(self, name, *changes):
        return fitted(self.target(name, *changes)).target


@pytest.fixture
def proof(root, tmp_path, shards):
    return Proof(root, tmp_path, shards)


def test_patches_keep_pictures_of_few_components(tmp_path):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(20, 8, 8, 3, generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    PatchVAE.fit(pictures).save(tmp_path / "patches.safetensors")
    vae = PatchVAE(**load_file(tmp_path / "patches.safetensors"))
    latents = vae.encode(pictures)
    assert latents.shape == (20, 16, 4, 4)
    assert latents.square().mean().sqrt().item() == pytest.approx(0.65, rel=0.05)
    assert torch.allclose(vae.decode(latents), pictures, atol=1e-3)  # 12 components say all
    too_strong = vae.decode(latents * 9)
    assert (too_strong.min(), too_strong.max()) == (0, 1)


def test_text_encoders_are_let_go_when_all_is_encoded(proof, monkeypatch):
    proof.fit("base", "steps=2")
    loaded = []

    def load_clip(paths, kind):
        clip = plain(paths, kind)
        loaded.append(weakref.ref(clip))
        return clip
    plain = bases.load_clip
    monkeypatch.setattr(bases, "load_clip", load_clip)
    target = proof.target("adapter")
    assert len(loaded) == 1 and loaded[0]() is None
    assert target.samples[0]["context"].isfinite().all()


def test_base_learns(proof):
    target = proof.target("base", "steps=8")
    before = loss_on_fixed_batch(target)
    fitted(target)
    assert loss_on_fixed_batch(target) < before


def test_host_opens_the_base_as_it_was_trained(proof):
    target = proof.fit("base", "steps=2")
    weights = load_file(target.settings.weights)
    parts = "x_embedder t_embedder y_embedder context_embedder pos_embed joint_blocks final_layer".split()
    assert {re.match(r"model\.diffusion_model\.(\w+)", name)[1] for name in weights} == set(parts)
    loaded = comfy.sd.load_diffusion_model(str(target.settings.weights), model_options={"dtype": torch.float32})
    network, batch = loaded.model.diffusion_model, target.make_batch(0, 0, 1)
    assert type(loaded.model).__name__ == "SD3" and len(network.state_dict()) == len(weights)
    sigma, context, pooled = torch.full((4,), 0.5), batch["context"].float(), batch["pooled"].float()
    with torch.no_grad():
        expected = target.module.predict_velocity(batch["latent"], sigma, context, pooled)
        made = network(batch["latent"], loaded.model.model_sampling.timestep(sigma), context=context, y=pooled)
    assert torch.equal(made, expected) and expected.abs().max() > 0


def test_captions_are_hidden_from_the_base_as_the_empty_one(proof):
    target = proof.target("base", "drop_text=1")
    batch = target.make_batch(0, 0, 1)
    assert all(torch.equal(row, target.empty["context"]) for row in batch["context"])
    assert all(torch.equal(row, target.empty["pooled"]) for row in batch["pooled"])


def test_bench_compares_the_forms(proof, tmp_path, capsys):
    proof.fit("base", "steps=2")
    for name, *changes in (("adapter",), ("half", "reduction=half"), ("window", "window=1", "text_reads_mask=false")):
        proof.fit("adapter", "steps=2", f"weights={tmp_path}/{name}.safetensors", f"output={tmp_path}/{name}-run",
                  *changes)
    assert load_adapter(str(tmp_path / "window.safetensors")).config.window == 1
    capsys.readouterr()
    bench.main([*proof.changes("adapter"), "--config", str(proof.configs / "proof-adapter.yaml"), "--count", "2",
                "--steps", "1", "--half", str(tmp_path / "half.safetensors"), "--window",
                str(tmp_path / "window.safetensors"), "--sheet", str(tmp_path / "sheet.jpg")])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    forms = result["forms"]
    assert list(forms) == [bench.BASE, bench.EXACT, "merge", "half", "window", bench.TRUE, bench.DECODED]
    assert forms[bench.EXACT]["difference"] == 0 and forms[bench.BASE]["difference"] == pytest.approx(1)
    assert forms[bench.EXACT]["keys"] == 1 and forms["half"]["keys"] == 0.25
    assert forms["window"]["keys"] == pytest.approx((10 / 16) ** 2)  # 2, 3, 3, 2 of 4 along an axis
    assert all(0 <= row[key] <= 1 for row in forms.values() for key in ("pixel_accuracy", "mean_iou"))
    assert (tmp_path / "sheet.jpg").is_file()


def test_bench_names_the_file_that_is_missing(proof, capsys):
    with pytest.raises(SystemExit):
        bench.main([*proof.changes("adapter"), "--config", str(proof.configs / "proof-adapter.yaml")])
    assert "no model file at" in capsys.readouterr().err
