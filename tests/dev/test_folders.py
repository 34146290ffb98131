"""Loaders list what lies in the host's folders and in those of extra_model_paths.yaml."""
import json
import subprocess
import sys

import pytest

PROBE = """
import asyncio, importlib.util, json, sys
from comfy.cli_args import args
args.cpu, args.base_directory = True, sys.argv[2]
import folder_paths
from utils.extra_config import load_extra_path_config
load_extra_path_config(sys.argv[3])
spec = importlib.util.spec_from_file_location(
    "mditface", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["mditface"] = pack = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
found = {}
for node in nodes:
    schema = node.define_schema()
    if schema.node_id.startswith("MDiT_Load"):
        found[schema.node_id] = list(schema.inputs[0].options)
from mditface.nodes.files import find_file
print()
print(json.dumps([found, find_file("far.safetensors", "model_name", "mdit", "diffusion_models")]))
"""
FOLDERS = {  # the folders in which each loader looks
    "MDiT_LoadModel": ("mdit", "diffusion_models"), "MDiT_LoadAdapter": ("mdit_adapters", "loras"),
    "MDiT_LoadFaceMoGLE": ("mdit_adapters", "loras"),
    "MDiT_LoadFaceParser": ("face_parsing",), "MDiT_LoadInteractDiffusion": ("interactdiffusion", "gligen"),
    "MDiT_LoadFaceDiffuser": ("face_diffuser",), "MDiT_LoadPTDiT": ("diffusion_models",), "MDiT_LoadPTDiTVAE": ("vae",),
    "MDiT_LoadDynaST": ("dynast",), "MDiT_LoadMMFace": ("diffusion_models",),
    "MDiT_LoadMMFaceCLIP": ("text_encoders", "checkpoints"),
}


@pytest.fixture(scope="module")
def listed(root, tmp_path_factory) -> list:
    """What each loader lists, and where one of the files was found, where both places hold files."""
    base, extra = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("extra")
    kinds = {folder for folders in FOLDERS.values() for folder in folders}
    for folder in kinds:
        for place, name in ((base / "models" / folder, f"near-{folder}"), (extra / folder, f"far-{folder}")):
            place.mkdir(parents=True)
            (place / f"{name}.safetensors").touch()
    (extra / "mdit" / "far.safetensors").touch()
    config = extra / "extra_model_paths.yaml"
    config.write_text(f"mine:\n  base_path: {extra}\n" + "".join(f"  {folder}: {folder}\n" for folder in sorted(kinds)))
    command = [sys.executable, "-c", PROBE, str(root), str(base), str(config)]
    run = subprocess.run(command, cwd=base, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [*json.loads(run.stdout.splitlines()[-1]), extra]


def test_every_loader_lists_both(listed):
    found, _, _ = listed
    assert found.keys() == FOLDERS.keys()
    for loader, folders in FOLDERS.items():
        wanted = {f"{place}-{folder}.safetensors" for place in ("near", "far") for folder in folders}
        assert wanted <= set(found[loader]), loader


def test_a_file_of_an_extra_folder_is_found(listed):
    _, path, extra = listed
    assert path == str(extra / "mdit" / "far.safetensors")


def test_the_bundled_models_are_listed_too(listed):
    found, _, _ = listed
    assert "mditface-demo.safetensors" in found["MDiT_LoadModel"]
    assert "face-parser.safetensors" in found["MDiT_LoadFaceParser"]
