"""What token reductions and the 8-bit cache cost in quality on the bundled weights.

    python dev.py bench reductions [--count N] [--steps N] [--pixels N]

Each held-out label map is drawn with the same noise in every form. The bundled judge measures how well the image
follows the map. `difference` is the mean absolute difference between the pixels and the exact form's, in per cent of
the mask's own effect: the difference between the exact form and an image without a mask. `keys` is the fraction of
mask keys left. A model of 128 px has too few mask tokens to merge any. Larger images show what merging does, although
the model was not trained for them. The last line printed is one JSON object.
"""
from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from tqdm import tqdm

import comfy.utils
from devtools.bundled import MODEL, read_model_size
from mditface.mdit.evaluation.metrics.agreement import average_scores
from mditface.mdit.labelmap import CLASSES
from mditface.mdit.mditface import host
from mditface.mdit.mditface.guidance import SHEET_GUIDANCE, Guidance
from mditface.mdit.mditface.mask import MaskInput, MaskReference
from mditface.mdit.mditface.sample import sample
from mditface.mdit.mditface.reader import CacheOptions
from mditface.mdit.mditface.reductions import REDUCTIONS
from mditface.mdit.parsing import load_parser, measure_agreement
from mditface.mdit.render.caption import Caption
from mditface.mdit.render.scene import Sample, make_sample
from mditface.mdit.shared.masks import CONDITIONING_KEY

FORMS = {"exact": ("off", "auto"), "8-bit": ("off", "8-bit"),  # a mask's reduction, and the mode of the cache
         **{name: (name, "auto") for name in REDUCTIONS if name != "off"}}
SEED = 2


def draw_image(loaded: host.LoadedMDiT, text: str, mask: MaskInput | None, mode: str, steps: int, seed: int, size: int,
               guidance: Guidance = SHEET_GUIDANCE) -> np.ndarray:
    """An image (S, S, 3) uint8. mode: of the cache."""
    positive, negative = (loaded.clip.encode_from_tokens_scheduled(loaded.clip.tokenize(t)) for t in (text, ""))
    if mask is not None:
        positive = [[tokens, {**extra, CONDITIONING_KEY: MaskReference(mask)}] for tokens, extra in positive]
    space = loaded.model.model.latent_format
    side = size // space.spacial_downscale_ratio
    latent = {"samples": torch.zeros(1, space.latent_channels, side, side)}
    out, _ = sample(loaded.model, seed=seed, steps=steps, guidance=guidance, sampler_name="euler", scheduler="simple",
                    positive=positive, negative=negative, latent=latent, cache=CacheOptions(mode))
    return (loaded.vae.decode(out["samples"])[0] * 255).round().byte().numpy()


def draw_forms(loaded: host.LoadedMDiT, face: Sample, steps: int, seed: int, size: int
               ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Images of a label map in all forms and without a mask, and the fraction of keys left in each form."""
    text = Caption.short(face.attributes)
    labels = torch.from_numpy(face.label)[None]  # (1, S, S)
    model = loaded.model.model
    tokens = (size // model.latent_format.spacial_downscale_ratio // model.diffusion_model.config.patch) ** 2
    images = {}
    keys = {}
    for name, (reduction, mode) in FORMS.items():
        mask = MaskInput(labels, torch.ones(len(CLASSES)), reduction)
        images[name] = draw_image(loaded, text, mask, mode, steps, seed, size)
        (entry,) = mask.store.list_entries()
        keys[name] = entry[0][0].shape[2] / tokens
    images["none"] = draw_image(loaded, text, None, "auto", steps, seed, size)
    return images, keys


def measure(count: int, steps: int, size: int) -> dict[str, dict[str, float]]:
    """Means over the label maps of each form's figures."""
    loaded = host.load_mdit(str(MODEL))
    parser = load_parser()
    rows = {name: [] for name in FORMS}
    for i in tqdm(range(count), desc="label maps"):
        face = make_sample(SEED, i, size)
        images, keys = draw_forms(loaded, face, steps, i, size)
        exact = images["exact"].astype(float)
        effect = np.abs(images["none"] - exact).mean()
        for name in FORMS:
            figures = measure_agreement(parser.parse(images[name]), face.label)
            figures["keys"] = keys[name]
            figures["difference"] = np.abs(images[name] - exact).mean() / effect
            rows[name].append(figures)
    return {name: average_scores(found) for name, found in rows.items()}


@torch.inference_mode()
def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(prog="dev.py bench reductions", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=50, help="label maps (default: 50)")
    parser.add_argument("--steps", type=int, default=20, help="steps of a run (default: 20)")
    parser.add_argument("--pixels", type=int, default=read_model_size(),
                        help="side of the images (default: %(default)s, the bundled model's)")
    options = parser.parse_args(argv)
    comfy.utils.set_progress_bar_enabled(False)
    results = measure(options.count, options.steps, options.pixels)
    print(f"{options.count} held-out label maps, {options.pixels} px, {options.steps} steps\n")
    print(f"{'form':14}{'keys':>8}{'pixels':>9}{'mean IoU':>10}{'difference':>12}")
    for name, row in results.items():
        print(f"{name:14}{row['keys']:8.2f}{row['pixel_accuracy']:9.3f}{row['mean_iou_present']:10.3f}"
              f"{100 * row['difference']:11.2f} %")
    print("\n" + json.dumps({"bench": "reductions", "count": options.count, "steps": options.steps,
                             "pixels": options.pixels, "forms": results}))


if __name__ == "__main__":
    main()
