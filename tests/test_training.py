"""Training of the bundled model and of its judge, on a tiny scale."""
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import comfy.model_management
from mditface.mdit.labelmap import CLASSES, PALETTE
from mditface.mdit.mditface.config import MDiTConfig
from mditface.mdit.mditface.text import PAD, UNKNOWN
from mditface.mdit.parsing import FaceParser, load_parser, score
from mditface.mdit.training import judge
from mditface.mdit.training.colors import ColorRule
from mditface.mdit.training.data import HIDDEN, SIDES, Faces, LabelNoise, mirror, swap_sides
from mditface.mdit.training.render.caption import VOCABULARY, Caption
from mditface.mdit.training.render.look import sample_look
from mditface.mdit.training.sampling import sample
from mditface.mdit.training.train import Demo, Length, Trainer, rate, velocity_loss
from mditface.mdit.training.words import SYNONYMS, CaptionWriter, pretrain, text_config

SIDE = 32
SETTINGS = {
    "seed": 0, "batch": 8, "text_steps": 2, "muon_lr": 0.01, "adam_lr": 0.0015, "text_lr": 0.0005, "warmup": 1,
    "decay": 0.4, "ema": 0.998, "drop_text": 0.1, "drop_mask": 0.1,
    "model": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "in_channels": 3, "text_dim": 32, "pooled_dim": 32,
              "mlp_ratio": (2, 1, 1), "mask_cells": 4, "prediction": "clean", "rope_theta": 100.0},
}


@pytest.fixture(autouse=True)
def in_training(monkeypatch):
    monkeypatch.setattr(comfy.model_management, "in_training", True)


@pytest.fixture
def shards(tmp_path):
    """A shard of pictures that show their label map's colours."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 19, (16, 4, 4), dtype=np.uint8).repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
    looks = [sample_look(rng) for _ in labels]
    np.savez(tmp_path / "00000.npz", image=np.array(PALETTE, np.uint8)[labels], label=labels,
             caption=[Caption.short(look) for look in looks], attributes=[json.dumps(look) for look in looks])
    return tmp_path


@pytest.fixture
def trainer(shards, tmp_path):
    return Trainer(SETTINGS, Faces(shards), tmp_path)


def loss_on_fixed_batch(trainer, batch):
    with torch.no_grad():
        return velocity_loss(trainer.demo, *batch, torch.Generator().manual_seed(1)).item()


def test_a_few_steps_lower_the_loss(trainer):
    batch = trainer.batch()
    before = loss_on_fixed_batch(trainer, batch)
    for _ in range(5):
        trainer.advance(0.0)
    assert loss_on_fixed_batch(trainer, batch) < 0.9 * before


def test_every_parameter_of_the_image_model_learns(trainer):
    for _ in range(3):
        trainer.advance(0.0)
    velocity_loss(trainer.demo, *trainer.batch(), trainer.rng).backward()
    last = f"blocks.{len(trainer.demo.model.blocks) - 1}."
    still = {name for name, w in trainer.demo.model.named_parameters() if w.grad is None or not w.grad.any()}
    unread = {last + stream + layer for stream in ("txt.", "msk.") for layer in (
        "proj.weight", "proj.bias", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "q_norm.weight")}
    assert still == unread  # nobody reads the tokens of text and mask after the last block


def test_local_start_reads_the_own_place(trainer):
    block, grid = trainer.demo.model.blocks[0], 4
    axis = torch.arange(float(grid))
    _, pe = trainer.demo.model.position(torch.cartesian_prod(axis, axis), {})
    zero = torch.zeros(1, 32)
    q, _, _ = block.img.attention_inputs(torch.zeros(1, grid * grid, 32), block.img.modulation(zero), pe)
    _, k, _ = block.msk.attention_inputs(torch.zeros(1, grid * grid, 32), block.msk.modulation(zero), pe)
    logits = (q @ k.transpose(-1, -2))[0]  # (heads, N, M)
    assert (logits[0].argmax(-1) == torch.arange(grid * grid)).all()
    assert not logits[1].any()


def test_saved_file_loads(trainer, tmp_path):
    path = tmp_path / "weights" / "demo.safetensors"
    trainer.demo.save(path)
    loaded = Demo.load(path)
    assert loaded.model.config == MDiTConfig(**SETTINGS["model"], palette=PALETTE)
    assert loaded.text_config == trainer.demo.text_config
    for name, w in trainer.demo.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], w.half().float()), name


def test_checkpoint_resumes(trainer, shards, tmp_path):
    for _ in range(2):
        trainer.advance(0.0)
    trainer.save()
    again = Trainer(SETTINGS, Faces(shards), tmp_path)
    assert again.resume() and again.step == 2
    for a, b in zip(trainer.ema.parameters(), again.ema.parameters()):
        assert torch.equal(a, b)


def test_samples_have_the_maps_size(trainer):
    faces = trainer.faces
    images = sample(trainer.ema.model, trainer.ema.text_encoder, faces.labels[:2],
                    trainer.writer.encode(faces.captions[:2]), seed=0, steps=2)
    assert images.shape == (2, SIDE, SIDE, 3) and images.dtype == torch.uint8


def test_pretraining_returns_a_score_for_each_attribute():
    demo = Demo(MDiTConfig(**SETTINGS["model"]), text_config(32))
    before = demo.text_encoder.embed.weight.clone()
    scores = pretrain(demo.text_encoder, CaptionWriter(demo.text_config, 0), steps=20, batch=4)
    assert {"hair_color", "clothes_color", "background_color"} <= set(scores)
    assert not torch.equal(before, demo.text_encoder.embed.weight)


def test_rates_rise_and_fall():
    assert rate(0, 0.0, 100, 0.4) == 0.01
    assert rate(500, 0.5, 100, 0.4) == 1.0
    assert rate(500, 0.8, 100, 0.4) == pytest.approx(0.5)
    assert Length(None, 2.0).progress(7, 60.0) == 0.5
    assert Length(10, None).progress(5, 1e9) == 0.5


def test_captions_are_known_words():
    writer = CaptionWriter(text_config(32), seed=0)
    looks = [sample_look(writer.rng) for _ in range(50)]
    ids = writer(looks)
    assert (ids != UNKNOWN).all() and (ids[:, 0] != PAD).all()
    assert set(SYNONYMS.values()) <= set(VOCABULARY)
    assert torch.equal(writer.encode(["blonde lady"]), writer.encode(["blond woman"]))


def test_sides():
    labels = torch.tensor([[[left, right] for left, right in SIDES]], dtype=torch.uint8)
    assert torch.equal(swap_sides(labels), labels.flip(-1))
    images = torch.arange(6.0).view(1, 1, 3, 2)
    flipped, mirrored = mirror(images, labels, torch.tensor([True]))
    assert torch.equal(flipped, images.flip(-1))
    assert torch.equal(mirrored, labels)  # a face whose sides are mirrored and renamed looks the same


def test_label_noise_hides_whole_classes():
    labels = torch.randint(0, 19, (4, 64, 64), dtype=torch.uint8)
    out = LabelNoise(swap=0.0, incomplete=1.0, missing=0.5)(labels, torch.Generator().manual_seed(0))
    for before, after in zip(labels, out):
        for c in range(19):
            assert (after[before == c] == c).all() or (after[before == c] == HIDDEN).all()
    assert (out == HIDDEN).any() and (out != HIDDEN).any()


def test_folder_without_shards(tmp_path):
    (tmp_path / "00000.part.npz").touch()
    with pytest.raises(FileNotFoundError, match="mdit.training.render"):
        Faces(tmp_path)


def test_parser_reads_any_size():
    parser = FaceParser().eval()
    assert sum(w.numel() for w in parser.parameters()) <= 1_200_000
    parsed = parser.parse(np.zeros((70, 51, 3), np.uint8))
    assert parsed.shape == (70, 51) and parsed.dtype == np.uint8


def test_parser_names_bad_input():
    parser = FaceParser().eval()
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        parser.parse(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="nearest"):
        parser.agreement(np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4), np.uint8))
    with pytest.raises(FileNotFoundError, match="mdit.training.judge"):
        load_parser("nowhere.safetensors")


def test_score():
    asked = np.array([[0, 0, 1, 1]])
    assert score(asked, asked) == {"pixel_accuracy": 1.0, "mean_iou": 1.0}
    assert score(np.array([[0, 0, 0, 5]]), asked) == {"pixel_accuracy": 0.5, "mean_iou": pytest.approx(1 / 3)}


def test_judge_trains_and_its_file_loads(shards, tmp_path):
    path = tmp_path / "parser.safetensors"
    judge.train(Faces(shards), path, minutes=0.02, seed=0)
    assert load_parser(path).parse(np.zeros((16, 16, 3), np.uint8)).shape == (16, 16)


def test_rare_classes_weigh_more():
    labels = torch.zeros(1, 100, 100, dtype=torch.uint8)
    labels[0, 0, :10] = CLASSES.index("neck_l")
    weights = judge.class_weights(labels)
    assert weights[CLASSES.index("neck_l")] > 2 * weights[0]


def test_color_rule_names_colors():
    rng = np.random.default_rng(0)
    tones = {"red": (200, 30, 35), "blue": (45, 85, 195), "gray": (132, 134, 138)}
    looks = [{"hair_color": name} for name in tones for _ in range(12)]
    labels = np.full((len(looks), 16, 16), CLASSES.index("hair"), np.uint8)
    images = np.stack([rng.normal(tones[look["hair_color"]], 12, (16, 16, 3)).clip(0, 255) for look in looks])
    rule = ColorRule("hair_color", images, labels, looks)
    assert rule.accuracy(images, labels, looks) == {"count": 36, "accuracy": 1.0}
    assert rule(images[0], np.zeros_like(labels[0])) is None


def test_parser_needs_no_host(root):
    code = "import sys, mdit.parsing; sys.exit(any(name.split('.')[0] == 'comfy' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
