"""Loading models."""
from __future__ import annotations

from pathlib import Path

import torch

import folder_paths
from comfy_api.latest import io

from ..mdit.mditface import host
from .files import add_folder, list_files, find_file

FOLDERS = ("mdit", "diffusion_models")
BUNDLED = Path(host.__file__).parent / "weights"
DTYPES = {"default": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

add_folder(FOLDERS[0], Path(folder_paths.models_dir, FOLDERS[0]), BUNDLED)


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
                io.Combo.Input("model_name", options=list_files(*FOLDERS),
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
        return io.NodeOutput(*host.load(find_file(model_name, "model_name", *FOLDERS), DTYPES[weight_dtype]))


NODES = (LoadModel,)
