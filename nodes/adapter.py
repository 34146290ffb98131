"""Nodes that load and apply mask adapters for models of the host."""
from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..mdit.mditface.adapter.families import list_model_titles
from ..mdit.mditface.adapter.reader import apply_adapter
from ..mdit.mditface.adapter.weights import load_adapter
from . import menu
from .files import add_folder, check_file, find_file, list_files
from .types import MDiTAdapter

FOLDERS = ("mdit_adapters", "loras")
MOST_SIDE = 2048  # pixels
SIDE_STEP = 16  # pixels of a token

add_folder(FOLDERS[0], *(Path(parent, FOLDERS[0]) for parent in (
    folder_paths.models_dir, folder_paths.get_output_directory())))  # trained adapters are saved to the second


class LoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadAdapter",
            display_name="Load Adapter (MDiT)",
            category=menu.ADAPTERS,
            description=f"Loads a mask adapter for {list_model_titles()}: a file in the format of this pack, or a "
                        "condition adapter of EasyControl or OminiControl for FLUX. The format is detected from the "
                        "file.",
            search_aliases=["EasyControl", "OminiControl", "mask adapter", "mask lora", "load adapter"],
            inputs=[
                io.Combo.Input("adapter_name", options=list_files(*FOLDERS),
                               tooltip="Safetensors file in models/mdit_adapters, output/mdit_adapters or "
                                       "models/loras."),
            ],
            outputs=[MDiTAdapter.Output(display_name="adapter", tooltip="Adapter for 'Apply Adapter (MDiT)'.")],
        )

    @classmethod
    def validate_inputs(cls, adapter_name: str | None) -> bool | str:
        return check_file(adapter_name, "adapter_name", *FOLDERS)

    @classmethod
    def execute(cls, adapter_name) -> io.NodeOutput:
        return io.NodeOutput(load_adapter(find_file(adapter_name, "adapter_name", *FOLDERS)))


class ApplyAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ApplyAdapter",
            display_name="Apply Adapter (MDiT)",
            category=menu.ADAPTERS,
            description=f"Lets a model of {list_model_titles()} read label maps or pictures. The keys and values of a "
                        "mask are computed once and stored with the mask. Without a mask in the conditioning the model "
                        "is unchanged. LoRA, ControlNet and other patches work before or after this node.",
            search_aliases=["EasyControl", "mask adapter", "apply mask", "face mask FLUX", "face mask SD3"],
            inputs=[
                io.Model.Input("model", tooltip=f"Model for which the adapter was made: {list_model_titles()}."),
                MDiTAdapter.Input("adapter", tooltip="Adapter from 'Load Adapter (MDiT)' or 'Load Face-MoGLE'."),
                io.Float.Input("weight", default=1.0, min=0.0, max=5.0, step=0.05,
                               tooltip="Factor of the adapter's weights. 1: as trained. The strength of a mask is set "
                                       "in 'Apply Mask (MDiT)'."),
                io.Int.Input("condition_size", default=0, min=0, max=MOST_SIDE, step=SIDE_STEP, optional=True,
                             advanced=True,
                             tooltip="Side in pixels of the square to which label maps and pictures are fitted before "
                                     "encoding. 0: as in training (EasyControl: 512; other adapters: the size of the "
                                     "image)."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Model that reads masks.")],
        )

    @classmethod
    def execute(cls, model, adapter, weight=1.0, condition_size=0) -> io.NodeOutput:
        if condition_size % SIDE_STEP:
            raise ValueError(f"condition_size: {condition_size} pixels: enter a multiple of {SIDE_STEP}")
        return io.NodeOutput(apply_adapter(model, adapter, weight, int(condition_size) or None))


NODES = (LoadAdapter, ApplyAdapter)
