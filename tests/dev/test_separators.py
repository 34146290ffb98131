"""Loaders take file names with the separators of every system."""
import asyncio

import pytest

import execution
import folder_paths
import nodes as host_nodes
from mditface.nodes import (
    NODES, adapter, dynast, face_diffuser, face_mogle, interactdiffusion, loading, mmface, parsing, pt_dit)
from mditface.nodes.files import find_file

LOADERS = (  # node, input, folder
    (adapter.LoadAdapter, "adapter_name", "mdit_adapters"), (dynast.LoadDynaST, "weights_name", "dynast"),
    (face_diffuser.LoadFaceDiffuser, "weights_name", "face_diffuser"),
    (face_mogle.LoadFaceMoGLE, "lora_name", "mdit_adapters"), (face_mogle.LoadFaceMoGLE, "lora_name", "loras"),
    (face_mogle.LoadFaceMoGLE, "gate_name", "mdit_adapters"),
    (interactdiffusion.LoadInteractDiffusion, "weights_name", "interactdiffusion"),
    (interactdiffusion.LoadInteractDiffusion, "weights_name", "gligen"),
    (loading.LoadModel, "model_name", "diffusion_models"), (mmface.LoadMMFace, "model_name", "diffusion_models"),
    (mmface.LoadMMFaceCLIP, "clip_name", "text_encoders"), (mmface.LoadMMFaceCLIP, "clip_name", "checkpoints"),
    (parsing.LoadFaceParser, "parser_name", "face_parsing"),
    (pt_dit.LoadPTDiT, "model_name", "diffusion_models"), (pt_dit.LoadPTDiTVAE, "vae_name", "vae"))


def validate(node, name, value, monkeypatch):
    """The host's check of a graph with this node alone: whether it is valid, and the errors."""
    monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, "Loader", node)
    inputs = {slot.id: slot.default for slot in node.define_schema().inputs if slot.id != name}
    prompt = {"1": {"class_type": "Loader", "inputs": {**inputs, name: value}}}
    valid, errors, _ = asyncio.run(execution.validate_inputs("1", prompt, "1", {}))
    return valid, errors


@pytest.mark.parametrize("listed", ["SDM/x/a.safetensors", "SDM\\x\\a.safetensors"])
@pytest.mark.parametrize("node, name, folder", LOADERS, ids=lambda value: getattr(value, "__name__", value))
def test_the_host_accepts_both_separators(node, name, folder, listed, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda other: [listed] if other == folder else [])
    for value in ("SDM/x/a.safetensors", "SDM\\x\\a.safetensors", "SDM/x\\a.safetensors"):
        assert validate(node, name, value, monkeypatch) == (True, [])
    for absent in ("SDM/b.safetensors", "a.safetensors", "SDM/a.txt"):
        valid, errors = validate(node, name, absent, monkeypatch)
        assert not valid and f"there is no file '{absent}'" in errors[0]["details"]


def test_every_loader_of_the_pack_is_tried():
    pack = {node for node in NODES if node.__name__.startswith("Load")}
    assert pack == {node for node, _, _ in LOADERS}


def test_a_name_of_windows_finds_its_file(tmp_path, monkeypatch):
    (tmp_path / "SDM").mkdir()
    (tmp_path / "SDM" / "a.bin").touch()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "face_diffuser", ([str(tmp_path)], {".bin"}))
    for name in ("SDM/a.bin", "SDM\\a.bin"):
        assert find_file(name, "weights_name", "face_diffuser", endings=(".bin",)) == str(tmp_path / "SDM" / "a.bin")
    with pytest.raises(FileNotFoundError, match="weights_name: there is no file '...secret'"):
        find_file("..\\secret", "weights_name", "face_diffuser")
