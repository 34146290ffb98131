"""Node that loads stand-alone MDiT models."""
from __future__ import annotations

from pathlib import Path

import torch

import folder_paths
from comfy_api.latest import io

from ..mdit.mditface import host
from . import menu
from .files import add_folder, check_file, find_file, list_files

FOLDERS = ("mdit", "diffusion_models")
BUNDLED = Path(host.__file__).parent / "weights"
DTYPES = {"default": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

add_folder(FOLDERS[0], Path(folder_paths.models_dir, FOLDERS[0]), BUNDLED)


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadModel",
            display_name="Load Face Model (MDiT)",
            category=menu.START,
            description="Loads a stand-alone MDiT model from one file: the diffusion transformer, and the text encoder "
                        "and the VAE if the file contains them. Files that ComfyUI saved of such a model load, too. "
                        "The bundled mditface-demo generates small faces.",
            search_aliases=["MDiTFace loader", "face model", "load face diffusion", "mask to face"],
            inputs=[
                io.Combo.Input("model_name", options=list_files(*FOLDERS),
                               tooltip="Safetensors file in models/mdit or models/diffusion_models, or the bundled "
                                       "mditface-demo."),
                io.Combo.Input("weight_dtype", options=list(DTYPES), default="default", advanced=True,
                               tooltip="Data type of the weights. default: ComfyUI chooses."),
            ],
            outputs=[
                io.Model.Output(display_name="model",
                                tooltip="Diffusion model, which reads text and masks; empty for a file of 'CLIPSave'."),
                io.Clip.Output(display_name="clip", tooltip="Text encoder of the model; empty if the file has none."),
                io.Vae.Output(display_name="vae",
                              tooltip="VAE of the model; for pixel-space models ComfyUI's pixel-space VAE."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        return check_file(model_name, "model_name", *FOLDERS)

    @classmethod
    def execute(cls, model_name, weight_dtype="default") -> io.NodeOutput:
        path = find_file(model_name, "model_name", *FOLDERS)
        model, clip, vae = host.load_mdit(path, DTYPES[weight_dtype])
        return io.NodeOutput(model, clip, vae)


NODES = (LoadModel,)
