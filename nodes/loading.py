"""Loading models."""
from __future__ import annotations

from pathlib import Path

import torch

import folder_paths
from comfy_api.latest import io

from ..mdit.mditface import host

FOLDER = "mdit"
BUNDLED = Path(host.__file__).parent / "weights"
DTYPES = {"default": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

for path in (Path(folder_paths.models_dir, FOLDER), BUNDLED):
    folder_paths.add_model_folder_path(FOLDER, str(path))
folder_paths.folder_names_and_paths[FOLDER][1].add(".safetensors")


def model_files() -> list[str]:
    names = [*folder_paths.get_filename_list(FOLDER), *folder_paths.get_filename_list("diffusion_models")]
    return list(dict.fromkeys(name for name in names if name.endswith(".safetensors")))


def model_path(name: str) -> str:
    path = folder_paths.get_full_path(FOLDER, name) or folder_paths.get_full_path("diffusion_models", name)
    if path is None:
        raise FileNotFoundError(f"model_name: no file '{name}' in the folders '{FOLDER}' and 'diffusion_models': "
                                "put it there, then refresh the browser")
    return path


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadModel",
            display_name="Load MDiT Model",
            category="MDiTFace",
            description="Loads a stand-alone MDiT model from one file: the diffusion transformer and, where the file "
                        "holds them, its text encoder and its VAE. The bundled mditface-demo draws small faces.",
            search_aliases=["MDiTFace loader", "face model", "load face diffusion", "mask to face"],
            inputs=[
                io.Combo.Input("model_name", options=model_files(),
                               tooltip="A safetensors file from models/mdit or models/diffusion_models, or the "
                                       "bundled mditface-demo."),
                io.Combo.Input("weight_dtype", options=list(DTYPES), default="default", advanced=True,
                               tooltip="Number type of the weights. 'default' lets the host choose."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The diffusion model; reads masks and text."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder; empty if the file has none."),
                io.Vae.Output(display_name="vae",
                              tooltip="Its VAE; for pixel-space models the host's pixel-space VAE."),
            ],
        )

    @classmethod
    def execute(cls, model_name, weight_dtype="default") -> io.NodeOutput:
        return io.NodeOutput(*host.load(model_path(model_name), DTYPES[weight_dtype]))


NODES = (LoadModel,)
