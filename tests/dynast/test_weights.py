"""Files of a DynaST generator: the published layout, and what is refused."""
import pytest
import torch

from mditface.mdit.dynast import host, weights
from mditface.mdit.dynast.model import DynaST
from mditface.tests.dynast import tiny


def read(path):
    return weights.read_generator(path, 4, 0.01)


@pytest.fixture(scope="module")
def reference():
    return weights.fold_spectral_norm(tiny.published())


def check(path, reference):
    config, state = read(path)
    assert config == tiny.CONFIG and state.keys() == reference.keys()
    torch.testing.assert_close(state, reference)


@pytest.mark.parametrize("prefix", ["", "module.", "net.netG.", "module.net.netG."])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_published_layout(tmp_path, reference, ending, prefix):
    path = tiny.write(tmp_path / f"G{ending}", edit=lambda found: {prefix + name: w for name, w in found.items()})
    check(path, reference)


@pytest.mark.parametrize("dropped", ["res_block.relu.weight", "res_block.model.2.weight"])
def test_one_name_of_a_shared_slope_is_enough(tmp_path, reference, dropped):
    def edit(found):
        kept = {name: weight for name, weight in found.items() if not name.endswith(dropped)}
        assert len(kept) < len(found)
        return kept
    check(tiny.write(tmp_path / "G.pth", edit=edit), reference)


def test_spectral_norm_is_folded_by_the_stored_vectors(reference):
    found, name = tiny.published(), "embed_kv2.conv_1.weight"
    layer = torch.nn.utils.spectral_norm(torch.nn.Conv2d(*reference[name].shape[1::-1], 3)).eval()
    layer.load_state_dict({key.removeprefix("embed_kv2.conv_1."): weight for key, weight in found.items()
                           if key.startswith("embed_kv2.conv_1.")})
    layer(torch.zeros(1, layer.in_channels, 3, 3))
    torch.testing.assert_close(reference[name], layer.weight)


def test_a_network_under_spectral_norm_saves_the_published_layout():
    network = DynaST(tiny.CONFIG, torch.nn)
    torch.nn.init.normal_(network.pos_embed)
    for name, module in network.named_modules():
        if weights.SPECTRAL.fullmatch(name):
            torch.nn.utils.spectral_norm(module)
    shapes = {name: weight.shape for name, weight in network.state_dict().items()}
    assert shapes == weights.list_published_shapes(tiny.CONFIG)
    label = tiny.label(2).channels / 255
    network.train()(label, torch.rand(2, 3, 32, 32), label).image.sum().backward()
    assert network.embed_q1.conv_0.weight_orig.grad.abs().max() > 0


def test_top_k_and_smooth_come_from_the_caller(tmp_path):
    config, _ = weights.read_generator(tiny.write(tmp_path / "G.pth"), 2, 0.5)
    assert (config.top_k, config.smooth) == (2, 0.5)


def without(*names):
    return lambda found: {name: weight for name, weight in found.items() if name not in names}


@pytest.mark.parametrize("edit, message", [
    (without("pos_embed"), "lacks pos_embed: it is cut"),
    (without("encoder_q.layer1.0.weight_orig"), "it is no generator"),
    (without("decoder_10.0.bias", "transformer_2.1.h.bias"), r"missing \[decoder_10.0.bias, transformer_2.1.h.bias\]"),
    (lambda found: found | {"netD.weight": torch.zeros(1)}, r"unknown \[netD.weight\]"),
    (lambda found: found | {"embed_q2.conv_0.bias": torch.zeros(3)},
     r"of another shape \[embed_q2.conv_0.bias is \(3,\), must be"),
    (lambda found: found | {"decoder_10.0.bias": torch.tensor([1.0, float("nan"), 0.0])}, "NaN or infinite"),
    (lambda found: {"epoch": 3, "weights": found}, "holds no weights"),
])
def test_refusals(tmp_path, edit, message):
    path = tmp_path / "G.pth"
    torch.save(edit(tiny.published()), path)
    with pytest.raises(ValueError, match=f"weights_name: '.*G.pth'.*{message}"):
        host.load_dynast(str(path))


class Evil:
    def __reduce__(self):
        return print, ("code of a file was run",)


def test_no_code_of_a_file_is_run(tmp_path, capsys):
    path = tmp_path / "G.pth"
    torch.save({"pos_embed": Evil()}, path)
    with pytest.raises(ValueError, match="weights_name"):
        host.load_dynast(str(path))
    assert capsys.readouterr().out == ""
