"""Face parsers: what is in a file, how images reach the network, and what comes back."""
import json
import pickle

import pytest
import torch
import torch.nn as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

import comfy.model_management
from devtools.bundled import read_judge_size
from mditface.mdit.labelmap import CLASSES, PARSER_ORDER
from mditface.mdit.parsing import WEIGHTS, host, load_parser
from mditface.mdit.parsing.bisenet import BiSeNet
from mditface.tests.parsing import weights


class Echo(nn.Module):
    """Says class k where channel k is the brightest; keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        self.seen = x
        return x * self.scale


def echo(order=(0, 1, 2), normalization=((0.0,) * 3, (1.0,) * 3)) -> host.PatchedParser:
    return host.PatchedParser(Echo(), 64, host.Normalization(*normalization), order)


def checkers(h: int, w: int) -> torch.Tensor:
    """The class, 0 to 2, of each pixel of an image whose quarters have pure colors."""
    classes = torch.zeros(h, w, dtype=torch.uint8)
    classes[h // 2:], classes[:h // 2, w // 2:] = 1, 2
    return classes


def colored(classes: torch.Tensor) -> torch.Tensor:
    return nn.functional.one_hot(classes.long(), 3).float()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A weights file of each kind under a name that says nothing."""
    tmp_path = tmp_path_factory.mktemp("published")
    paths = {"bisenet": tmp_path / "a.pth", "safe bisenet": tmp_path / "b.safetensors",
             "segformer": weights.segformer(tmp_path / "c"), "bundled": WEIGHTS,
             "wrapped bisenet": tmp_path / "d.pth"}
    wrapped = {f"module.{name}": weight for name, weight in weights.bisenet().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, paths["wrapped bisenet"])
    torch.save(weights.bisenet(), paths["bisenet"])
    save_file(weights.bisenet(), paths["safe bisenet"])
    return paths


# Files

def test_bisenet_gives_the_published_networks_numbers():
    golden = load_file(weights.DATA / "bisenet-logits.safetensors")
    network = BiSeNet().eval()
    network.load_state_dict(weights.bisenet())
    with torch.no_grad():
        logits = network(golden["picture"])[..., ::8, ::8]
    torch.testing.assert_close(logits, golden["logits"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind, order, size", [
    ("bisenet", PARSER_ORDER, 512), ("safe bisenet", PARSER_ORDER, 512), ("wrapped bisenet", PARSER_ORDER, 512),
    ("segformer", range(19), 512),
    ("bundled", range(19), read_judge_size())])
def test_a_file_is_known_by_its_keys(published, kind, order, size):
    parser = host.load_patched_parser(published[kind])
    assert (parser.order.tolist(), parser.size) == (list(order), size)
    labels, confidence = parser.parse(torch.rand(2, 40, 56, 3))
    assert labels.shape == confidence.shape == (2, 40, 56)
    assert labels.dtype == torch.uint8 and labels.max() < len(CLASSES)
    assert 0 < confidence.min() and confidence.max() <= 1.0001


class Waits(TorchDispatchMode):
    """Lists the operations for which the host would wait for a device: values, and sizes that depend on values."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2") or any(
                index is not None and index.dtype == torch.bool for index in indices):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def test_waits_are_counted():
    with Waits() as waits:
        numbers = torch.arange(4)
        numbers[numbers > 2] = 0
        numbers.nonzero(), numbers.max().item(), numbers[numbers > 1], numbers[[1, 2]]
    assert waits.found == ["index_put_", "nonzero", "_local_scalar_dense", "index"]


@pytest.mark.parametrize("kind", ["bisenet", "segformer", "bundled"])
def test_a_parser_waits_for_its_device_only_to_hand_an_image_over(published, kind):
    parser = host.load_patched_parser(published[kind])
    parser.parse(torch.rand(1, 8, 8, 3))
    with Waits() as waits:
        parser.parse(torch.rand(2, 40, 56, 3))
    assert waits.found == []


def test_a_segformers_own_class_order_is_kept(tmp_path):
    names = dict(enumerate(CLASSES[::-1]))
    path = weights.segformer(tmp_path, id2label=names, label2id={name: k for k, name in names.items()})
    assert host.load_patched_parser(path).order.tolist() == list(range(18, -1, -1))


def test_the_bundled_parser_is_the_judge():
    image = nn.functional.interpolate(torch.rand(1, 3, 9, 9), (96, 96), mode="bicubic").clamp(0, 1)
    image = (image[0].movedim(0, -1) * 255).round()
    labels, _ = host.load_patched_parser(WEIGHTS).parse(image[None] / 255)
    judged = torch.from_numpy(load_parser().parse(image.byte().numpy()))
    assert judged.unique().numel() > 1
    assert (labels[0] == judged).float().mean() > 0.99


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1000])


def edited(change):
    def damage(path):
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})
    return damage


def renamed_class(path):
    config = json.loads(path.with_name("config.json").read_text())
    config["id2label"]["2"] = "moustache"
    path.with_name("config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("damage, error, said", [
    (cut_short, ValueError, "cannot be read as a"),
    (lambda path: path.write_bytes(b"<html>404</html>" * 99), ValueError, "cannot be read as a"),
    (edited(lambda w: w.pop("decode_head.classifier.bias")), ValueError, "decode_head.classifier.bias"),
    (edited(lambda w: w.update({"decode_head.classifier.bias": torch.zeros(5)})), ValueError, "classifier.bias"),
    (edited(lambda w: w.update(extra=torch.zeros(1))), ValueError, "example extra"),
    (edited(lambda w: w.pop("segformer.encoder.layer_norm.0.weight")), ValueError, "no face parser that this pack"),
    (lambda path: path.with_name("config.json").write_text("<html>"), ValueError, "config.json' is damaged"),
    (renamed_class, ValueError, "'moustache' is no class"),
    (lambda path: path.with_name("config.json").unlink(), FileNotFoundError, "config.json"),
])
def test_a_damaged_segformer_is_refused(tmp_path, damage, error, said):
    path = weights.segformer(tmp_path)
    damage(path)
    with pytest.raises(error, match=said) as caught:
        host.load_patched_parser(path)
    assert str(caught.value).startswith("parser_name: ")


@pytest.mark.parametrize("change", [
    lambda w: w.pop("ffm.conv1.weight"), lambda w: w.update(extra=torch.zeros(1)),
    lambda w: w.update({"conv_out.conv_out.weight": torch.zeros(11, 256, 1, 1)})])
def test_other_weights_under_bisenets_names_are_refused(tmp_path, change):
    tensors = weights.bisenet()
    change(tensors)
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="does not fit its model"):
        host.load_patched_parser(tmp_path / "a.pth")


def test_a_damaged_number_and_a_training_state_are_refused(tmp_path):
    tensors = load_file(WEIGHTS)
    tensors["out.bias"][0] = torch.nan
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="parser_name: .* NaN or infinite numbers in out.bias"):
        host.load_patched_parser(tmp_path / "a.safetensors")
    torch.save({"optimizer": {"state": {}}, "epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="parser_name: .* holds no weights"):
        host.load_patched_parser(tmp_path / "a.pth")


def test_sizes_of_another_file_take_no_memory(tmp_path):
    header = {"mdit.parser": "{\"size\": 32, \"widths\": [16000000, 16000000]}"}
    save_file(load_file(WEIGHTS), tmp_path / "bomb.safetensors", header)
    with pytest.raises(ValueError, match="parser_name: .*bomb.* of another shape"):
        host.load_patched_parser(tmp_path / "bomb.safetensors")


class Bomb:
    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_is_never_executed(tmp_path):
    Bomb.path = str(tmp_path / "proof")
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"cp.resnet.conv1.weight": Bomb()}, 2))
    with pytest.raises(ValueError, match="cannot be read as a"):
        host.load_patched_parser(tmp_path / "a.pth")
    assert not (tmp_path / "proof").exists()


# Pictures

@settings(deadline=None, max_examples=25)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 2))
def test_an_image_of_any_size_keeps_it(h, w, batch):
    labels, confidence = echo().parse(torch.rand(batch, h, w, 3))
    assert labels.shape == confidence.shape == (batch, h, w)


@pytest.mark.parametrize("h, w", [(64, 64), (200, 80), (60, 240), (128, 129)])
def test_labels_lie_where_the_image_has_them(h, w):
    classes = checkers(h, w)
    labels, _ = echo().parse(colored(classes)[None])
    assert (labels[0] == classes).float().mean() > 0.95


def test_the_network_sees_the_image_undistorted_and_normalized():
    image = torch.zeros(1, 32, 96, 3)
    image[:, 8:24, 40:56] = 1  # a square of a sixth of the width
    parser = echo(normalization=((0.25, 0.5, 0.75), (0.5, 0.5, 0.5)))
    parser.parse(image)
    seen = parser.patcher.model.seen[0]  # (3, 64, 64)
    white = seen > torch.tensor([1.0, 0.5, 0.0])[:, None, None]
    assert torch.equal(white.any(1).sum(1), white.any(2).sum(1)) and (white.any(1).sum(1) - 64 / 6).abs().max() < 1
    torch.testing.assert_close(seen.amin((1, 2)), torch.tensor([-0.5, -1.0, -1.5]))
    torch.testing.assert_close(seen.amax((1, 2)), torch.tensor([1.5, 1.0, 0.5]))


def test_the_networks_order_becomes_ours():
    labels, _ = echo(order=(4, 13, 18)).parse(colored(checkers(64, 64))[None])
    assert labels.unique().tolist() == [4, 13, 18] and labels[0, 60, 5] == 13


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 7), st.integers(1, 40), st.integers(0, 2**32))
def test_the_likeliest_class_and_its_probability_are_those_of_softmax(classes, side, seed):
    logits = 5 * torch.randn(classes, 8, 8, generator=torch.Generator().manual_seed(seed))
    probability, label = nn.functional.interpolate(logits[None], (side, side), mode="bilinear")[0].softmax(0).max(0)
    found, confidence = host.predict_classes(logits, side)
    torch.testing.assert_close(confidence, probability)
    assert torch.equal(found, label)


def test_a_fourth_channel_is_ignored_and_an_empty_batch_refused():
    image = torch.rand(1, 20, 20, 4)
    assert torch.equal(echo().parse(image)[0], echo().parse(image[..., :3])[0])
    with pytest.raises(ValueError, match="image: the batch is empty"):
        echo().parse(torch.zeros(0, 20, 20, 3))


# Management

def test_the_host_manages_the_parser():
    parser = echo()
    parser.parse(torch.rand(1, 8, 8, 3))
    assert any(loaded.model is parser.patcher for loaded in comfy.model_management.current_loaded_models)
    comfy.model_management.unload_all_models()
    assert not any(loaded.model is parser.patcher for loaded in comfy.model_management.current_loaded_models)


def test_a_long_batch_can_be_cancelled():
    parser = echo()
    seen = []

    def stop_at_the_third(module, inputs):
        seen.append(inputs)
        comfy.model_management.interrupt_current_processing(len(seen) == 3)
    parser.patcher.model.register_forward_pre_hook(stop_at_the_third)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        parser.parse(torch.rand(10, 8, 8, 3))
    assert len(seen) == 3


def test_cancel_stops_within_a_large_image():
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        host.predict_classes(torch.zeros(19, 8, 8), 16)
