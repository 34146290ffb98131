"""What the ways of reading a mask cost in quality, for adapters on a small base (docs/training/adapters.md).

    python dev.py bench adapter [KEY=VALUE ...] [--config FILE] [--half FILE] [--window FILE] [--count N] [--steps N]
                                [--cfg X] [--mask-cfg X] [--sheet FILE.jpg]

The configuration is the one by which the adapter was trained. `--half` and `--window` are adapters trained by it with
`reduction=half` and `window=N text_reads_mask=false`. Each held-out label map is drawn with the same noise by the base
alone and by each form. The bundled judge measures how well the image follows the map. `difference` is the mean absolute
difference between the pixels and the exact form's, in per cent of that between the exact form and the base alone.
`keys` is the fraction of the mask's keys that an image token reads. The table's mean IoU is over the classes of the
asked map, `mean_iou_present` of the JSON object. The last line printed is one JSON object.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import comfy.utils
from mditface.mdit.datasets import Renders
from mditface.mdit.evaluation.metrics.agreement import average_scores
from mditface.mdit.labelmap import CLASSES, resize_nearest
from mditface.mdit.mditface.adapter.reader import apply_adapter
from mditface.mdit.mditface.adapter.terms import Adapter
from mditface.mdit.mditface.adapter.weights import load_adapter
from mditface.mdit.mditface.guidance import SHEET_GUIDANCE, Guidance
from mditface.mdit.mditface.host import LoadedMDiT
from mditface.mdit.mditface.mask import MaskInput
from mditface.mdit.mditface.reductions import REDUCTIONS
from mditface.mdit.parsing import load_parser, measure_agreement
from mditface.mdit.training.settings import read_settings
from mditface.mdit.training.sampling import save_sheet
from mditface.mdit.training.targets.adapter import AdapterSettings
from mditface.mdit.training.bases import load_base

from .quality.measure import shrink
from .reductions import draw_image

CONFIG = Path("mdit", "recipes", "configs", "proof-adapter.yaml")
SHEET_SIDE = 128
BASE = "base alone"
EXACT = "exact"
TRUE = "true image"
DECODED = "true image, decoded"


class Form(NamedTuple):
    """An adapter on the base, and the reduction of its masks."""
    loaded: LoadedMDiT
    adapter: Adapter
    reduction: str

    def measure_keys(self, mask: MaskInput, tokens: int) -> float:
        """Fraction of the mask's keys that an image token reads, after a run on a square grid."""
        side = int(tokens ** 0.5)
        radius = self.adapter.config.window
        if radius:
            reach = np.clip(np.arange(side)[:, None] + [-radius, radius], 0, side - 1)
            return float((reach[:, 1] - reach[:, 0] + 1).mean() / side) ** 2
        (entry,) = mask.store.list_entries()
        return entry[0][0].shape[2] / tokens


def make_forms(settings: AdapterSettings, half: Path | None, window: Path | None) -> dict[str, Form]:
    base, vae, clip = load_base(settings.base, settings.vae, settings.clip)
    files = {}
    for name, reduction in REDUCTIONS.items():
        if not (reduction.half and reduction.merge):  # each reduction alone
            path = half if reduction.half else settings.weights
            files[EXACT if name == "off" else name] = (path, name)
    files["window"] = (window, "off")
    made = {}
    for name, (path, reduction) in files.items():
        if path is not None:
            adapter = load_adapter(str(path))
            made[name] = Form(LoadedMDiT(apply_adapter(base, adapter), clip, vae), adapter, reduction)
    return made


def draw_forms(forms: dict[str, Form], label: torch.Tensor, text: str, steps: int, seed: int, size: int,
               guidance: Guidance) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Images (S, S, 3) uint8 of a label map (1, S, S) in all forms and without it, and the forms' keys."""
    exact = forms[EXACT].loaded
    cell = exact.model.model.latent_format.spacial_downscale_ratio * exact.model.model.diffusion_model.patch_size
    tokens = (size // cell) ** 2
    # Without a mask the adapter does nothing.
    images = {BASE: draw_image(exact, text, None, "auto", steps, seed, size, guidance)}
    keys = {}
    for name, form in forms.items():
        mask = MaskInput(label, torch.ones(len(CLASSES)), form.reduction, form.loaded.vae)
        images[name] = draw_image(form.loaded, text, mask, "auto", steps, seed, size, guidance)
        keys[name] = form.measure_keys(mask, tokens)
    return images, keys


def make_true_images(image: torch.Tensor, vae, size: int) -> dict[str, np.ndarray]:
    """A held-out image (S, S, 3) uint8 in the size of the others, and the same image encoded and decoded."""
    x = comfy.utils.common_upscale(image.movedim(-1, 0)[None] / 255, size, size, "bicubic", "disabled")
    x = x.movedim(1, -1).clamp(0, 1)  # (1, size, size, 3)
    return {TRUE: to_bytes(x), DECODED: to_bytes(vae.decode(vae.encode(x)))}


def to_bytes(images: torch.Tensor) -> np.ndarray:
    """The first of images (1, S, S, 3) in 0..1, as (S, S, 3) uint8."""
    return (images[0] * 255).round().to(torch.uint8).numpy()


def measure(settings: AdapterSettings, forms: dict[str, Form], faces: Renders, count: int, steps: int,
            guidance: Guidance) -> tuple[dict[str, dict[str, float]], dict[str, list[np.ndarray]]]:
    """Means over the label maps of each form's figures, and the images."""
    parser = load_parser()
    size = settings.size
    rows = {}
    shown = {}
    for i in tqdm(range(min(count, len(faces))), desc="label maps"):
        label = resize_nearest(faces.labels[i:i + 1], size, size)  # (1, size, size)
        images, keys = draw_forms(forms, label, faces.captions[i], steps, i, size, guidance)
        exact = images[EXACT].astype(float)
        effect = np.abs(images[BASE] - exact).mean()
        for name, image in (images | make_true_images(faces.images[i], forms[EXACT].loaded.vae, size)).items():
            figures = measure_agreement(parser.parse(image), label[0].numpy())
            if name in images:
                figures["difference"] = np.abs(image - exact).mean() / effect
            if name in keys:
                figures["keys"] = keys[name]
            rows.setdefault(name, []).append(figures)
            shown.setdefault(name, []).append(image)
    return {name: average_scores(found) for name, found in rows.items()}, shown


def format_table(results: dict[str, dict[str, float]]) -> str:
    lines = [f"{'':24}{'keys':>8}{'pixels':>9}{'mean IoU':>10}{'difference':>12}"]
    for name, row in results.items():
        keys = f"{row['keys']:8.2f}" if "keys" in row else " " * 8
        difference = f"{100 * row['difference']:10.1f} %" if "difference" in row else ""
        lines.append(f"{name:24}{keys}{row['pixel_accuracy']:9.3f}{row['mean_iou_present']:10.3f}{difference}")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dev.py bench adapter", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("changes", nargs="*", metavar="KEY=VALUE", help="other values of the configuration, as in training")
    add("--config", type=Path, default=CONFIG, help=f"of the adapter (default: {CONFIG})")
    add("--half", type=Path, help="an adapter trained with masks of half the resolution")
    add("--window", type=Path, help="an adapter trained with a window")
    add("--count", type=int, default=100, help="label maps (default: 100)")
    add("--steps", type=int, default=20, help="steps of a run (default: 20)")
    add("--cfg", type=float, default=SHEET_GUIDANCE.text, help="guidance of the text (default: %(default)s)")
    add("--mask-cfg", type=float, default=SHEET_GUIDANCE.mask, help="guidance of the mask (default: %(default)s)")
    add("--sheet", type=Path, help="write an image of the first twelve into this file")
    return parser


@torch.inference_mode()
def main(argv: list[str] | None = None):
    parser = make_parser()
    options = parser.parse_args(argv)
    comfy.utils.set_progress_bar_enabled(False)
    try:
        settings = read_settings(options.config, options.changes, {"adapter": AdapterSettings})
        faces = Renders(settings.heldout)
        forms = make_forms(settings, options.half, options.window)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")
    guidance = Guidance(options.cfg, options.mask_cfg)
    results, images = measure(settings, forms, faces, options.count, options.steps, guidance)
    count = len(images[EXACT])
    if options.sheet:
        labels = resize_nearest(faces.labels[:count], SHEET_SIDE, SHEET_SIDE)
        drawn = (shrink(np.stack(row[:12]), SHEET_SIDE) for name, row in images.items() if name != TRUE)
        save_sheet(options.sheet, labels[:12], *drawn)
    print(f"{count} held-out label maps, {settings.size} px, {options.steps} steps\n")
    print(format_table(results))
    print("\n" + json.dumps({"bench": "adapter", "count": count, "steps": options.steps,
                             "text_scale": guidance.text, "mask_scale": guidance.mask, "pixels": settings.size,
                             "forms": results}))


if __name__ == "__main__":
    main()
