"""Training of an exemplar branch, on a tiny scale."""
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from mditface.mdit.labelmap import CLASSES
from mditface.mdit.mditface.mask import BoundMask, ExemplarInput, MaskInput, MaskReference
from mditface.mdit.recipes import likeness
from mditface.mdit.datasets import Renders
from mditface.mdit.recipes.exemplar import make_exemplar_keys, crop_randomly
from mditface.mdit.training.sampling import sample
from mditface.mdit.training.settings import read_settings
from mditface.mdit.recipes.targets.kinds import SETTINGS, DemoSettings, DemoTarget
from mditface.mdit.recipes.targets.demo import Demo
from mditface.tests.mditface.tiny import PixelVAE
from mditface.tests.recipes.tiny_targets import DEMO, MODEL, SIDE
from mditface.tests.training.tiny_targets import fitted, loss_on_fixed_batch

pytestmark = pytest.mark.usefixtures("in_training")
READING = {"model": MODEL | {"exemplar_blocks": (0, 1)}, "text_steps": 0, "drop": {"text": 1.0, "exemplar": 0.0}}


@pytest.fixture
def target(paths):
    return DemoTarget(DemoSettings(**DEMO | READING, **paths))


@pytest.fixture
def base(demo, tmp_path):
    """A finished file without a branch."""
    path = tmp_path / "base.safetensors"
    demo.save(path, demo.module.state_dict())
    return path


def test_batches_hold_another_view_of_the_same_pictures(target, demo):
    batch = target.make_batch(2, 0, 1)
    assert batch["exemplars"].shape == batch["images"].shape and batch["exemplars"].dtype == torch.uint8
    assert all(torch.equal(x, target.make_batch(2, 0, 1)[name]) for name, x in batch.items())
    plain = demo.make_batch(2, 0, 1)
    assert plain.keys() == {"images", "labels", "ids", "read_mask"}  # as before there were exemplars
    assert torch.equal(plain["images"], batch["images"]) and torch.equal(plain["labels"], batch["labels"])
    assert not (batch["read_exemplar"] & ~batch["read_mask"]).any()


def test_another_view_keeps_pictures_and_maps_together():
    labels = torch.randint(0, 19, (8, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    sided = [i for i, name in enumerate(CLASSES) if name[:2] in ("l_", "r_")]
    labels[torch.isin(labels, torch.tensor(sided))] = 1  # mirroring exchanges sides
    images = labels[:, None].expand(-1, 3, -1, -1) * 10
    seen, maps = crop_randomly(images, labels, torch.Generator().manual_seed(1))
    assert (seen[:, 0] == maps * 10).float().mean() > 0.6  # all but where edges are interpolated
    assert not torch.equal(maps, labels) and all(set(m.unique().tolist()) <= set(o.unique().tolist())
                                                 for m, o in zip(maps, labels))


def test_the_branch_learns_and_the_rest_stays(base, paths):
    settings = DemoSettings(**DEMO | READING | {"init": base, "train": "exemplar"}, **paths)
    target = DemoTarget(settings)
    before = {name: w.clone() for name, w in target.module.state_dict().items()}
    trainer = fitted(target)
    after = target.module.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed and all(name.startswith("model.exemplar.") for name in changed)
    assert all(name.startswith("model.exemplar.") for name in trainer.average.mean)
    start, end = load_file(base), load_file(paths["weights"])
    assert all(torch.equal(end[name], w) for name, w in start.items())
    assert Demo.load(paths["weights"]).model.config.exemplar_blocks == (0, 1)
    again = DemoTarget(settings.model_copy(update={"init": paths["weights"]}))  # goes on from a file with a branch
    assert torch.equal(again.module.model.exemplar.f.weight, end["exemplar.f.weight"].float())


def test_an_untrained_branch_is_the_file_that_it_started_from(base, paths):
    target = DemoTarget(DemoSettings(**DEMO | READING | {"init": base, "train": "exemplar"}, **paths))
    plain, faces = Demo.load(base), target.faces
    ids = target.writer.encode(faces.captions[:2])
    labels = faces.labels[:2]
    others = faces.get_channels_first(torch.tensor([2, 3]))
    keys = make_exemplar_keys(target.module.model, labels, others, faces.labels[2:4])
    pictures = [sample(demo.model, demo.text_encoder, labels, ids, seed=0, steps=2, exemplar=exemplar)
                for demo, exemplar in ((target.module, keys), (plain, None))]
    assert torch.equal(*pictures)


def test_the_host_shows_the_branch_what_the_trainer_does(target):
    model, faces = target.module.model, target.faces
    keys = make_exemplar_keys(model, faces.labels[:1], faces.get_channels_first(torch.tensor([1])), faces.labels[1:2])
    seen = torch.ones(len(CLASSES))
    reference = MaskReference(MaskInput(faces.labels[:1], seen)).with_exemplar(
        ExemplarInput(faces.images[1:2] / 255, faces.labels[1:2], PixelVAE()), 1.0)
    pixels = SimpleNamespace(latent_format=SimpleNamespace(spacial_downscale_ratio=1), process_latent_in=lambda x: x)
    bound = BoundMask(reference, torch.Size((1, 3, SIDE, SIDE)), pixels, model.config.mask_layout)
    found, kv = model.exemplar.run_static_path(bound.exemplar.get_tokens(None)[0])
    assert torch.equal(found[0], keys.candidates)
    torch.testing.assert_close([found[1], *sum(kv, ())], [keys.match, *sum(keys.kv, ())])


def test_it_learns_to_look(target):
    """Every picture has colours of its own, and neither text nor mask tells which."""
    torch.manual_seed(0)
    target.faces.images = torch.randint(0, 256, (16, 1, 1, 3), dtype=torch.uint8).expand(-1, SIDE, SIDE, -1).clone()
    optimizers = target.build_optimizers()
    for step in range(60):
        loss = target.module(**target.make_batch(step, 0, 1), rng=torch.Generator().manual_seed(step))
        loss.backward()
        for optimiser in optimizers:
            optimiser.step()
            optimiser.zero_grad()
    seeing = loss_on_fixed_batch(target)
    batch = target.make_batch(0, 0, 1)
    blind = batch | {"exemplars": batch["exemplars"].roll(1, 0)}
    with torch.no_grad():
        assert seeing < 0.7 * target.module(**blind, rng=torch.Generator().manual_seed(1)).item()


def test_wrong_starts_are_refused(base, paths):
    with pytest.raises(ValueError, match="init: .* another configuration"):
        DemoTarget(DemoSettings(**DEMO | READING | {"model": READING["model"] | {"depth": 3}, "init": base}, **paths))
    for missing in ({"init": None}, {"model": MODEL}):
        with pytest.raises(ValueError, match="train: the exemplar branch alone needs"):
            DemoSettings(**DEMO | READING | {"init": base, "train": "exemplar"} | missing, **paths)


def test_the_shipped_configuration_starts_from_the_model_that_draws_pixels(root):
    configs = root / "mdit" / "recipes" / "configs"
    branch, base = (read_settings(configs / name, [], SETTINGS).model for name in ("exemplar.yaml", "demo-fine.yaml"))
    assert dataclasses.replace(branch, exemplar_blocks=()) == base


def test_likeness_reports(target, paths, tmp_path, capsys, monkeypatch):
    # the judge knows larger images
    monkeypatch.setattr(likeness.Likeness, "measure_agreement", lambda self, images: 0.5)
    path = tmp_path / "model.safetensors"
    target.save(path, target.module.state_dict())
    command = ["--model", path, "--source", paths["heldout"], "--count", "4", "--steps", "2", "--sheet",
               tmp_path / "sheet.png"]
    likeness.main([str(part) for part in command])
    out = capsys.readouterr().out
    assert "own exemplar" in out and '"count": 4' in out and (tmp_path / "sheet.png").is_file()
    assert len(Renders(paths["heldout"])) == 16
