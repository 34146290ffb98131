"""What token reductions and the 8-bit cache cost in quality on the bundled weights.

    python dev.py bench reductions [--count N] [--steps N] [--pixels N]

Each held-out label map is drawn with the same noise in every form. The bundled judge says how well the picture
follows the map; `difference` is the mean absolute difference of the pixels to the exact form's, in per cent of that
between the exact form and a picture without a mask: of the mask's own effect. `keys` is the share of mask keys left.
The bundled model was trained at 128 px, where its 8 x 8 mask tokens are too few for any to be merged; larger pictures
show what merging does, though the model is not at home there.
The last line printed is one JSON object.
"""
from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from tqdm import tqdm

import comfy.utils
from mditface.mdit.labelmap import CLASSES
from mditface.mdit.mditface import host
from mditface.mdit.mditface.guidance import SHEET_GUIDANCE, Guidance
from mditface.mdit.mditface.mask import CONDITIONING_KEY, MaskInput, MaskReference
from mditface.mdit.mditface.sample import sample
from mditface.mdit.mditface.reader import CacheOptions
from mditface.mdit.mditface.reductions import REDUCTIONS
from mditface.mdit.parsing import load_parser, measure_agreement
from mditface.mdit.render.caption import Caption
from mditface.mdit.render.scene import make_sample
from mditface.nodes.loading import BUNDLED

FORMS = {"exact": ("off", "auto"), "8-bit": ("off", "8-bit"),  # a mask's reduction, and the mode of the cache
         **{name: (name, "auto") for name in REDUCTIONS if name != "off"}}
SEED = 2


def draw(loaded: host.LoadedMDiT, text: str, mask: MaskInput | None, mode: str, steps: int, seed: int, size: int,
         guidance: Guidance = SHEET_GUIDANCE) -> np.ndarray:
    """A picture (S, S, 3) uint8."""
    positive, negative = (loaded.clip.encode_from_tokens_scheduled(loaded.clip.tokenize(t)) for t in (text, ""))
    if mask is not None:
        positive = [[tokens, {**extra, CONDITIONING_KEY: MaskReference(mask)}] for tokens, extra in positive]
    space = loaded.model.model.latent_format
    side = size // space.spacial_downscale_ratio
    latent = {"samples": torch.zeros(1, space.latent_channels, side, side)}
    out, _ = sample(loaded.model, seed=seed, steps=steps, guidance=guidance, sampler_name="euler", scheduler="simple",
                    positive=positive, negative=negative, latent=latent, cache=CacheOptions(mode))
    return (loaded.vae.decode(out["samples"])[0] * 255).round().byte().numpy()


def drawn(loaded: host.LoadedMDiT, index: int, steps: int, size: int
          ) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, float]]:
    """A label map, its pictures in all forms and without a mask, and the share of keys left in each form."""
    face = make_sample(SEED, index, size)
    text, labels, pictures, keys = Caption.short(face.attributes), torch.from_numpy(face.label)[None], {}, {}
    for name, (reduction, mode) in FORMS.items():
        mask = MaskInput(labels, torch.ones(len(CLASSES)), reduction)
        pictures[name] = draw(loaded, text, mask, mode, steps, index, size)
        (entry,) = mask.store.cache.entries.values()
        keys[name] = entry[0][0].shape[2] / (size // loaded.model.model.diffusion_model.config.patch) ** 2
    pictures["none"] = draw(loaded, text, None, "auto", steps, index, size)
    return face.label, pictures, keys


def measure(count: int, steps: int, size: int) -> dict[str, dict[str, float]]:
    """Means over the label maps of each form's figures."""
    loaded, parser, rows = host.load(str(BUNDLED / "mditface-demo.safetensors")), load_parser(), {n: [] for n in FORMS}
    for i in tqdm(range(count), desc="label maps"):
        label, pictures, keys = drawn(loaded, i, steps, size)
        exact = pictures["exact"].astype(float)
        effect = np.abs(pictures["none"] - exact).mean()
        for name in FORMS:
            rows[name].append({**measure_agreement(parser.parse(pictures[name]), label), "keys": keys[name],
                               "difference": np.abs(pictures[name] - exact).mean() / effect})
    return {name: {key: float(np.mean([row[key] for row in found])) for key in found[0]}
            for name, found in rows.items()}


@torch.inference_mode()
def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(prog="dev.py bench reductions", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=50, help="label maps (default: 50)")
    parser.add_argument("--steps", type=int, default=20, help="steps of a run (default: 20)")
    parser.add_argument("--pixels", type=int, default=128, help="side of the pictures (default: 128)")
    options = parser.parse_args(argv)
    comfy.utils.set_progress_bar_enabled(False)
    results = measure(options.count, options.steps, options.pixels)
    print(f"{options.count} held-out label maps, {options.pixels} px, {options.steps} steps\n")
    print(f"{'form':14}{'keys':>8}{'pixels':>9}{'mean IoU':>10}{'difference':>12}")
    for name, row in results.items():
        print(f"{name:14}{row['keys']:8.2f}{row['pixel_accuracy']:9.3f}{row['mean_iou_present']:10.3f}"
              f"{100 * row['difference']:11.2f} %")
    print("\n" + json.dumps({"bench": "reductions", "count": options.count, "steps": options.steps,
                              "pixels": options.pixels,
                              "forms": results}))


if __name__ == "__main__":
    main()
