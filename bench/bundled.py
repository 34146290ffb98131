"""What the bundled model can do, on held-out renders and on masks painted by hand.

    python dev.py bench bundled [--count 400] [--steps 20] [--sheet FILE.png] [--heldout-sheet FILE.png]

The renders have a seed that training does not use. Images are drawn from their label maps and short captions. The judge
parses each image. Its agreement with the asked map is divided by the ceiling, its agreement on the true renders. Rules
fitted on other renders read the attributes; their ceilings are printed, too. `quality/look.py` tells how the images
look beside the renders. The last line printed is one JSON object: fractions, decibels, and seconds of one thread.
"""
from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from torch import Tensor

import comfy.utils
from devtools.bundled import MODEL as WEIGHTS
from mditface.mdit.datasets import Renders
from mditface.mdit.parsing import WEIGHTS as PARSER_WEIGHTS
from mditface.mdit.parsing import FaceParser, load_parser
from mditface.mdit.evaluation.generate import Generator, Models, Options, load_models
from mditface.mdit.evaluation.metrics.agreement import open_parser
from mditface.mdit.evaluation.metrics.attributes import AttributeRules
from mditface.mdit.training.sampling import save_sheet

from .quality import look, measure

SMALLER = Path(measure.ROOT, "runs", "demo-fine", WEIGHTS.name)  # where the recipe leaves the model that draws 128 px
HELD_OUT_SEED = 2
FIT_SEED = 3
BATCH = 16
LIVE_STEPS = 6
SHEET_SIDE = 256  # pixels of an image on a sheet, at most
SHEET_COUNT = 12
SMALLEST_KID = 1e-6  # of few images it can be below zero

Gates = dict[str, tuple[float, float]]  # the value to reach, and the aim

GATES = {  # of a model that draws pixels
    "pixel_accuracy_of_ceiling": (0.98, 1.0), "miou_of_ceiling": (0.96, 1.0),
    "hair_color": (0.75, 0.92), "clothes_color": (0.75, 0.92), "background_color": (0.75, 0.92),
    "glasses": (0.95, 0.98), "sex": (0.82, 0.9), "lipstick": (0.95, 0.97),
    "painted_pixel_accuracy": (0.88, 0.93), "seconds_per_image": (1.0, 0.5),
}
LATENT_GATES = {  # of a model on latents
    "pixel_accuracy_of_ceiling": (0.99, 1.0), "miou_of_ceiling": (0.965, 0.985),
    "hair_color": (0.95, 0.99), "clothes_color": (0.95, 0.99), "background_color": (0.95, 0.99),
    "glasses": (0.97, 0.99), "sex": (0.9, 0.95), "lipstick": (0.95, 0.97), "facial_hair": (0.95, 0.97),
    "hat": (0.97, 0.99), "painted_pixel_accuracy": (0.93, 0.96), "reconstruction_psnr": (30, 32),
    "reconstruction_miou_of_ceiling": (0.99, 1.0), "sharpness": (0.8, 0.95), "kid_of_before": (0.5, 0.25),
    "seed_difference": (0.5, 0.9), "seconds_per_image": (3.0, 1.5), "seconds_live": (1.0, 0.5),
}
LOWER_IS_BETTER = ("kid_of_before", "seconds_per_image", "seconds_live")


def parse(argv: list[str] | None) -> argparse.Namespace:
    defaults = Options()
    parser = argparse.ArgumentParser(prog="dev.py bench bundled", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--count", type=int, default=400, help="held-out renders (default: 400)")
    add("--steps", type=int, default=defaults.steps, help=f"default: {defaults.steps}")
    add("--cfg", type=float, default=defaults.cfg, help=f"guidance of the text (default: {defaults.cfg})")
    add("--mask-cfg", type=float, default=defaults.mask_cfg, help=f"and of the mask (default: {defaults.mask_cfg})")
    add("--fit", type=int, default=1500, help="renders on which the rules are fitted (default: 1500)")
    add("--workers", type=int, default=os.cpu_count(), help="processes that render (default: one a core)")
    add("--live-steps", type=int, default=LIVE_STEPS, help=f"steps while one paints (default: {LIVE_STEPS})")
    add("--model", type=Path, default=WEIGHTS, help="default: the bundled weights")
    add("--before", type=Path, default=SMALLER if SMALLER.is_file() else WEIGHTS,
        help="weights whose images, enlarged, are compared with the model's by KID (default: "
             f"{SMALLER.relative_to(measure.ROOT)} if it is there, else the bundled weights)")
    add("--parser", default=str(PARSER_WEIGHTS), help="the judge's weights (default: the bundled ones)")
    add("--sheet", type=Path, help="write an image of the painted masks into this file")
    add("--heldout-sheet", type=Path, help="and one of the first held-out maps, their images and the true renders")
    options = parser.parse_args(argv)
    for name in ("count", "steps", "live_steps", "fit", "workers"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    comfy.utils.set_progress_bar_enabled(False)
    judge = open_parser(args.parser)
    models = load_models(args.model)
    generator = make_generator(models, args, args.steps)
    heldout = measure.make_renders(HELD_OUT_SEED, models.size, args.count, args.workers)
    fitted = measure.make_renders(FIT_SEED, models.size, args.fit, args.workers)
    rules = AttributeRules(fitted, judge)
    captions = measure.make_short_captions(heldout)
    live = make_generator(models, args, args.live_steps)
    seconds = {"seconds_per_image": measure.time_image(generator, heldout.labels[0], captions[0]),
               "seconds_live": measure.time_image(live, heldout.labels[0], captions[0])}
    images = measure.draw(generator, heldout.labels, captions, BATCH, "held-out renders")
    labels, attributes = measure.score_heldout(images, heldout, judge, rules)
    ceiling, true_attributes = measure.score_heldout(heldout.images.numpy(), heldout, judge, rules)
    maps, painted, painted_scores = measure.score_painted(generator, judge, BATCH)
    save_sheets(args, maps, painted, heldout=heldout, images=images)
    values = {"pixel_accuracy_of_ceiling": labels["pixel_accuracy"] / ceiling["pixel_accuracy"],
              "miou_of_ceiling": labels["mean_iou_present"] / ceiling["mean_iou_present"],
              **{name: row["accuracy"] for name, row in attributes.items()},
              "painted_pixel_accuracy": painted_scores["pixel_accuracy"],
              **measure_look(images, heldout, captions, generator, args), **seconds}
    if "reconstruction_miou" in values:
        values["reconstruction_miou_of_ceiling"] = values["reconstruction_miou"] / ceiling["mean_iou_present"]
    show(values, ceiling, true_attributes, LATENT_GATES if has_autoencoder(models) else GATES)
    print(json.dumps({"bench": "bundled", "count": len(heldout), "steps": args.steps, "live_steps": args.live_steps,
                      "cfg": args.cfg, "mask_cfg": args.mask_cfg, "size": models.size, "pixels": models.size, **values,
                      "generated": labels, "ceiling": ceiling, "attributes": attributes,
                      "attributes_ceiling": true_attributes}))


def save_sheets(args: argparse.Namespace, maps: Tensor, painted: Tensor, *, heldout: Renders, images: np.ndarray
                ) -> None:
    """The sheets that `args` asks for. maps, painted: as of `measure.score_painted`; images: of the held-out maps."""
    side = min(images.shape[1], SHEET_SIDE)
    if args.sheet:
        save_sheet(args.sheet, maps[:10], *measure.shrink(painted.numpy(), side).split(10))
    if args.heldout_sheet:
        rows = (measure.shrink(row[:SHEET_COUNT], side) for row in (images, heldout.images.numpy()))
        save_sheet(args.heldout_sheet, heldout.labels[:SHEET_COUNT], *rows)


def make_generator(models: Models, args: argparse.Namespace, steps: int) -> Generator:
    return Generator(models, Options(steps=steps, cfg=args.cfg, mask_cfg=args.mask_cfg), models.size)


def has_autoencoder(models: Models) -> bool:
    return models.model.model.latent_format.spacial_downscale_ratio > 1


def measure_look(images: np.ndarray, heldout: Renders, captions: list[str], generator: Generator,
                 args: argparse.Namespace) -> dict[str, float]:
    """The measures of `quality/look.py` for images (N, S, S, 3) uint8 of the held-out maps and captions."""
    true = heldout.images.numpy()
    labels = heldout.labels.numpy()
    parser = load_parser(args.parser if args.parser.endswith(".safetensors") else PARSER_WEIGHTS)
    distances = look.measure_distances(images, true, parser)
    before = distances if args.before == args.model else measure_before(heldout, captions, parser, args)
    found = {"sharpness": look.measure_gradient(images, labels) / look.measure_gradient(true, labels),
             **distances, "kid_before": before["kid"], "fid_before": before["fid"],
             "kid_of_before": distances["kid"] / max(before["kid"], SMALLEST_KID),
             "seed_difference": look.measure_seed_difference(generator, heldout, captions, HELD_OUT_SEED)}
    if has_autoencoder(generator.models):
        found |= look.measure_reconstruction(generator.models.vae, heldout, parser)
    return found


def measure_before(heldout: Renders, captions: list[str], parser: FaceParser, args: argparse.Namespace
                   ) -> dict[str, float]:
    """KID and FID of the images, enlarged, that the weights `args.before` draw."""
    generator = make_generator(load_models(args.before), args, args.steps)
    images = measure.draw(generator, heldout.labels, captions, BATCH, "weights before")
    true = heldout.images.numpy()
    return look.measure_distances(look.enlarge(images, true.shape[1]), true, parser)


def show(values: dict[str, float], ceiling: dict, true_attributes: dict, gates: Gates) -> None:
    """A line for each value, its gate and aim, and whether the gate holds."""
    print(f"judge on the true renders: pixel accuracy {ceiling['pixel_accuracy']:.4f}, "
          f"mean IoU of the asked classes {ceiling['mean_iou_present']:.4f}")
    print(f"{'measure':30s} {'value':>7s} {'gate':>6s} {'aim':>6s} {'ceiling':>8s}")
    for name, value in values.items():
        gate, aim = gates.get(name, (None, None))
        limits = " ".join(f"{'' if limit is None else limit:>6}" for limit in (gate, aim))
        top = f"{true_attributes[name]['accuracy']:8.3f}" if name in true_attributes else " " * 8
        print(f"{name:30s} {value:7.3f} {limits} {top} {judge_value(name, value, gates)}")


def judge_value(name: str, value: float, gates: Gates) -> str:
    if name not in gates:
        return ""
    better = -1 if name in LOWER_IS_BETTER else 1
    gate, aim = (better * limit for limit in gates[name])
    return "aim reached" if better * value >= aim else "passed" if better * value >= gate else "MISSED"


if __name__ == "__main__":
    main()
