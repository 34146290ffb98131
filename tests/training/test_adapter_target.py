"""Training an adapter on the host's models (docs/design/adapters.md, section 6)."""
import numpy as np
import pytest
import torch

from mditface.mdit.labelmap import to_image
from mditface.mdit.mditface.adapter.weights import load_adapter
from mditface.mdit.training.targets.adapter import Drop
from mditface.tests.adapter import bases
from mditface.tests.training.tiny_targets import FAMILIES, adapter, encoded_faces, fitted, tiny_base

pytestmark = pytest.mark.usefixtures("in_training")


FORMS = {"exact": {}, "half": {"reduction": "half"}, "merged": {"reduction": "half, merged"},
         "window": {"window": 1, "text_reads_mask": False}}
LEARNING = [(family, form) for family in FAMILIES for form in FORMS if form == "exact" or family in FAMILIES[:3]]


@pytest.mark.parametrize("family, form", [(family, FORMS[form]) for family, form in LEARNING],
                         ids=map("-".join, LEARNING))
def test_adapter_learns_and_its_file_changes_the_output(family, form, paths):
    target = adapter(paths, family, **form, steps=12)
    before, plain = target.measure()["heldout_loss"], target.measure()["heldout_loss_without_mask"]
    fitted(target)
    after = target.measure()
    assert after["heldout_loss"] < before
    assert after["heldout_loss_without_mask"] == plain  # the base is as it was
    loaded = load_adapter(str(paths["weights"]))
    assert loaded.config.window == form.get("window", 0) and loaded.config.base_hint == "tiny.safetensors"
    assert loaded.config.trained_on.endswith(": 8 samples, 12 steps of 4") and loaded.config.version == 1
    with torch.inference_mode():
        case = bases.Case(family, tiny_base(family), loaded, {})
        masked = bases.runs.masked(bases.text(0), bases.mask())
        trained = bases.prediction(case.model, masked)
        untrained = bases.prediction(case.apply(case.base, weight=0.0), masked)
    assert (trained - untrained).abs().max() > 1e-3


def test_heldout_loss_does_not_depend_on_the_batch(paths):
    losses = [adapter(paths, batch=batch).measure()["heldout_loss"] for batch in (1, 4)]
    assert losses[0] == losses[1]


def test_new_adapter_is_the_base_with_the_image_streams_weights(paths):
    terms = adapter(paths, "flux").module.terms
    assert all(not w.any() for name, w in terms.named_parameters() if name.endswith("up.weight"))
    assert all(w.any() for name, w in terms.named_parameters() if name.endswith("down.weight"))
    assert {"double_0_fc2", "single_2_linear1"} <= set(terms) and "single_2_linear2" not in terms


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_gradient_is_the_slope_of_its_loss(family, checkpointing, paths):
    target = adapter(paths, family, gradient_checkpointing=checkpointing)
    module, batch = target.module, target.make_batch(0, 0, 1)
    generator = torch.Generator().manual_seed(0)
    weights = list(module.terms.parameters())
    with torch.no_grad():
        for w in weights:
            w.copy_(torch.randn(w.shape, generator=generator) * 0.1)

    def loss():
        return module(**batch, rng=torch.Generator().manual_seed(1))

    loss().backward()
    ways = [torch.randn(w.shape, generator=generator) for w in weights]
    slope = sum((w.grad * way).sum() for w, way in zip(weights, ways)).item()
    step, ends = 1e-3, []  # shorter ones drown in float32's rounding of the loss
    with torch.no_grad():
        for sign in (1, -1):
            for w, way in zip(weights, ways):
                w.add_(way, alpha=sign * step)
            ends.append(loss().double().item())
            for w, way in zip(weights, ways):
                w.sub_(way, alpha=sign * step)
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.03, abs=1e-3)


def test_adapter_samples_by_euler_steps_along_its_predictions(paths):
    target = adapter(paths)
    batch, module = target.make_clear_batch(target.heldout[:1]), target.module
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for w in module.terms.parameters():
            w.copy_(torch.randn(w.shape, generator=generator) * 0.1)
    sigmas = torch.linspace(1, 0, 3)
    found = module.sample(**batch, sigmas=sigmas, seed=0)
    rows = module.make_rows(batch["mask_latent"], batch["labels"], batch["pooled"])
    x = torch.randn(batch["latent"].shape, generator=torch.Generator().manual_seed(0))
    for sigma, after in zip(sigmas, sigmas[1:]):
        with torch.no_grad():
            x = x + (after - sigma) * module.predict_velocity(x, sigma[None], batch["context"], batch["pooled"], rows)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-5)


def test_sheet_shows_own_label_maps_and_prompts(paths):
    target = adapter(paths)
    target.shown = encoded_faces(3)
    labels = (to_image(torch.stack([face["labels"] for face in target.shown])) * 255).round()
    sheet = target.draw_sheet()
    assert sheet.shape == (2 * bases.SIDE, 3 * bases.SIDE, 3)  # no true images
    assert np.array_equal(sheet[:bases.SIDE], np.concatenate(list(labels.numpy()), axis=1))


def test_hidden_classes_are_painted_as_background(paths):
    target = adapter(paths, drop={"text": 1.0, "mask": 1.0})
    batch = target.make_batch(0, 0, 1)
    assert not batch["labels"].any() and not batch["context"].any() and not batch["pooled"].any()
    black = bases.VAE.encode(torch.zeros(1, bases.SIDE, bases.SIDE, 3))
    assert torch.allclose(batch["mask_latent"], black.expand_as(batch["mask_latent"]))
    kept = adapter(paths, drop={"text": 0.0, "mask": 0.0}).make_batch(0, 0, 1)
    assert kept["labels"].any() and torch.equal(kept["mask_latent"], kept["latent"])


def test_adapter_names_what_the_samples_lack(paths):
    def without(*names):
        return [{name: x for name, x in face.items() if name not in names} for face in encoded_faces(8)]

    with pytest.raises(ValueError, match="lack pooled"):
        adapter(paths, samples=without("pooled"))
    with pytest.raises(ValueError, match="no mask_latent"):
        adapter(paths, samples=without("labels", "mask_latent"))
    with pytest.raises(ValueError, match="drop: hidden classes need"):
        adapter(paths, samples=without("labels"))
    with pytest.raises(ValueError, match="merging needs"):
        adapter(paths, samples=without("labels"), drop={"mask": 0}, reduction="merge")


def test_tokens_that_fill_a_shorter_text_are_not_read(paths):
    faces = encoded_faces(8)
    faces[0]["context"] = faces[0]["context"][:3]
    target = adapter(paths, "qwen-image", samples=faces)
    batch = target.prepare(faces[:2], torch.Generator(), Drop(text=0, mask=0))
    assert batch["text_lengths"].tolist() == [3, 5]
    noisy, sigma = bases.noisy(2), torch.full((2,), 0.7)
    with torch.no_grad():
        out = target.module.predict_velocity(noisy, sigma, batch["context"], None, (), batch["text_lengths"])
        alone = target.module.predict_velocity(noisy[:1], sigma[:1], batch["context"][:1, :3], None, ())
    torch.testing.assert_close(out[:1], alone, rtol=0, atol=1e-5)


def test_a_hidden_text_is_as_long_as_the_empty_one(paths):
    target = adapter(paths, "qwen-image")
    target.empty = {"context": torch.ones(2, bases.CONTEXT)}
    batch = target.prepare(encoded_faces(2), torch.Generator(), Drop(text=1, mask=0))
    assert batch["text_lengths"].tolist() == [2, 2] and not batch["context"][:, 2:].any()
