"""Training of the bundled model, its judge and adapters, on a tiny scale."""
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mditface.mdit.labelmap import CLASSES, PALETTE
from mditface.mdit.mditface.config import MDiTConfig
from mditface.mdit.mditface.text import PAD, UNKNOWN
from mditface.mdit.parsing import FaceParser, load_parser
from mditface.mdit.recipes import train
from mditface.mdit.training.average import Average
from mditface.mdit.evaluation.colors import ColorRule
from mditface.mdit.training.data import BatchOrder
from mditface.mdit.datasets import Renders
from mditface.mdit.datasets.augment import HIDDEN, SIDES, LabelNoise, mirror, swap_sides
from mditface.mdit.render.caption import VOCABULARY
from mditface.mdit.render.appearance import sample_appearance
from mditface.mdit.training.sampling import mask_inputs, sample
from mditface.mdit.training.settings import Schedule, read_settings
from mditface.mdit.recipes.targets.kinds import (
    SETTINGS, DemoSettings, DemoTarget, JudgeSettings, JudgeTarget,
)
from mditface.mdit.recipes.targets.demo import Demo
from mditface.mdit.recipes.targets.judge import class_weights
from mditface.mdit.training.trainer import Trainer, make_accelerator, scale_rate
from mditface.mdit.recipes.words import SYNONYMS, CaptionWriter, pretrain, text_config
from mditface.tests.training.tiny_targets import (
    DEMO, EVERY, JUDGE, MODEL, SIDE, fitted, loss_on_fixed_batch, target_of,
)

pytestmark = pytest.mark.usefixtures("in_training")


@pytest.mark.parametrize("name", ["demo", "judge", "sd3", "flux", "dynast"])
def test_interrupted_run_ends_as_one_without_a_break(name, paths, tmp_path):
    whole = fitted(target_of(name, paths))
    halves = paths | {"output": tmp_path / "halves", "weights": tmp_path / "halves.safetensors"}
    first = fitted(target_of(name, halves), stop=2)
    assert first.step == 2 and not halves["weights"].exists()
    second = fitted(target_of(name, halves))
    assert whole.step == second.step == 4
    for part in ("live", "mean"):
        once, twice = getattr(whole.average, part), getattr(second.average, part)
        assert once.keys() == twice.keys() and all(torch.equal(w, twice[key]) for key, w in once.items())
    once, twice = load_file(paths["weights"]), load_file(halves["weights"])
    assert once.keys() == twice.keys() and all(torch.equal(w, twice[key]) for key, w in once.items())


def test_checkpoints_are_whole_and_the_last_two(demo):
    trainer = fitted(demo)
    folder = demo.settings.output / "checkpoints"
    assert [path.name for path in trainer.checkpoints] == ["step-000002", "step-000004"]
    (folder / "step-000006.part").mkdir()
    assert trainer.checkpoints[-1].name == "step-000004"
    trainer.step = 6
    trainer.save_checkpoint()
    assert sorted(path.name for path in folder.iterdir()) == ["step-000004", "step-000006"]


def test_other_recipe_in_the_same_folder(demo, paths):
    fitted(demo, stop=2)
    other = DemoTarget(DemoSettings(**DEMO | {"seed": 1, "ema": 0.5}, **paths))
    with pytest.raises(ValueError, match="other values of ema, seed"):
        fitted(other)


def test_run_leaves_log_sheet_and_measurements(paths):
    values = JUDGE | {"every": EVERY | {"sheet": 2, "metrics": 3}}
    fitted(JudgeTarget(JudgeSettings(**values, **paths)))
    lines = [json.loads(line) for line in (paths["output"] / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "mean_iou" in line] == [3, 4]
    assert sorted(path.name for path in (paths["output"] / "sheets").iterdir()) == ["000002.png", "000004.png"]
    assert list(paths["output"].glob("log/*tfevents*"))


def test_average_follows_with_the_ramp():
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    average = Average(layer, 0.5)
    torch.nn.init.ones_(layer.weight)
    average.update(0)
    assert average.mean["weight"].item() == pytest.approx(0.9)  # the decay is 1 / 10 at first
    with average.applied():
        assert layer.weight.item() == pytest.approx(0.9)
    assert layer.weight.item() == 1


def test_average_takes_a_norms_statistics():
    norm = torch.nn.BatchNorm1d(2)
    frozen = torch.nn.BatchNorm1d(2).requires_grad_(False)
    names = set(Average(torch.nn.Sequential(norm, frozen), 0.9).mean)
    assert names == {"0.weight", "0.bias", "0.running_mean", "0.running_var"}


def test_batch_depends_on_seed_step_and_process_alone(demo, paths):
    later, again = demo.batch(3, 1, 2), DemoTarget(demo.settings)
    again.batch(0, 0, 1)
    assert all(torch.equal(x, again.batch(3, 1, 2)[name]) for name, x in later.items())
    assert not torch.equal(later["images"], demo.batch(3, 0, 2)["images"])


def test_each_epoch_shows_every_sample_in_batches_of_one_key():
    keys = ["a"] * 7 + ["b"] * 3
    order = BatchOrder(keys, 2, seed=0)
    for epoch in range(2):
        batches = [order(step).tolist() for step in range(6 * epoch, 6 * epoch + 6)]
        assert {i for batch in batches for i in batch} == set(range(10))
        assert all(len({keys[i] for i in batch}) == 1 and len(batch) == 2 for batch in batches)
    assert [order(step).tolist() for step in range(6)] != batches
    with pytest.raises(ValueError, match="10 samples, fewer than a batch of 11"):
        BatchOrder(keys, 11, seed=0)


def config_file(tmp_path, values):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(values, default=str))
    return path


def test_configuration_errors_name_the_keys(paths, tmp_path):
    values = {**DEMO, **paths, "stepz": 3, "batch": "many", "model": {**MODEL, "heads": 3}}
    del values["optimiser"]
    with pytest.raises(ValueError) as caught:
        read_settings(config_file(tmp_path, values), [], SETTINGS)
    for part in ("stepz: unknown key", "optimiser: missing key", "batch: Input should be a valid integer",
                 "model: Value error, mdit.config: width 32 over 3 heads"):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match="must be one of demo, adapter, judge"):
        read_settings(config_file(tmp_path, {"target": "dmeo"}), [], SETTINGS)
    values = {**DEMO, **paths, "model": {**MODEL, "hedas": 2}}
    with pytest.raises(ValueError, match="unknown keys hedas"):
        read_settings(config_file(tmp_path, values), [], SETTINGS)
    with pytest.raises(FileNotFoundError, match="no configuration"):
        read_settings(tmp_path / "none.yaml", [], SETTINGS)


def test_command_line_changes_the_configuration(paths, tmp_path):
    file = config_file(tmp_path, {**DEMO, **paths})
    settings = read_settings(file, ["steps=9", "optimiser.adamw=1e-3"], SETTINGS)
    assert settings.steps == 9 and settings.optimiser.adamw == 1e-3 and settings.optimiser.muon == 0.01
    with pytest.raises(ValueError, match="key=value"):
        read_settings(file, ["steps"], SETTINGS)


@pytest.mark.parametrize("name", ["demo", "demo-fine", "judge", "adapter-sd35", "adapter-flux"])
def test_shipped_configurations_are_sound(name, root):
    assert read_settings(root / "mdit" / "recipes" / "configs" / f"{name}.yaml", [], SETTINGS)


def test_command_reports_errors_in_one_line(paths, tmp_path, capsys):
    file = config_file(tmp_path, {**DEMO, **paths, "data": tmp_path / "nowhere"})
    with pytest.raises(SystemExit) as exit:
        train.main([str(file)])
    assert exit.value.code == 2 and "no finished shard" in capsys.readouterr().err


def test_interrupt_ends_the_command_with_a_checkpoint(paths, tmp_path, root):
    file = config_file(tmp_path, {**JUDGE, **paths, "steps": 100000, "every": EVERY | {"checkpoint": 100000}})
    log = paths["output"] / "log.jsonl"
    process = subprocess.Popen([sys.executable, "-m", "mdit.recipes.train", str(file)], cwd=root)
    try:
        deadline = time.monotonic() + 120
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert len(list((paths["output"] / "checkpoints").iterdir())) == 1
    assert not paths["weights"].exists()


def test_demo_learns(demo):
    before = loss_on_fixed_batch(demo)
    trainer = Trainer(demo, make_accelerator(demo.settings))
    trainer.prepare()
    for step in range(5):
        trainer.advance(demo.batch(step, 0, 1))
        trainer.step = 0
    assert loss_on_fixed_batch(demo) < 0.9 * before


def test_every_parameter_of_the_image_model_learns(demo):
    fitted(demo)
    demo.module(**demo.batch(5, 0, 1), rng=torch.Generator()).backward()
    model = demo.module.model
    last = f"blocks.{len(model.blocks) - 1}."
    still = {name for name, w in model.named_parameters() if w.grad is None or not w.grad.any()}
    unread = {last + stream + layer for stream in ("txt.", "msk.") for layer in (
        "proj.weight", "proj.bias", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "q_norm.weight")}
    assert still == unread  # nobody reads the tokens of text and mask after the last block


def test_local_start_reads_the_own_place(demo):
    block, grid = demo.module.model.blocks[0], 4
    axis = torch.arange(float(grid))
    _, pe = demo.module.model.position(torch.cartesian_prod(axis, axis), {})
    zero = torch.zeros(1, 32)
    q, _, _ = block.img.attention_inputs(torch.zeros(1, grid * grid, 32), block.img.modulation(zero), pe)
    _, k, _ = block.msk.attention_inputs(torch.zeros(1, grid * grid, 32), block.msk.modulation(zero), pe)
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
    before, after = (module.model.mask_embed(mask_inputs(demo.faces.labels, module.model)[0])
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
    demo = Demo(MDiTConfig(**MODEL), text_config(32))
    before = demo.text_encoder.embed.weight.clone()
    scores = pretrain(demo.text_encoder, CaptionWriter(demo.text_config, 0), steps=20, batch=4)
    assert {"hair_color", "clothes_color", "background_color"} <= set(scores)
    assert not torch.equal(before, demo.text_encoder.embed.weight)


def test_rates_rise_and_fall():
    assert scale_rate(0, 1000, Schedule()) == 0.01
    assert scale_rate(500, 1000, Schedule()) == 1.0
    assert scale_rate(800, 1000, Schedule()) == pytest.approx(0.5)
    assert scale_rate(900, 1000, Schedule(shape="cosine")) == pytest.approx(0.5 - 0.5 * np.cos(np.pi / 4))


def test_captions_are_known_words():
    writer = CaptionWriter(text_config(32), seed=0)
    looks = [sample_appearance(writer.rng) for _ in range(50)]
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
    with pytest.raises(FileNotFoundError, match="dev.py render"):
        Renders(tmp_path)


def test_broken_shards_are_named(shards):
    (shards / "00001.npz").write_bytes(b"PK cut off")
    np.savez(shards / "00002.npz", image=np.zeros((1, 4, 4, 3), np.uint8), label=np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(ValueError) as caught:
        Renders(shards)
    assert "2 of 3 shards" in str(caught.value) and "00001.npz" in str(caught.value)
    assert "00002.npz: it lacks caption, attributes" in str(caught.value)


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
        parser.measure_agreement(np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4), np.uint8))
    with pytest.raises(FileNotFoundError, match="configs/judge.yaml"):
        load_parser("nowhere.safetensors")


def test_judge_learns_and_its_file_loads(paths):
    target = JudgeTarget(JudgeSettings(**JUDGE | {"steps": 12, "ema": 0.0}, **paths))
    before = target.metrics()["pixel_accuracy"]
    fitted(target)
    assert target.metrics()["pixel_accuracy"] > before + 0.05
    assert load_parser(paths["weights"]).parse(np.zeros((16, 16, 3), np.uint8)).shape == (16, 16)


def test_rare_classes_weigh_more():
    labels = torch.zeros(1, 100, 100, dtype=torch.uint8)
    labels[0, 0, :10] = CLASSES.index("neck_l")
    weights = class_weights(labels, 0.3)
    assert weights[CLASSES.index("neck_l")] > 2 * weights[0]
    assert class_weights(labels, 0.0).unique().numel() == 1


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
