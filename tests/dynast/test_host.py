"""The generator under the host: chunks, sizes, batches, cancelling, and what it refuses."""
from dataclasses import replace

import pytest
import torch

import comfy.model_management
from bench.costs.dynast import run_direct
from mditface.mdit.shared import sparse_attention
from mditface.mdit.dynast.label import Label, prepare_exemplar
from mditface.mdit.dynast.model import DynaST
from mditface.tests.dynast import tiny

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")


@pytest.fixture(scope="module")
def model():
    return tiny.patched()


def assert_close(found, expected):
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)


def test_images(model):
    found = model.synthesize(tiny.label(), tiny.image(), tiny.label(seed=1))
    assert found.image.shape == found.warped.shape == (1, 32, 32, 3) and found.confidence.shape == (1, 32, 32)
    assert all(part.min() >= 0 and part.max() <= 1 and part.std() > 0 for part in found)


def test_chunks_change_no_image(model, monkeypatch):
    arguments = tiny.label(), tiny.image(), tiny.label(seed=1)
    expected = model.synthesize(*arguments)
    cut = []
    gathered = sparse_attention.gather_keys
    monkeypatch.setattr(sparse_attention, "gather_keys",
                        lambda *parts: (cut.append(chunk) or chunk for chunk in gathered(*parts)))
    monkeypatch.setattr(sparse_attention, "CHUNK", 1000)
    assert_close(model.synthesize(*arguments), expected)
    assert len(cut) > 100


def test_each_image_of_a_batch_is_independent(model):
    labels, exemplars, given = tiny.label(2), tiny.image(2), tiny.label(2, seed=1)
    both = model.synthesize(labels, exemplars, given)
    for i in range(2):
        one = model.synthesize(Label(labels.channels[i:i + 1]), exemplars[i:i + 1], Label(given.channels[i:i + 1]))
        assert_close([part[i:i + 1] for part in both], one)


def test_one_exemplar_serves_all_labels(model):
    labels, exemplar, given = tiny.label(2), tiny.image(), tiny.label(seed=1)
    found = model.synthesize(labels, exemplar, given)
    both_given = Label(given.channels.expand(2, -1, -1, -1))
    assert_close(found, model.synthesize(labels, exemplar.expand(2, -1, -1, -1), both_given))


def test_another_size_than_the_trained_one(model):
    """Half the size: each place of the position map is the mean of four."""
    size = 16
    halved = DynaST(replace(tiny.CONFIG, size=size)).eval()
    weights = model.network.state_dict()
    halved.load_state_dict({**weights, "pos_embed": torch.nn.functional.avg_pool2d(weights["pos_embed"], 2)})
    label, exemplar, given = tiny.label(size=size), tiny.image(), tiny.label(size=size, seed=1)
    found = model.synthesize(label, exemplar, given).image.movedim(-1, 1)
    image = prepare_exemplar((exemplar[0] * 255).round().byte().numpy(), size)
    direct = run_direct(halved, label.channels / 255, image[None], given.channels / 255)
    torch.testing.assert_close(found, (direct + 1) / 2, rtol=1e-3, atol=1e-3)


def test_a_picture_that_is_not_square():
    network = tiny.network()
    label, exemplar = tiny.smooth(1, 15, 32, 48), tiny.smooth(1, 3, 32, 48, seed=1) * 2 - 1
    found = network(label, exemplar, label, warp_all=True)
    assert found.image.shape == (1, 3, 32, 48)
    assert [tuple(one.shape[-2:]) for one in found.warped[::2]] == [(4, 6), (8, 12), (16, 24), (32, 48)]


def test_kept_and_rejected_places_warp_otherwise(model):
    arguments = tiny.label(), tiny.image(), tiny.label(seed=1)
    rejected, kept = (model.synthesize(*arguments, warp_kept=side) for side in (False, True))
    assert torch.equal(rejected.image, kept.image) and (rejected.warped - kept.warped).abs().max() > 1e-3


def test_weights_are_float32_and_the_hosts(model):
    assert {weight.dtype for weight in model.network.parameters()} == {torch.float32}
    model.synthesize(tiny.label(), tiny.image(), tiny.label())
    assert model.patcher.model in [loaded.real_model() for loaded in comfy.model_management.current_loaded_models]


def test_the_memory_asked_for_grows_with_the_size(model, monkeypatch):
    asked = []
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda models, memory_required: asked.append(
        memory_required))
    for size in (16, 32):
        model.synthesize(tiny.label(size=size), tiny.image(), tiny.label(size=size))
    assert asked[1] == 4 * asked[0] == 0.5e9 * (32 / 256) ** 2


def test_progress_and_cancelling_between_chunks(monkeypatch):
    network, steps = tiny.network(), []
    arguments = tiny.smooth(1, 15, 32, 32), tiny.smooth(1, 3, 32, 32), tiny.smooth(1, 15, 32, 32)
    network(*arguments, advance=lambda: steps.append(1))
    assert len(steps) == network.steps
    seen, gathered = [], sparse_attention.gather_keys

    def cancelled(*parts):
        for chunk in gathered(*parts):
            seen.append(chunk)
            comfy.model_management.interrupt_current_processing()
            yield chunk
    monkeypatch.setattr(sparse_attention, "gather_keys", cancelled)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        network(*arguments)
    assert len(seen) == 1


@pytest.mark.parametrize("label, exemplar, given, message", [
    (tiny.label(nc=20), tiny.image(), tiny.label(),
     "label: this label has 20 channels, but the model reads 15: .*'Build Face Edge Label'"),
    (tiny.label(), tiny.image(), tiny.label(nc=20), "exemplar_label: this label has 20 channels"),
    (tiny.label(), tiny.image(), tiny.label(size=48),
     "exemplar_label: its side is 48 pixels, that of the label is 32"),
    (tiny.label(size=8), tiny.image(), tiny.label(size=8), "size: 8 pixels, .* a multiple of 8 and at least 16"),
    (tiny.label(2), tiny.image(3), tiny.label(), "exemplar: 3 images for 2 labels and 1 exemplar labels"),
    (tiny.label(), tiny.image()[:0], tiny.label(), "exemplar: 0 images"),
])
def test_refusals(model, monkeypatch, label, exemplar, given, message):
    monkeypatch.setattr(model.network, "forward", None)  # nothing has begun
    with pytest.raises(ValueError, match=message):
        model.synthesize(label, exemplar, given)


def test_a_person_model_names_its_node():
    with pytest.raises(ValueError, match="label: .* trained for a pose .*'Build Pose Label'"):
        tiny.patched(tiny.PERSON).synthesize(tiny.label(), tiny.image(), tiny.label())


def test_a_size_without_room_for_the_candidates():
    model = tiny.patched(replace(tiny.CONFIG, top_k=5))
    with pytest.raises(ValueError, match="label: its side of 16 pixels has fewer than top_k = 5 positions"):
        model.synthesize(tiny.label(size=16), tiny.image(), tiny.label(size=16))
