"""Weight files: every published form gives the same network, and other files are refused with a reason."""
import collections
import pickle
import sys
import types
import typing

import pytest
import torch
from safetensors.torch import save_file

from mditface.mdit.interactdiffusion.weights import build_plugin, load_interactdiffusion, read_file
from mditface.tests.interactdiffusion import tiny

LEVELS = {"input_blocks.1.1": "down_blocks.0.attentions.0", "input_blocks.5.1": "down_blocks.1.attentions.1",
          "middle_block.1": "mid_block.attentions.0", "output_blocks.3.1": "up_blocks.1.attentions.0",
          "output_blocks.11.1": "up_blocks.3.attentions.2"}
SIZES = tiny.SIZES._replace(fusers=(16, 32, 32, 32, 16))
ACTION = "position_net.linear_action.0.weight"


@pytest.fixture(scope="module")
def plugin():
    return tiny.plugin(SIZES, tuple(LEVELS))


def in_diffusers(plugin, prefix=""):
    """The UNet of the diffusers version, with one weight that is not the plug-in's."""
    renamed = dict(plugin)
    for ours, theirs in LEVELS.items():
        renamed = {key.replace(f"{ours}.", f"{theirs}.") if key.startswith(f"{ours}.") else key: weight
                   for key, weight in renamed.items()}
    return {f"{prefix}{key}": weight for key, weight in renamed.items()} | {f"{prefix}conv_in.weight": torch.ones(2)}


class Configuration:
    """Makes the objects of a checkpoint's configuration, under the names of the package that wrote it."""

    def __init__(self, monkeypatch):
        self.classes = {}
        for name in ("dictconfig.DictConfig", "listconfig.ListConfig", "nodes.AnyNode", "base.ContainerMetadata",
                     "base.Metadata"):
            module, kind = f"omegaconf.{name.split('.')[0]}", name.split(".")[1]
            self.classes[kind] = type(kind, (), {"__module__": module, "__qualname__": kind})
            monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
            holder = sys.modules.get(module) or types.ModuleType(module)
            setattr(holder, kind, self.classes[kind])
            monkeypatch.setitem(sys.modules, module, holder)

    def make(self, kind, **state):
        made = self.classes[kind]()
        made.__dict__.update(state)
        return made

    def tree(self):
        metadata = self.make("ContainerMetadata", ref_type=typing.Any, object_type=dict, key_type=int, flags={})
        leaf = self.make("AnyNode", _metadata=self.make("Metadata", optional=True, object_type=list), _val=3)
        items = self.make("ListConfig", _metadata=metadata, _content=[leaf])
        return self.make("DictConfig", _metadata=metadata, _content={"model": items}, _parent=None)


def complete(plugin, monkeypatch):
    """A checkpoint as the trainer writes it."""
    ema = collections.defaultdict(dict)
    ema[0]["step"] = torch.tensor(1.0)
    return {"model": {**plugin, "input_blocks.0.0.weight": torch.ones(3)},
            "text_encoder": {"transformer.text_model.embeddings.position_ids": torch.arange(77)},
            "autoencoder": {"quant_conv.bias": torch.ones(8)}, "diffusion": {"betas": torch.ones(1000)},
            "config_dict": {"model": Configuration(monkeypatch).tree()}, "opt": {"state": ema}, "iters": 7}


def write(folder, name, content) -> str:
    path = folder / name
    (save_file if path.suffix == ".safetensors" else torch.save)(content, str(path))
    return str(path)


def same(found, plugin):
    assert found.blocks == tuple(LEVELS)
    weights = {tiny.in_file(name, found.blocks): weight for name, weight in found.network.state_dict().items()}
    assert weights.keys() == plugin.keys()
    assert all(torch.equal(weights[key], plugin[key]) for key in plugin)


@pytest.mark.parametrize("name", ["plugin.safetensors", "plugin.pth", "plugin.pt"])
@pytest.mark.parametrize("prefix", ["", "model.", "model.diffusion_model.", "unet.", "module.", "unet.module."])
def test_plugin_file(plugin, tmp_path, name, prefix):
    loaded = load_interactdiffusion(write(tmp_path, name, {prefix + key: weight for key, weight in plugin.items()}))
    same(loaded.weights, plugin)
    assert loaded[1:] == (None, None, None)
    assert loaded.weights.network.sizes == SIZES


@pytest.mark.parametrize("wrap", [lambda plugin: plugin, lambda plugin: {"state_dict": plugin}])
def test_a_file_of_torch_before_its_zip_format(plugin, tmp_path, wrap):
    torch.save(wrap(plugin), tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    same(load_interactdiffusion(str(tmp_path / "legacy.pth")).weights, plugin)


def test_a_complete_checkpoint_in_the_old_format_from_several_cards(plugin, tmp_path, monkeypatch):
    checkpoint = complete(plugin, monkeypatch)
    checkpoint["model"] = {f"module.{key}": weight for key, weight in checkpoint["model"].items()}
    torch.save(checkpoint, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    content = read_file(str(tmp_path / "legacy.pth"))
    same(build_plugin(content), plugin)
    assert "model.diffusion_model.input_blocks.0.0.weight" in content.base


def test_half_precision(plugin, tmp_path):
    half = {key: weight.half() for key, weight in plugin.items()}
    network = load_interactdiffusion(write(tmp_path, "half.safetensors", half)).weights.network
    assert {weight.dtype for weight in network.state_dict().values()} == {torch.float16}
    given = tiny.encoded(tiny.FEEDING).to_grounding(SIZES)
    exact = load_interactdiffusion(write(tmp_path, "full.safetensors", plugin)).weights.network
    torch.testing.assert_close(network.position_net(given), exact.position_net(given), rtol=0, atol=0.02)
    x = torch.randn(1, 12, 16)
    read = [net.fusers[0](x, *net.fusers[0].project_tokens(net.position_net(given)), 1.0) for net in (network, exact)]
    torch.testing.assert_close(*read, rtol=0, atol=0.02)


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_diffusers_unet(plugin, tmp_path, prefix):
    content = read_file(write(tmp_path, "diffusers.safetensors", in_diffusers(plugin, prefix)))
    same(build_plugin(content), plugin)
    assert list(content.base) == ["conv_in.weight"]


def test_complete_checkpoint_with_its_configuration(plugin, tmp_path, monkeypatch):
    path = write(tmp_path, "interact-diffusion-v1-2.pth", complete(plugin, monkeypatch))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)  # the form that the host's own loader uses
    for name in [name for name in sys.modules if name.startswith("omegaconf")]:
        monkeypatch.delitem(sys.modules, name)
    content = read_file(path)
    same(build_plugin(content), plugin)
    assert set(content.base) == {"model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.quant_conv.bias",
                                "cond_stage_model.transformer.text_model.embeddings.position_ids"}


class Attack:
    def __reduce__(self):
        return exec, ("import sys; sys.attacked = True",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_runs_code_is_refused(plugin, tmp_path, legacy):
    path = str(tmp_path / "attack.pth")
    torch.save({**plugin, "extra": Attack()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="weights_name: .*attack.pth.* (holds more than weights|cannot be read)"):
        load_interactdiffusion(path)
    assert not hasattr(sys, "attacked")


def without(plugin, *parts):
    return {key: weight for key, weight in plugin.items() if not any(part in key for part in parts)}


def changed(plugin, **weights):
    return plugin | {key.replace("__", "."): weight for key, weight in weights.items()}


REFUSED = {
    "gligen": (lambda p: without(p, "linear_action", "embedding", "null_action"), "GLIGEN weights"),
    "lora": (lambda p: {"lora_unet_x.lora_up.weight": torch.ones(2)}, "holds no InteractDiffusion weights"),
    "xl": (lambda p: p | {"input_blocks.4.1.transformer_blocks.1.fuser.alpha_attn": torch.ones(())}, "for SDXL"),
    "no leaf": (lambda p: without(p, "middle_block.1.transformer_blocks.0.fuser.norm2.bias"),
                "missing .middle_block.1.transformer_blocks.0.fuser.norm2.bias."),
    "no null": (lambda p: without(p, "null_position_feature"), "lacks position_net.null_position_feature"),
    "no fusers": (lambda p: {key: p[key] for key in p if key.startswith("position_net.")}, "tells of 0 fusers"),
    "unknown": (lambda p: changed(p, position_net__more=torch.ones(2)), "unknown .position_net.more."),
    "block": (lambda p: p | {"blocks.7.transformer_blocks.0.fuser.alpha_attn": torch.ones(())}, "block blocks.7"),
    "shape": (lambda p: changed(p, position_net__linears__4__weight=torch.ones(48, 57)), r"\(48, 57\), must be \(48,"),
    "nan": (lambda p: p | {ACTION: p[ACTION] * float("nan")}, "NaN or infinite numbers in " + ACTION),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_refused(plugin, tmp_path, name, ending):
    edit, message = REFUSED[name]
    path = write(tmp_path, f"file.{ending}", edit(plugin))
    with pytest.raises(ValueError, match=f"weights_name: '.*file.{ending}'.*{message}"):
        load_interactdiffusion(path)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_damaged_files(plugin, tmp_path, ending):
    path = write(tmp_path, f"cut.{ending}", plugin)
    with open(path, "r+b") as file:
        file.truncate(3000)
    with pytest.raises(ValueError, match="weights_name: .*cut.* is truncated"):
        load_interactdiffusion(path)
    (tmp_path / f"page.{ending}").write_bytes(b"<html>404 Not Found</html>" * 10)
    with pytest.raises(ValueError, match="weights_name: "):
        load_interactdiffusion(str(tmp_path / f"page.{ending}"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list, not weights"):
        load_interactdiffusion(str(tmp_path / "list.pth"))
