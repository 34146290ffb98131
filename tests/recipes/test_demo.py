"""Training of the bundled model and its text encoder, on a tiny scale."""
import pytest
import torch

from mditface.mdit.labelmap import PALETTE
from mditface.mdit.mditface.config import MDiTConfig
from mditface.mdit.mditface.text import PAD, UNKNOWN
from mditface.mdit.recipes.targets.demo import Demo
from mditface.mdit.recipes.targets.kinds import DemoSettings, DemoTarget
from mditface.mdit.recipes.words import SYNONYMS, CaptionWriter, pretrain, make_text_config
from mditface.mdit.render.appearance import sample_appearance
from mditface.mdit.render.caption import VOCABULARY
from mditface.mdit.training.sampling import make_mask_inputs, sample
from mditface.mdit.training.trainer import Trainer, make_accelerator
from mditface.tests.recipes.tiny_targets import DEMO, MODEL, SIDE
from mditface.tests.training.tiny_targets import fitted, loss_on_fixed_batch

pytestmark = pytest.mark.usefixtures("in_training")


def test_demo_learns(demo):
    before = loss_on_fixed_batch(demo)
    trainer = Trainer(demo, make_accelerator(demo.settings))
    trainer.prepare()
    for step in range(5):
        trainer.advance([demo.make_batch(step, 0, 1)])
        trainer.step = 0
    assert loss_on_fixed_batch(demo) < 0.9 * before


def test_every_parameter_of_the_image_model_learns(demo):
    fitted(demo)
    demo.module(**demo.make_batch(5, 0, 1), rng=torch.Generator()).backward()
    model = demo.module.model
    last = f"blocks.{len(model.blocks) - 1}."
    still = {name for name, w in model.named_parameters() if w.grad is None or not w.grad.any()}
    unread = {last + stream + layer for stream in ("txt.", "msk.") for layer in (
        "proj.weight", "proj.bias", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "q_norm.weight")}
    assert still == unread  # nobody reads the tokens of text and mask after the last block


def test_local_start_reads_the_own_place(demo):
    block, grid = demo.module.model.blocks[0], 4
    axis = torch.arange(float(grid))
    _, pe = demo.module.model.encode_positions(torch.cartesian_prod(axis, axis), {})
    zero = torch.zeros(1, 32)
    q, _, _ = block.img.make_qkv(torch.zeros(1, grid * grid, 32), block.img.make_modulation(zero), pe)
    _, k, _ = block.msk.make_qkv(torch.zeros(1, grid * grid, 32), block.msk.make_modulation(zero), pe)
    logits = (q @ k.transpose(-1, -2))[0]  # (heads, N, M)
    assert (logits[0].argmax(-1) == torch.arange(grid * grid)).all()
    assert not logits[1].any()


def test_saved_file_loads(demo):
    path = demo.settings.weights
    demo.save(path, demo.module.state_dict())
    loaded = Demo.load(path)
    assert loaded.model.config == MDiTConfig(**MODEL, palette=PALETTE)
    assert loaded.text_config == demo.module.text_config
    for name, w in demo.module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], w.half().float()), name


def test_a_file_with_coarser_mask_cells_starts_as_the_same_function(demo, paths, tmp_path):
    file = tmp_path / "coarser.safetensors"
    demo.module.save(file)
    target = DemoTarget(DemoSettings(**DEMO | {"model": MODEL | {"mask_cells": 8}, "init": file}, **paths))
    before, after = (module.model.mask_embed(make_mask_inputs(demo.faces.labels, module.model)[0])
                     for module in (Demo.load(file), target.module))
    torch.testing.assert_close(after, before)
    with pytest.raises(ValueError, match="init: .* another configuration"):
        DemoTarget(DemoSettings(**DEMO | {"model": MODEL | {"mask_cells": 2}, "init": file}, **paths))


def test_samples_have_the_maps_size(demo):
    faces, module = demo.faces, demo.module
    images = sample(module.model, module.text_encoder, faces.labels[:2], demo.writer.encode(faces.captions[:2]),
                    seed=0, steps=2)
    assert images.shape == (2, SIDE, SIDE, 3) and images.dtype == torch.uint8


def test_pretraining_returns_a_score_for_each_attribute():
    demo = Demo(MDiTConfig(**MODEL), make_text_config(32))
    before = demo.text_encoder.embed.weight.clone()
    scores = pretrain(demo.text_encoder, CaptionWriter(demo.text_config, 0), steps=20, batch=4)
    assert {"hair_color", "clothes_color", "background_color"} <= set(scores)
    assert not torch.equal(before, demo.text_encoder.embed.weight)


def test_captions_are_known_words():
    writer = CaptionWriter(make_text_config(32), seed=0)
    appearances = [sample_appearance(writer.rng) for _ in range(50)]
    ids = writer(appearances)
    assert (ids != UNKNOWN).all() and (ids[:, 0] != PAD).all()
    assert set(SYNONYMS.values()) <= set(VOCABULARY)
    assert torch.equal(writer.encode(["blonde lady"]), writer.encode(["blond woman"]))
