"""Node that trains mask adapters on data from the data-set nodes of the host."""
from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import numpy as np
import torch

import folder_paths
from comfy_api.latest import io, ui

from ..mdit.mditface.adapter.families import list_model_titles
from ..mdit.mditface.reductions import REDUCTIONS, check_window, describe_reductions
from ..mdit.shared.text_files import shorten
from . import menu
from .adapter import FOLDERS
from .labelmap import palette_inputs, read_and_tell
from .types import MDiTAdapter

NEEDED = "accelerate"
PRECISIONS = {"bf16": "bf16", "fp32": "no"}
DEFAULTS = {"drop_text": 0.1, "drop_mask": 0.1, "token_reduction": "off", "window": 0, "precision": "bf16",
            "gradient_checkpointing": True, "preview_steps": 250, "checkpoint_steps": 250}
FRACTION = dict(min=0.0, max=1.0, step=0.01, optional=True, advanced=True)
INTERVAL = dict(max=1000000, optional=True, advanced=True)


class TrainAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_TrainAdapter",
            display_name="Train Adapter (MDiT)",
            category=menu.TRAINING,
            description=f"Trains an adapter that lets a model of {list_model_titles()} read label maps. The training "
                        "data are images with label maps and captions. The adapter is saved in output/mdit_adapters, "
                        "where 'Load Adapter (MDiT)' finds it. Queue the same graph again to resume a cancelled run.",
            search_aliases=["train mask adapter", "train LoRA", "train ControlNet", "fine-tune"],
            is_input_list=True,
            is_output_node=True,
            is_experimental=True,
            inputs=[
                io.Model.Input("model", tooltip=f"Model that the adapter will serve: {list_model_titles()}. The model "
                                                "itself is not changed."),
                io.Latent.Input("latents", tooltip="Encoded images from 'Make Training Dataset'."),
                io.Conditioning.Input("conditioning", tooltip="Encoded captions: one for each image in the same "
                                                              "order, or one for all images."),
                io.Image.Input("label_maps", tooltip="Label maps: one for each image in the same order, with the same "
                                                     "crop as the image."),
                io.Vae.Input("vae", tooltip="VAE that encoded the images. The same VAE encodes the label maps."),
                *palette_inputs(),
                io.Int.Input("steps", default=2000, min=1, max=1000000, tooltip="Number of training steps."),
                io.Int.Input("batch_size", default=1, min=1, max=1024,
                             tooltip="Number of images in a step. Larger batches train more steadily and need more "
                                     "memory."),
                io.Float.Input("learning_rate", default=0.0002, min=1e-7, max=1.0, step=1e-7,
                               tooltip="Largest learning rate. The rate rises at the start and falls to zero at the "
                                       "end."),
                io.Int.Input("rank", default=16, min=1, max=256,
                             tooltip="Rank of the adapter's weights. A higher rank learns more and makes a larger "
                                     "file."),
                io.Int.Input("seed", default=0, min=0, max=0xffffffffffffffff, control_after_generate=True,
                             tooltip="Seed of the training. The same seed and data give the same adapter on one "
                                     "device."),
                io.String.Input("filename_prefix", default="adapter",
                                tooltip="Name of the file in output/mdit_adapters. A number is appended; no file is "
                                        "overwritten."),
                io.Conditioning.Input("empty_text", optional=True,
                                      tooltip="Encoded empty prompt, which replaces dropped captions. Unconnected: "
                                              "zeros."),
                io.Float.Input("drop_text", default=DEFAULTS["drop_text"], **FRACTION,
                               tooltip="Fraction of the samples without a caption, for guidance and for generation "
                                       "from the mask alone."),
                io.Float.Input("drop_mask", default=DEFAULTS["drop_mask"], **FRACTION,
                               tooltip="Fraction of the samples with an empty label map."),
                io.Combo.Input("token_reduction", options=list(REDUCTIONS), default=DEFAULTS["token_reduction"],
                               optional=True, advanced=True,
                               tooltip="Reduction of the mask tokens in training. Choose the same value in 'Label "
                                       f"Map to Mask (MDiT)'. {describe_reductions()} An adapter trained with off "
                                       "also reads merge."),
                io.Int.Input("window", default=DEFAULTS["window"], min=0, max=64, optional=True, advanced=True,
                             tooltip="Radius, in tokens, around an image position in which the position reads the "
                                     "mask. Smaller is faster. 0: no limit."),
                io.Combo.Input("precision", options=list(PRECISIONS), default=DEFAULTS["precision"], optional=True,
                               advanced=True, tooltip="Data type of the model's computation. The adapter itself is "
                                                      "trained in fp32."),
                io.Boolean.Input("gradient_checkpointing", default=DEFAULTS["gradient_checkpointing"], optional=True,
                                 advanced=True, tooltip="Recomputation of layers: far less memory, a third more time."),
                io.Int.Input("preview_steps", default=DEFAULTS["preview_steps"], min=0, **INTERVAL,
                             tooltip="Steps between previews. A preview shows label maps, generated images and true "
                                     "images. 0: no previews."),
                io.Int.Input("checkpoint_steps", default=DEFAULTS["checkpoint_steps"], min=1, **INTERVAL,
                             tooltip="Steps between checkpoints. An interrupted run resumes from the last checkpoint."),
            ],
            outputs=[
                MDiTAdapter.Output(display_name="adapter", tooltip="Trained adapter for 'Apply Adapter (MDiT)'."),
                io.Image.Output(display_name="loss_curve", tooltip="Plot of the loss at each step and its running "
                                                                   "mean."),
                io.Int.Output(display_name="steps", tooltip="Number of steps for which the adapter was trained."),
            ],
        )

    @classmethod
    def execute(cls, latents, conditioning, label_maps, empty_text=(), **single) -> io.NodeOutput:
        from ..mdit.mditface.adapter.weights import load_adapter
        from ..mdit.training import graph
        from ..mdit.training.curve import draw_loss_curve
        chosen = DEFAULTS | {name: values[0] for name, values in single.items()}
        check_window(chosen["token_reduction"], chosen["window"])
        model = chosen["model"]
        labels = [read_and_tell(maps, chosen["palette"], chosen["order"]) for maps in label_maps]
        base = graph.find_file(model)
        samples = graph.make_samples(model, latents, conditioning, labels)
        empty = graph.read_text(model, empty_text[0][0]) if empty_text else None
        path = choose_path(chosen["filename_prefix"])
        runs = Path(folder_paths.get_output_directory(), "mdit_training")
        settings = graph.make_settings(chosen, base, runs, path, PRECISIONS[chosen["precision"]])
        losses = graph.train(model, settings, samples, chosen["vae"], empty)
        curve = torch.from_numpy(np.asarray(draw_loss_curve(losses)) / np.float32(255))[None]
        return io.NodeOutput(load_adapter(str(path)), curve, chosen["steps"], ui=ui.PreviewImage(curve, cls=cls))


def choose_path(prefix: str) -> Path:
    """The path of a new adapter in the folder output/mdit_adapters. Raises ValueError where none can be written."""
    folder = Path(folder_paths.get_output_directory(), FOLDERS[0])
    if not Path(prefix).name or not folder_paths.is_within_directory(str(folder), str(folder / prefix)):
        raise ValueError(f"filename_prefix: '{shorten(prefix)}' does not name a file in {folder}: enter a plain name, "
                         "such as 'faces'")
    try:
        directory, name, counter, _, _ = folder_paths.get_save_image_path(prefix, str(folder))
        path = Path(directory, f"{name}_{counter:05}_.safetensors")
        path.touch()
        path.unlink()
    except OSError as error:
        raise ValueError(f"filename_prefix: '{shorten(prefix)}' cannot be written to {folder} ({error.strerror}): "
                         "enter a short name, and let ComfyUI write to this folder") from error
    return path


if importlib.util.find_spec(NEEDED):
    NODES = (TrainAdapter,)
else:
    NODES = ()
    logging.warning("The node 'Train Adapter (MDiT)' is not available: install the Python package '%s'", NEEDED)
