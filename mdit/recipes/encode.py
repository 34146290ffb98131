"""Samples of a data set, encoded by the host's own VAE and text encoders."""
from __future__ import annotations

import gc
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

import comfy.sd

from ..labelmap import to_image
from ..datasets import CachedDataset, find_bucket_sizes, open_faces
from ..datasets.augment import mirror_sample
from ..datasets.images import fit_to_size, read_labels
from ..datasets.layouts import read_order
from ..shared.digests import compute_file_digest
from ..shared.frames import encode_pictures
from ..shared.text_files import read_text
from ..training.bases import check_files, load_base, load_clip, load_vae
from ..training.settings import EncodedSettings
from ..training.targets.adapter import AdapterSettings, AdapterTarget
from .targets.sd3 import SD3Settings, SD3Target

MULTIPLE = 16  # pixels: the VAE's factor 8 times the patch of 2


class Encoder:
    """sample -> dict(latent, mask_latent, labels, context, pooled), with further captions and, if asked, the mirrored
    image and label map under the names that `choose_view` reads."""

    def __init__(self, vae: comfy.sd.VAE, clip: comfy.sd.CLIP, mirror: bool = False):
        self.vae = vae
        self.clip = clip
        self.mirror = mirror

    def __call__(self, sample: dict) -> dict[str, Tensor]:
        encoded = {"labels": sample["labels"], **self.encode_image(sample)}
        if self.mirror:
            mirrored = self.encode_image(mirror_sample(sample))
            encoded |= {f"{name}.mirrored": latent for name, latent in mirrored.items()}
        for number, caption in enumerate(sample["captions"] or [""]):
            text = self.encode_text(caption)
            encoded |= {f"{name}.{number}" if number else name: x for name, x in text.items()}
        return encoded

    def encode_image(self, sample: dict) -> dict[str, Tensor]:
        """Latents (C, h, w) of the image and of the label map."""
        image = sample["image"].movedim(0, -1)[None] / 255  # (1, H, W, 3)
        return {"latent": encode_pictures(self.vae, image)[0],
                "mask_latent": encode_pictures(self.vae, to_image(sample["labels"][None]))[0]}

    @torch.no_grad()
    def encode_text(self, caption: str) -> dict[str, Tensor]:
        context, pooled = self.clip.encode_from_tokens(self.clip.tokenize(caption), return_pooled=True)
        text = {"context": context[0].cpu()}
        return text if pooled is None else {**text, "pooled": pooled[0].cpu()}


def encode_folder(folder: Path, settings: EncodedSettings, encoder: Encoder, key: dict) -> CachedDataset:
    """The samples of a folder, encoded into the cache before training starts, each process its part."""
    faces = open_faces(folder)
    sizes = find_bucket_sizes(faces.sizes, settings.size ** 2, MULTIPLE)
    dataset = CachedDataset(faces.resize(sizes), encoder, settings.cache or settings.output / "cache", key)
    state = PartialState()
    dataset.fill(state.process_index, state.num_processes)
    state.wait_for_everyone()
    dataset.close()
    return dataset


def encode_sheet(folder: Path, size: int, encoder: Encoder) -> list[dict[str, Tensor]]:
    """The label maps NAME.png of a folder, cut to squares, with the prompts NAME.txt beside them.

    Raises FileNotFoundError for a folder without label maps, ValueError for one that cannot be read or has no prompt.
    """
    side = size // MULTIPLE * MULTIPLE
    order = read_order(folder, None)
    samples = []
    for file in sorted(folder.glob("*.png")):
        prompt = file.with_suffix(".txt")
        if not prompt.is_file():
            raise ValueError(f"sheet: {prompt} is missing: write the prompt of {file.name} into it")
        labels = read_labels(file, order)
        blank, labels = fit_to_size(torch.zeros(3, *labels.shape, dtype=torch.uint8), labels, (side, side))
        samples.append(encoder({"image": blank, "labels": labels, "captions": [read_text(prompt).strip()]}))
    if not samples:
        raise FileNotFoundError(f"sheet: no label map NAME.png in {folder}")
    return samples


def encode_samples(settings: EncodedSettings, vae, clip, files: tuple[Path, ...]) -> dict:
    """Arguments of a target: samples, held-out samples, VAE and the empty prompt. files: of VAE and text encoders."""
    encoder = Encoder(vae, clip, bool(settings.mirror))
    key = {"files": list(map(compute_file_digest, files)), "captions": "all", "mirror": encoder.mirror}
    heldout = encode_folder(settings.heldout, settings, encoder, key) if settings.heldout else ()
    return {"samples": encode_folder(settings.data, settings, encoder, key), "heldout": heldout, "vae": vae,
            "empty": encoder.encode_text("")}


@torch.inference_mode(False)
def open_adapter(settings: AdapterSettings) -> AdapterTarget:
    """The target made of the files that the settings name."""
    base, vae, clip = load_base(settings.base, settings.vae, settings.clip)
    files = (settings.vae or settings.base, *(settings.clip or [settings.base]))
    shown = encode_sheet(settings.sheet, settings.size, Encoder(vae, clip)) if settings.sheet else ()
    made = encode_samples(settings, vae, clip, files)
    del clip
    gc.collect()  # the text encoders, whose patchers are in cycles, before the base takes memory
    return AdapterTarget(settings, base, **made, sizes=made["samples"].sizes, shown=shown)


@torch.inference_mode(False)
def open_sd3(settings: SD3Settings) -> SD3Target:
    """The target made of the files that the settings name."""
    check_files([settings.vae, *settings.clip])
    vae = load_vae(settings.vae)
    clip = load_clip(settings.clip, comfy.sd.CLIPType.SD3)
    return SD3Target(settings, **encode_samples(settings, vae, clip, (settings.vae, *settings.clip)))
