"""Training an adapter inside the host, on the data of a graph, with its progress bar, previews and Cancel button."""
from __future__ import annotations

import gc
import hashlib
import logging
import math
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

import comfy.model_management
import comfy.utils
from comfy.model_management import InterruptProcessingException, throw_exception_if_processing_interrupted
from comfy.model_patcher import ModelPatcher

from ..labelmap import CLASSES, DISPLAY_NAMES, resize_nearest, to_image
from ..mditface.adapter.reader import check_model
from ..mditface.reader import reads_masks
from ..shared.digests import add_value
from ..shared.frames import encode_pictures
from .targets.adapter import SHEET_COUNT, AdapterSettings, AdapterTarget
from .trainer import LOG, Trainer, check_space, read_log

DTYPES = {"bf16": torch.bfloat16, "no": torch.float32}
WIDTHS = {"context": "its text is {} wide", "pooled": "its pooled text {}"}
ASPECT = 0.05  # relative difference of aspects that is allowed: a VAE crops images to whole cells
PREVIEW_PIXELS = 1024
ONE_CLASS = 0.99  # fraction of the pixels from which label maps teach nothing
WARMUP = 20  # steps, for runs of any length: a run may resume with another number of steps


def find_file(model: ModelPatcher) -> Path:
    """The file that a MODEL of the host was loaded from; the trainer loads its own copy from it.

    Raises ValueError for a model that cannot be trained on.
    """
    check_model(model)
    if reads_masks(model):
        raise ValueError("model: it already has an adapter: connect the model without 'Apply Adapter (MDiT)'")
    if model.cached_patcher_init is None:
        raise ValueError("model: the trainer loads a copy, but the loader of this model does not name the file: "
                         "use 'Load Diffusion Model' or 'Load Checkpoint'")
    management = comfy.model_management
    for option, enabled in (("--use-sage-attention", management.sage_attention_enabled()),
                            ("--use-flash-attention", management.flash_attention_enabled())):
        if enabled:
            raise ValueError(f"model: ComfyUI runs with {option}, whose attention has no gradients: start ComfyUI "
                             "without that option to train")
    return Path(model.cached_patcher_init[1][0])


def make_samples(model: ModelPatcher, latents: list[dict], conditioning: list[list], label_maps: list[Tensor]
               ) -> list[dict[str, Tensor]]:
    """The samples of an AdapterTarget, on the CPU, still without the encoded masks.

    latents: the host's LATENTs of (b, C, h, w), or of (b, C, 1, h, w) where the model's have frames.
    conditioning: the host's CONDITIONINGs, with one entry for each latent, or one for all.
    label_maps: (b, H, W) class indices, one for each latent.
    Raises ValueError where they do not fit each other or the model.
    """
    images = [image.squeeze(-3) if image.ndim == 4 else image
              for latent in latents for image in latent["samples"]]  # each (C, h, w)
    texts = [read_text(model, entry) for entries in conditioning for entry in entries]
    maps = [labels for batch in label_maps for labels in batch]
    if len(maps) != len(images):
        raise ValueError(f"label_maps: {len(maps)} label maps for {len(images)} latents: connect one for each latent")
    if len(texts) not in (1, len(images)):
        raise ValueError(f"conditioning: {len(texts)} captions for {len(images)} latents: connect one for each "
                         "latent, or one for all")
    texts = texts * len(images) if len(texts) == 1 else texts
    check_classes(maps)
    samples = []
    for number, (image, text, labels) in enumerate(zip(images, texts, maps), 1):
        sample = {"latent": image.float(), "labels": fit_labels(model, image, labels, number), **text}
        samples.append({name: tensor.cpu() for name, tensor in sample.items()})
    return samples


def read_text(model: ModelPatcher, entry: tuple[Tensor, dict]) -> dict[str, Tensor]:
    """context (L, D) and, where the model reads it, pooled (P,) of a CONDITIONING's entry."""
    tensors = {"context": entry[0], "pooled": entry[1].get("pooled_output")}
    network = model.model.diffusion_model
    layers = check_model(model).text_layers
    expected = {name: network.get_submodule(layer).in_features for name, layer in layers.items()}
    found = {name: None if tensors[name] is None else tensors[name].shape[-1] for name in layers}
    if found != expected:
        widths = " and ".join(WIDTHS[name].format(width or "missing") for name, width in found.items())
        needed = " and ".join(str(width) for width in expected.values())
        raise ValueError(f"conditioning: {widths}, the model needs {needed}: encode captions with the model's CLIP")
    return {name: tensors[name][0] for name in layers}


def check_classes(maps: list[Tensor]) -> None:
    """Raises ValueError for label maps (H, W) that are nearly all one class: an adapter learns nothing from them."""
    pixels = sum(labels.flatten().long().bincount(minlength=len(CLASSES)) for labels in maps)
    fraction = (pixels.max() / pixels.sum()).item()
    if fraction > ONE_CLASS:
        raise ValueError(f"label_maps: {fraction:.1%} of their pixels are one class, {DISPLAY_NAMES[pixels.argmax()]}: "
                         "connect label maps, not images or masks, and choose their palette and order")


def fit_labels(model: ModelPatcher, latent: Tensor, labels: Tensor, number: int) -> Tensor:
    """A label map (H, W) in the size of the image of a latent (C, h, w)."""
    channels = model.model.latent_format.latent_channels
    pixels = model.model.latent_format.spacial_downscale_ratio
    if latent.ndim != 3 or latent.shape[0] != channels:
        raise ValueError(f"latents: number {number} has shape {tuple(latent.shape)}, the model works on ({channels}, "
                         "height, width): encode the images with the model's VAE, one at a time")
    if not latent.isfinite().all():
        raise ValueError(f"latents: number {number} holds values that are not finite: encode its image again, with the "
                         "VAE in fp32 (option --fp32-vae of ComfyUI)")
    height, width = labels.shape
    h, w = (side * pixels for side in latent.shape[1:])
    if not math.isclose(height / width, h / w, rel_tol=ASPECT):
        raise ValueError(f"label_maps: number {number} is {width} x {height} pixels, its image {w} x {h}: crop label "
                         "maps and images alike")
    return resize_nearest(labels[None], h, w)[0]


def make_settings(chosen: dict, base: Path, output: Path, weights: Path, precision: str) -> AdapterSettings:
    """The trainer's settings for the values of the node's inputs."""
    steps = chosen["steps"]
    rank = chosen["rank"]
    window = chosen["window"]
    every = {"log": 1, "checkpoint": chosen["checkpoint_steps"], "sheet": chosen["preview_steps"] or steps + 1,
             "metrics": steps}
    return AdapterSettings(
        target="adapter", base=base, data=Path(), output=output, weights=weights, steps=steps,
        batch=chosen["batch_size"], optimiser={"adamw": chosen["learning_rate"], "weight_decay": 0.01},
        schedule={"warmup": WARMUP, "decay": 0.3}, ema=0.999, seed=chosen["seed"],
        precision=precision, gradient_checkpointing=chosen["gradient_checkpointing"], every=every, rank=rank,
        alpha=rank, window=window, text_reads_mask=not window, reduction=chosen["token_reduction"],
        drop={"text": chosen["drop_text"], "mask": chosen["drop_mask"]})


def name_run(settings: AdapterSettings, model: ModelPatcher, samples: list[dict[str, Tensor]]) -> str:
    """Tells runs of other settings, models or data apart; the number of steps is not among them."""
    digest = hashlib.blake2b(digest_size=6)
    add_value(digest, [settings.describe_recipe(), model.patches, samples])
    return digest.hexdigest()


class GraphTarget(AdapterTarget):
    """Shows its progress and its sheets on the running node.

    The sheets show the first samples. The VAE works only before training and for the sheets.
    """

    def __init__(self, settings: AdapterSettings, base: ModelPatcher, samples: list[dict[str, Tensor]], vae,
                 empty: dict[str, Tensor] | None):
        self.progress = comfy.utils.ProgressBar(settings.steps)
        sizes = [sample["latent"].shape for sample in samples]
        shown = [sample for sample, size in zip(samples, sizes) if size == sizes[0]][:SHEET_COUNT]
        super().__init__(settings, base, samples, heldout=shown if settings.every.sheet <= settings.steps else (),
                         sizes=sizes, vae=vae, empty=empty)
        for labels in {size: sample["labels"] for size, sample in zip(sizes, samples)}.values():
            self.encode(torch.zeros_like(labels[None]))  # before training, for maps whose classes are hidden
        self.load()

    def report(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise ValueError(f"learning_rate: the loss of step {step} is not finite: lower the rate, or set precision "
                             "to fp32")
        self.progress.update_absolute(step)

    def draw_sheet(self):
        image = super().draw_sheet()
        if image is not None:
            preview = ("JPEG", Image.fromarray(image), PREVIEW_PIXELS)
            self.progress.update_absolute(self.progress.current, preview=preview)
        return image

    def measure(self) -> dict[str, float]:
        return {}


@torch.no_grad()
def encode_masks(samples: list[dict[str, Tensor]], vae) -> None:
    """Adds `mask_latent` to the samples."""
    progress = comfy.utils.ProgressBar(len(samples))
    for sample in samples:
        throw_exception_if_processing_interrupted()
        sample["mask_latent"] = encode_pictures(vae, to_image(sample["labels"][None]))[0]
        shapes = [tuple(sample[name].shape) for name in ("mask_latent", "latent")]
        if shapes[0] != shapes[1]:
            raise ValueError(f"vae: it makes latents {shapes[0]}, but the data set has latents {shapes[1]}: connect "
                             "the VAE that encoded the images")
        progress.update(1)


@torch.inference_mode(False)
def train(model: ModelPatcher, settings: AdapterSettings, samples: list[dict[str, Tensor]], vae,
          empty: dict[str, Tensor] | None) -> list[float]:
    """Trains an adapter and writes its file; returns the loss of each step.

    The run's own folder in `settings.output` holds its checkpoints until the file is written. A run that was
    cancelled, or whose process ended, resumes from its last checkpoint when it is started again. Cancel writes a
    checkpoint. The model does not change.
    """
    if len(samples) < settings.batch:
        raise ValueError(f"batch_size: {settings.batch} is more than the {len(samples)} latents: lower the size, or "
                         "add images")
    settings = settings.model_copy(update={"output": settings.output / name_run(settings, model, samples)})
    encode_masks(samples, vae)
    base = model.clone(disable_dynamic=True, force_deepcopy=True)
    base.set_model_compute_dtype(DTYPES[settings.precision])
    shared = is_initialized()
    try:
        run(settings, base, samples, vae, empty)
    finally:
        comfy.model_management.unload_model_and_clones(base)
        if not shared:  # else no other pack could take another precision in this process
            AcceleratorState._reset_state(reset_partial_state=True)
    del base
    gc.collect()  # the copy of the model is in cycles; after Cancel the host does this
    losses = read_losses(settings.output / LOG)
    shutil.rmtree(settings.output)
    return losses


def read_losses(log: Path) -> list[float]:
    """The loss of each step that a log tells."""
    return list({line["step"]: line["loss"] for line in read_log(log) if "loss" in line}.values())


def run(settings: AdapterSettings, base: ModelPatcher, samples: list[dict[str, Tensor]], vae,
        empty: dict[str, Tensor] | None) -> None:
    """Trains to the end. On Cancel, which the host's layers raise, it writes a checkpoint and raises again."""
    target = GraphTarget(settings, base, samples, vae, empty)
    check_space(settings.output, target.module, "filename_prefix")
    trainer = Trainer(target, Accelerator(cpu=base.load_device.type == "cpu", project_dir=settings.output))
    try:
        trainer.fit(target.report)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"filename_prefix: a file of the run cannot be written ({error}): make room on the disk, then "
                         f"start the run again; it goes on from its last checkpoint in {settings.output}") from error
    except InterruptProcessingException:
        if trainer.step:
            trainer.save_checkpoint()
            logging.info("cancelled after step %d of %d", trainer.step, settings.steps)
        raise
