"""Training DynaST for faces (docs/design/dynast.md, section 10)."""
import copy
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bench import dynast_agreement as bench
from mditface.mdit.dynast import host
from mditface.mdit.dynast.label import Label
from mditface.mdit.dynast.weights import list_published_shapes
from mditface.mdit.recipes.dynast.pairs import PEOPLE_FILE, Exemplars, Pairs
from mditface.mdit.recipes.dynast.vgg import CONVS, NAMES, VGG, prepare_vgg_input
from mditface.mdit.training.settings import read_settings
from mditface.mdit.recipes.targets.kinds import SETTINGS, DynaSTSettings, DynaSTTarget
from mditface.mdit.training.trainer import Trainer, make_accelerator
from mditface.tests.recipes.tiny_targets import DYNAST
from mditface.tests.training.tiny_targets import fitted

pytestmark = pytest.mark.usefixtures("in_training")


@pytest.fixture
def target(paths):
    return DynaSTTarget(DynaSTSettings(**DYNAST, **paths))


@pytest.fixture
def vgg_file(tmp_path):
    """Random weights of a narrow VGG, in the published layout."""
    rng, inputs, weights = torch.Generator().manual_seed(0), 3, {}
    for name in (*NAMES, "conv5_3", "conv5_4"):
        weights[f"{name}.weight"] = torch.randn(4, inputs, 3, 3, generator=rng) / inputs
        weights[f"{name}.bias"] = torch.randn(4, generator=rng)
        inputs = 4
    save_file(weights, tmp_path / "vgg.safetensors")
    return tmp_path / "vgg.safetensors"


def test_both_sides_move_as_by_two_steps_in_turn(target):
    trainer = Trainer(target, make_accelerator(target.settings))
    trainer.prepare()
    batch, twin = target.make_batch(0, 0, 1), copy.deepcopy(target.module)
    trainer.advance([batch])
    rates = [group["lr"] for optimiser in trainer.optimizers for group in optimiser.param_groups]
    in_turn = DynaSTTarget.build_optimizers(type("Twin", (), {"module": twin, "settings": target.settings})())
    terms = twin(**batch, rng=None)
    for optimiser, rate in zip(in_turn, rates):
        optimiser.param_groups[0]["lr"] = rate
    ours = ("discriminator_fake", "discriminator_real")
    sum(loss for name, loss in terms.items() if name not in ours).backward(retain_graph=True)
    assert all(w.grad is None for w in twin.discriminator.parameters())
    in_turn[0].step()
    twin.zero_grad()
    sum(terms[name] for name in ours).backward()
    assert all(w.grad is None for w in twin.generator.parameters())
    in_turn[1].step()
    for (name, w), (_, other) in zip(target.module.named_parameters(), twin.named_parameters()):
        assert torch.allclose(w, other, atol=1e-6), name


def test_generator_learns_the_true_picture(paths):
    target = DynaSTTarget(DynaSTSettings(**DYNAST | {"losses": {"pixel": 500}}, **paths))
    trainer = Trainer(target, make_accelerator(target.settings))
    trainer.prepare()
    batch, found = target.make_batch(0, 0, 1), []
    for _ in range(8):
        found.append(trainer.advance([batch]))
        trainer.step = 0
    best = {name: min(terms[name] for terms in found[1:]) for name in ("pixel", "warp")}  # single steps swing
    assert best["pixel"] < 0.97 * found[0]["pixel"] and best["warp"] < 0.97 * found[0]["warp"]


def test_one_power_iteration_each_time_a_layer_is_run_in_training(target):
    generator, batch = target.module.generator, target.make_batch(0, 0, 1)
    layers = {name: getattr(generator, name).conv_0 for name in ("embed_q1", "embed_q2")}
    before = {name: (layer.weight_u.clone(), layer.weight_orig.detach().flatten(1)) for name, layer in layers.items()}
    target.module(**batch, rng=None)
    for name, count in (("embed_q1", 2), ("embed_q2", 1)):
        u, weight = before[name]
        for _ in range(count):
            u = torch.nn.functional.normalize(weight @ torch.nn.functional.normalize(weight.T @ u, dim=0), dim=0)
        assert torch.allclose(layers[name].weight_u, u, atol=1e-5), name


def test_finished_file_is_the_published_layout_and_draws_the_same(target, paths):
    fitted(target)
    generator, weights = target.module.generator, load_file(paths["weights"])
    assert {name: w.shape for name, w in weights.items()} == list_published_shapes(generator.config)
    assert not any(w.any() for name, w in weights.items() if name.endswith("num_batches_tracked"))
    loaded, batch = host.load_dynast(str(paths["weights"]), DYNAST["model"]["top_k"]), target.make_batch(9, 0, 1)
    made = target.module.synthesize(batch["seg"], batch["ref_image"], batch["ref_seg"])
    with torch.inference_mode():
        again = loaded.synthesize(Label(batch["seg"]), batch["ref_image"].movedim(1, -1) / 255, Label(batch["ref_seg"]))
    for picture, other in zip(made, again):
        assert picture.shape == (4, 48, 48, 3) and (picture - 255 * other).abs().quantile(0.99) <= 1
    assert loaded.network.config == generator.config and generator.training


def test_bench_tells_the_own_exemplar_from_a_shuffled_one(target, paths, tmp_path, capsys):
    target.save(paths["weights"], {name: w.detach() for name, w in target.module.state_dict().items()})
    bench.main([str(paths["weights"]), "--heldout", str(paths["data"]), "--fit", str(paths["data"]), "--count", "6",
                "--sheet", str(tmp_path / "sheet.jpg")])
    table, found = capsys.readouterr().out.strip().rsplit("\n", 1)
    found = json.loads(found)
    assert (found["count"], found["pixels"]) == (6, 48) and "| skin_tone |" in table
    row = found["parts"]["skin_tone"]
    assert set(row) == {"count", "own", "shuffled", "nearer", "named", "named_shuffled", "ceiling"}
    assert all(0 <= row[name] <= 1 for name in ("nearer", "named", "named_shuffled", "ceiling")) and row["count"] <= 6
    assert Image.open(tmp_path / "sheet.jpg").size == (6 * 96, 4 * 96)
    with pytest.raises(SystemExit):
        bench.main([str(paths["weights"]), "--heldout", str(tmp_path / "none")])


def test_log_names_the_terms_and_what_is_left_out(paths, caplog):
    with caplog.at_level(logging.INFO):
        fitted(DynaSTTarget(DynaSTSettings(**DYNAST | {"steps": 1}, **paths)))
    assert "without the losses reconstruction and perceptual" in caplog.text
    lines = [json.loads(line) for line in (paths["output"] / "log.jsonl").read_text().splitlines()]
    terms = {"warp", "adversarial", "features", "discriminator_fake", "discriminator_real"}
    pace = {"learning_rate", "samples_per_second", "minutes_left", "memory_gib"}
    assert set(lines[0]) == terms | pace | {"step", "loss"}
    assert lines[0]["loss"] == pytest.approx(sum(lines[0][name] for name in terms))
    assert "clothes_color/own" in lines[1]
    assert Image.open(paths["output"] / "sheets" / "000001.png").size == (12 * 48, 4 * 48)


def test_vgg_adds_its_terms_and_stays_out_of_the_checkpoints(paths, vgg_file):
    target = DynaSTTarget(DynaSTSettings(**DYNAST | {"vgg": vgg_file, "steps": 1}, **paths))
    terms = target.module(**target.make_batch(0, 0, 1), rng=None)
    assert terms["reconstruction"] > 0 and terms["perceptual"] > 0
    trainer = fitted(target)
    saved = load_file(trainer.checkpoints[-1] / "model.safetensors")
    assert saved and not any("vgg" in name for name in saved)


def test_vgg_is_the_one_of_its_weights(vgg_file):
    weights, x = load_file(vgg_file), torch.rand(1, 3, 32, 32) * 2 - 1
    made, names = VGG.load(vgg_file)(x), iter(NAMES)
    x = prepare_vgg_input(x)
    for depth, count in enumerate(CONVS):
        x = torch.nn.functional.max_pool2d(x, 2) if depth else x
        for i in range(count):
            name = next(names)
            x = torch.relu(torch.nn.functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1))
            if i == 1:
                assert torch.allclose(made[depth], x, rtol=1e-4, atol=1e-4)


def test_vgg_file_errors(vgg_file, tmp_path):
    with pytest.raises(FileNotFoundError, match="leave vgg out"):
        VGG.load(tmp_path / "none.pth")
    weights = load_file(vgg_file)
    del weights["conv3_2.bias"]
    save_file(weights, vgg_file)
    with pytest.raises(ValueError, match="lacks conv3_2.bias"):
        VGG.load(vgg_file)


def pairs_of(target, **shares):
    people = [i // 2 for i in range(16)]
    return Pairs(target.pairs.faces, 48, Exemplars(**{"own": 0, **shares}), flip=0.5, people=people)


def test_exemplars_show_whom_they_are_asked_for(target, monkeypatch):
    seen = []
    monkeypatch.setattr(Pairs, "cut_view", lambda self, index, rng: (seen.append(index), (torch.zeros(1),) * 2)[1])
    rng = np.random.default_rng(0)
    for shares, expected, known in (({"own": 1}, {6}, 1), ({"person": 1}, {7}, 1), ({"other": 1}, set(range(16)), 0)):
        seen.clear()
        pairs = pairs_of(target, **shares)
        assert {pairs(6, rng)["known"].item() for _ in range(200)} == {known}
        assert set(seen[::2]) == {6} and set(seen[1::2]) == expected


def test_own_exemplar_is_another_crop(target):
    pair = pairs_of(target, own=1)(3, np.random.default_rng(1))
    assert pair["image"].shape == (3, 48, 48) and pair["seg"].shape == (15, 48, 48)
    assert not torch.equal(pair["image"], pair["ref_image"]) and not torch.equal(pair["seg"], pair["ref_seg"])
    assert {x.dtype for name, x in pair.items() if name != "known"} == {torch.uint8}


def test_people_are_read_from_the_data(paths):
    values = DYNAST | {"exemplars": {"own": 0.5, "person": 0.5}}
    with pytest.raises(FileNotFoundError, match="people.txt"):
        DynaSTTarget(DynaSTSettings(**values, **paths))
    people = paths["data"] / PEOPLE_FILE
    people.write_text("00000-0003.png ann\n00000-0005.png ann\n")
    pairs = DynaSTTarget(DynaSTSettings(**values, **paths)).pairs
    rng = np.random.default_rng(0)
    assert {pairs.choose_another(3, rng) for _ in range(9)} == {5} and pairs.choose_another(4, rng) == 4
    people.write_text("00000-0003.png\n")
    with pytest.raises(ValueError, match="'00000-0003.png' is no line"):
        DynaSTTarget(DynaSTSettings(**values, **paths))


def test_settings_that_cannot_be(paths, tmp_path, root):
    file = tmp_path / "config.yaml"
    wrong = {"size": 40, "exemplars": {"own": 0.5}, "precision": "bf16", "ema": 0.9, "model": {"depth": 3}}
    file.write_text(json.dumps({**DYNAST, **paths, **wrong}, default=str))
    with pytest.raises(ValueError) as caught:
        read_settings(file, [], SETTINGS)
    for part in ("size: Input should be greater than or equal to 48", "must add up to 1", "precision:", "ema:",
                 "model.depth: unknown key"):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match="load: faces of 40 pixels hold no image of size 48"):
        DynaSTTarget(DynaSTSettings(**DYNAST | {"load": 40}, **paths))
    for name in ("dynast", "proof-dynast"):
        assert read_settings(root / "mdit" / "recipes" / "configs" / f"{name}.yaml", [], SETTINGS)
