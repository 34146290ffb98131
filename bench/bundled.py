"""What the bundled model can do, on held-out renders and on masks painted by hand.

    python dev.py bench bundled [--count 400] [--steps 20] [--sheet FILE.png]

The renders have a seed that training does not use. Images are drawn from their label maps and short captions. The judge
parses each image. Its agreement with the asked map is divided by the ceiling, its agreement on the true renders. Rules
fitted on other renders read the attributes; their ceilings are printed, too. The last line printed is one JSON object:
fractions, and seconds of one thread.
"""
from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import comfy.utils
from mditface.mdit.parsing import WEIGHTS as PARSER_WEIGHTS
from mditface.mdit.evaluation.generate import Generator, Options, load_models
from mditface.mdit.evaluation.metrics.agreement import open_parser
from mditface.mdit.evaluation.metrics.attributes import AttributeRules
from mditface.mdit.training.sampling import save_sheet

from .quality import measure

WEIGHTS = Path(measure.ROOT, "mdit", "mditface", "weights", "mditface-demo.safetensors")
HELD_OUT_SEED = 2
FIT_SEED = 3
BATCH = 16
GATES = {  # the value to reach, and the aim
    "pixel_accuracy_of_ceiling": (0.98, 1.0), "miou_of_ceiling": (0.96, 1.0),
    "hair_color": (0.75, 0.92), "clothes_color": (0.75, 0.92), "background_color": (0.75, 0.92),
    "glasses": (0.95, 0.98), "sex": (0.82, 0.9), "lipstick": (0.95, 0.97),
    "painted_pixel_accuracy": (0.88, 0.93), "seconds_per_image": (1.0, 0.5),
}


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
    add("--model", type=Path, default=WEIGHTS, help="default: the bundled weights")
    add("--parser", default=str(PARSER_WEIGHTS), help="the judge's weights (default: the bundled ones)")
    add("--sheet", type=Path, help="write an image of the painted masks into this file")
    options = parser.parse_args(argv)
    for name in ("count", "steps", "fit", "workers"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    comfy.utils.set_progress_bar_enabled(False)
    judge = open_parser(args.parser)
    models = load_models(args.model)
    generator = Generator(models, Options(steps=args.steps, cfg=args.cfg, mask_cfg=args.mask_cfg), models.size)
    heldout = measure.make_renders(HELD_OUT_SEED, models.size, args.count, args.workers)
    fitted = measure.make_renders(FIT_SEED, models.size, args.fit, args.workers)
    rules = AttributeRules(fitted, judge)
    captions = measure.make_short_captions(heldout)
    seconds = measure.time_image(generator, heldout.labels[0], captions[0])
    images = measure.draw(generator, heldout.labels, captions, BATCH, "held-out renders")
    labels, attributes = measure.score_heldout(images, heldout, judge, rules)
    ceiling, true_attributes = measure.score_heldout(heldout.images.numpy(), heldout, judge, rules)
    maps, painted, painted_scores = measure.score_painted(generator, judge, BATCH)
    if args.sheet:
        save_sheet(args.sheet, maps[:10], *painted.split(10))
    values = {"pixel_accuracy_of_ceiling": labels["pixel_accuracy"] / ceiling["pixel_accuracy"],
              "miou_of_ceiling": labels["mean_iou_present"] / ceiling["mean_iou_present"],
              **{name: row["accuracy"] for name, row in attributes.items()},
              "painted_pixel_accuracy": painted_scores["pixel_accuracy"], "seconds_per_image": seconds}
    show(values, ceiling, true_attributes)
    print(json.dumps({"bench": "bundled", "count": len(heldout), "steps": args.steps, "cfg": args.cfg,
                      "mask_cfg": args.mask_cfg, "size": models.size, **values,
                      "generated": labels, "ceiling": ceiling, "attributes": attributes,
                      "attributes_ceiling": true_attributes}))


def show(values: dict[str, float], ceiling: dict, true_attributes: dict) -> None:
    """A line for each value, its gate and aim, and whether the gate holds."""
    print(f"judge on the true renders: pixel accuracy {ceiling['pixel_accuracy']:.4f}, "
          f"mean IoU of the asked classes {ceiling['mean_iou_present']:.4f}")
    print(f"{'measure':28s} {'value':>7s} {'gate':>6s} {'aim':>6s} {'ceiling':>8s}")
    for name, value in values.items():
        gate, aim = GATES.get(name, (None, None))
        limits = " ".join(f"{'' if limit is None else limit:>6}" for limit in (gate, aim))
        top = f"{true_attributes[name]['accuracy']:8.3f}" if name in true_attributes else " " * 8
        print(f"{name:28s} {value:7.3f} {limits} {top} {judge_value(name, value)}")


def judge_value(name: str, value: float) -> str:
    if name not in GATES:
        return ""
    better = -1 if name == "seconds_per_image" else 1
    gate, aim = (better * limit for limit in GATES[name])
    return "aim reached" if better * value >= aim else "passed" if better * value >= gate else "MISSED"


if __name__ == "__main__":
    main()
