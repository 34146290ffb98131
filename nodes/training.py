"""Training on the data that the host's data-set nodes make."""
from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import numpy as np
import torch

import folder_paths
from comfy_api.latest import io, ui

from ..mdit.labelmap import to_indices
from ..mdit.mditface.reductions import REDUCTIONS, describe_reductions
from .adapter import FOLDERS
from .labelmap import palette_inputs
from .types import MDiTAdapter

NEEDED = "accelerate"
PRECISIONS = {"bf16": "bf16", "fp32": "no"}
DEFAULTS = {"drop_text": 0.1, "drop_mask": 0.1, "token_reduction": "off", "window": 0, "precision": "bf16",
            "gradient_checkpointing": True, "preview_steps": 250, "checkpoint_steps": 250}
SHARE = dict(min=0.0, max=1.0, step=0.01, optional=True, advanced=True)
INTERVAL = dict(max=1000000, optional=True, advanced=True)


class TrainAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_TrainAdapter",
            display_name="Train MDiT Adapter",
            category="MDiTFace",
            description="Trains an adapter that lets an SD3, SD3.5 or FLUX model read label maps, on pictures with "
                        "their label maps and captions. The adapter is saved to output/mdit_adapters, where Load MDiT "
                        "Adapter finds it. A cancelled run goes on where it was when it is queued again.",
            search_aliases=["train mask adapter", "train LoRA", "train ControlNet", "fine-tune"],
            is_input_list=True,
            is_output_node=True,
            is_experimental=True,
            inputs=[
                io.Model.Input("model", tooltip="SD3, SD3.5 or FLUX.1 model to train for, from the host's loaders. It "
                                                "stays as it is."),
                io.Latent.Input("latents", tooltip="The encoded pictures, from Make Training Dataset."),
                io.Conditioning.Input("conditioning", tooltip="The captions: one for each picture in the same order, "
                                                              "or one for all."),
                io.Image.Input("label_maps", tooltip="One label map for each picture in the same order, showing the "
                                                     "same part of it."),
                io.Vae.Input("vae", tooltip="The VAE that made the latents; it encodes the label maps."),
                *palette_inputs(),
                io.Int.Input("steps", default=2000, min=1, max=1000000, tooltip="Number of training steps."),
                io.Int.Input("batch_size", default=1, min=1, max=1024,
                             tooltip="Pictures in a step. More make training steadier and take more memory."),
                io.Float.Input("learning_rate", default=0.0002, min=1e-7, max=1.0, step=1e-7,
                               tooltip="Size of the steps. It rises at the start and falls to zero at the end."),
                io.Int.Input("rank", default=16, min=1, max=256,
                             tooltip="Size of the adapter: how much it can learn, and its file's size."),
                io.Int.Input("seed", default=0, min=0, max=0xffffffffffffffff, control_after_generate=True,
                             tooltip="The same seed and data make the same adapter on the same device."),
                io.String.Input("filename_prefix", default="adapter",
                                tooltip="Name of the file in output/mdit_adapters; a number is added, no file is "
                                        "overwritten."),
                io.Conditioning.Input("empty_text", optional=True,
                                      tooltip="The empty prompt, encoded: what stands for dropped captions. Zeros "
                                              "without."),
                io.Float.Input("drop_text", default=DEFAULTS["drop_text"], **SHARE,
                               tooltip="Share of the samples that are shown without their caption, for a mask alone "
                                       "and for guidance."),
                io.Float.Input("drop_mask", default=DEFAULTS["drop_mask"], **SHARE,
                               tooltip="Share of the samples that are shown an empty label map."),
                io.Combo.Input("token_reduction", options=list(REDUCTIONS), default=DEFAULTS["token_reduction"],
                               optional=True, advanced=True,
                               tooltip="How the mask is read; set Encode Label Map as MDiT Mask to the same. "
                                       f"{describe_reductions()} An adapter trained with off reads merge, too."),
                io.Int.Input("window", default=DEFAULTS["window"], min=0, max=64, optional=True, advanced=True,
                             tooltip="Above 0, a place of the picture reads the mask only so many tokens around it: "
                                     "faster. 0: all of it."),
                io.Combo.Input("precision", options=list(PRECISIONS), default=DEFAULTS["precision"], optional=True,
                               advanced=True, tooltip="Number type of the model's computation. The adapter itself is "
                                                      "kept in fp32."),
                io.Boolean.Input("gradient_checkpointing", default=DEFAULTS["gradient_checkpointing"], optional=True,
                                 advanced=True, tooltip="Takes far less memory and about a third more time."),
                io.Int.Input("preview_steps", default=DEFAULTS["preview_steps"], min=0, **INTERVAL,
                             tooltip="Steps between two previews: label maps, what the adapter makes of them, and the "
                                     "true pictures. 0: none."),
                io.Int.Input("checkpoint_steps", default=DEFAULTS["checkpoint_steps"], min=1, **INTERVAL,
                             tooltip="Steps between two checkpoints, from which a run goes on that was broken off."),
            ],
            outputs=[
                MDiTAdapter.Output(display_name="adapter", tooltip="The trained adapter, for Apply MDiT Adapter."),
                io.Image.Output(display_name="loss_curve", tooltip="The loss of each step and its running mean."),
                io.Int.Output(display_name="steps", tooltip="Number of steps that the adapter was trained for."),
            ],
        )

    @classmethod
    def execute(cls, latents, conditioning, label_maps, empty_text=(), **single) -> io.NodeOutput:
        from ..mdit.mditface.adapter.weights import load_adapter
        from ..mdit.training import graph
        from ..mdit.training.curve import loss_curve
        chosen = DEFAULTS | {name: values[0] for name, values in single.items()}
        model = chosen["model"]
        labels = [to_indices(maps, chosen["palette"], chosen["order"]) for maps in label_maps]
        base = graph.file_of(model)
        samples = graph.samples_of(model, latents, conditioning, labels)
        empty = graph.text_of(model, empty_text[0][0]) if empty_text else None
        path = new_file(chosen["filename_prefix"])
        runs = Path(folder_paths.get_output_directory(), "mdit_training")
        settings = graph.settings_of(chosen, base, runs, path, PRECISIONS[chosen["precision"]])
        losses = graph.train(model, settings, samples, chosen["vae"], empty)
        curve = torch.from_numpy(np.asarray(loss_curve(losses)) / np.float32(255))[None]
        return io.NodeOutput(load_adapter(str(path)), curve, len(losses), ui=ui.PreviewImage(curve, cls=cls))


def new_file(prefix: str) -> Path:
    """Where a new adapter goes below the folder output/mdit_adapters."""
    folder = Path(folder_paths.get_output_directory(), FOLDERS[0])
    if not Path(prefix).name or not folder_paths.is_within_directory(str(folder), str(folder / prefix)):
        raise ValueError(f"filename_prefix: '{prefix}' names no file below {folder}: give a plain name, such as "
                         "'faces'")
    place, name, counter, _, _ = folder_paths.get_save_image_path(prefix, str(folder))
    return Path(place, f"{name}_{counter:05}_.safetensors")


if importlib.util.find_spec(NEEDED):
    NODES = (TrainAdapter,)
else:
    NODES = ()
    logging.warning("Train MDiT Adapter is not available: install the package '%s'", NEEDED)
