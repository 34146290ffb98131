"""Train the face parser that judges pictures: ``python -m mdit.training.judge TRAIN --heldout HELDOUT``."""
from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..labelmap import CLASSES
from ..parsing import WEIGHTS, FaceParser, load_parser, score
from .data import Faces, mirror

RARITY = 0.3  # power of a class's rarity in its weight
PEAK_RATE, WARMUP, BATCH, SAVE_STEPS = 3e-3, 50, 32, 100


def class_weights(labels: Tensor) -> Tensor:
    """(19,), larger for rarer classes, 1 in the mean over pixels."""
    share = torch.bincount(labels.flatten().long(), minlength=len(CLASSES)).clamp(min=1) / labels.numel()
    weight = share ** -RARITY
    return weight / (share * weight).sum()


def vary(images: Tensor, rng: torch.Generator) -> Tensor:
    """Other gains and offsets of the channels, and noise: what a generator may do to a picture."""
    batch = images.shape[0]
    gain, offset = torch.rand(2, batch, 3, 1, 1, generator=rng)
    noise = torch.randn(images.shape, generator=rng) * 0.06 * torch.rand(batch, 1, 1, 1, generator=rng)
    return images * (0.8 + 0.4 * gain) + 0.3 * (offset - 0.5) + noise


def save(parser: FaceParser, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: (w.half() if w.is_floating_point() else w).contiguous()
               for name, w in parser.state_dict().items()}, path)


def train(faces: Faces, path: Path, minutes: float, seed: int) -> None:
    """Trains for a span of wall clock and saves on the way."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    parser = FaceParser().to(memory_format=torch.channels_last)
    weights = class_weights(faces.labels[:2000])
    optimiser = torch.optim.AdamW(parser.parameters(), PEAK_RATE, weight_decay=1e-4)
    started, step, bar = time.monotonic(), 0, tqdm(mininterval=10)
    while (progress := (time.monotonic() - started) / (60 * minutes)) < 1:
        optimiser.param_groups[0]["lr"] = PEAK_RATE * min((step + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * progress))
        index = torch.randint(len(faces), (BATCH,), generator=rng)
        images, labels = mirror(faces.pictures(index), faces.labels[index], torch.rand(BATCH, generator=rng) < 0.5)
        with torch.autocast("cpu", torch.bfloat16):
            logits = parser(vary(images, rng).to(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels.long(), weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        bar.set_postfix(loss=f"{loss.item():.3f}", done=f"{progress:.0%}", refresh=False)
        bar.update()
        if step % SAVE_STEPS == 0:
            save(parser, path)
    save(parser, path)


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m mdit.training.judge", description=__doc__)
    arguments.add_argument("data", type=Path, help="folder of training shards")
    arguments.add_argument("--heldout", type=Path, required=True, help="folder of shards to score the parser on")
    arguments.add_argument("--out", type=Path, default=WEIGHTS)
    arguments.add_argument("--minutes", type=float, default=20)
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args()
    train(Faces(args.data), args.out, args.minutes, args.seed)
    parser, heldout = load_parser(args.out), Faces(args.heldout)
    scores = [score(parser.parse(image), label) for image, label in zip(heldout.images.numpy(), heldout.labels.numpy())]
    for name in scores[0]:
        print(f"{name} on {len(scores)} held-out renders: {sum(s[name] for s in scores) / len(scores):.4f}")


if __name__ == "__main__":
    main()
