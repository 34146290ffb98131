"""Train the stand-alone MDiT and its text encoder together: `python -m mdit.training.train CONFIG.yaml`."""
from __future__ import annotations

import argparse
import copy
import csv
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from comfy.cli_args import args as host_args

host_args.cpu = not torch.cuda.is_available()

import comfy.model_management
import comfy.ops
from comfy.ldm.modules.attention import attention_basic

from ..labelmap import CLASSES, PALETTE, to_image
from ..mditface import layers, text
from ..mditface.config import MDiTConfig
from ..mditface.layers import MaskRows
from ..mditface.model import MIN_SIGMA, MDiT
from ..mditface.text import PAD, TextConfig, TextEncoder, WordTokenizer
from ..mditface.tokens import class_cells
from .data import Faces, augment
from .render.caption import VOCABULARY

SYNONYMS = {
    "blonde": "blond", "grey": "gray", "brunette": "brown", "ginger": "red", "lady": "woman", "girl": "woman",
    "female": "woman", "guy": "man", "boy": "man", "male": "man", "elderly": "old", "spectacles": "glasses",
    "sweatshirt": "hoodie", "tshirt": "shirt", "blouse": "shirt", "moustache": "mustache", "fringe": "bangs",
    "backdrop": "background", "picture": "photo", "fair": "light", "silver": "gray", "violet": "purple",
    "smile": "smiling", "happy": "smiling", "sad": "frowning", "earring": "earrings", "eyebrow": "eyebrows",
}
PROBED = ("hair_color", "clothes_color", "background_color", "hat_color", "skin_tone", "sex", "lipstick",
          "facial_hair", "glasses", "age", "hair_length")
LOSS_MIN_SIGMA = 0.15
DROP = 0.1
NO_MASK = -1e4  # bias on the keys of a dropped mask


class FaceModel(nn.Module):
    """The network and its text encoder, trained together. `tokenize` gives word ids (B, length)."""

    def __init__(self, config: MDiTConfig, text_config: TextConfig):
        super().__init__()
        self.config, self.text_config = config, text_config
        self.network = MDiT(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
        self.text_encoder = TextEncoder(text_config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
        self.tokenizer = WordTokenizer(tokenizer_data={"mdit_text": text_config})

    def tokenize(self, captions: list[str]) -> Tensor:
        return torch.tensor([[token[0] for token in self.tokenizer.tokenize_with_weights(caption)["mdit"][0]]
                             for caption in captions])

    def forward(self, x: Tensor, sigma: Tensor, ids: Tensor, labels: Tensor, keep_mask: Tensor) -> Tensor:
        """Velocity for x (B, 3, S, S) at sigma (B,); keep_mask (B,) is false where the mask is dropped."""
        context, pooled = self.text_encoder(ids)
        patch = self.config.patch
        tokens = class_cells(labels, torch.ones(len(CLASSES)), self.config.mask_cells, patch)  # (B, M, features)
        kv = list(self.network.static_path(tokens, labels.shape[1] // patch, labels.shape[2] // patch))
        bias = torch.where(keep_mask, 0.0, NO_MASK)[:, None].expand(-1, tokens.shape[1])  # (B, M)
        return self.network(x, sigma, context, pooled, [MaskRows(slice(None), kv, bias)])

    def save(self, path: Path):
        """The published layout: network, `text_encoder.` prefix, configuration in the header."""
        weights = {name: weight.half().contiguous() for name, weight in self.network.state_dict().items()}
        weights |= {f"text_encoder.{name}": weight.half().contiguous()
                    for name, weight in self.text_encoder.state_dict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path, self.config.to_metadata() | self.text_config.to_metadata())


def initialise(model: FaceModel):
    """Xavier matrices, residual branches scaled down by the depth, open gates, and a local start of the attention."""
    depth = model.config.depth
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            nn.init.xavier_uniform_(module.weight, gain=(2 * depth) ** -0.5 if name.endswith(("proj", "fc2")) else 1)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5 if name.endswith("embed") else 0.02)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            nn.init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
    for block in model.network.blocks:
        for stream in (block.img, block.txt, block.msk):
            nn.init.zeros_(stream.mod.weight)
            stream.mod.bias.data = torch.tensor([0.0, 0, 1, 0, 0, 1]).repeat_interleave(model.config.width)
        for stream in (block.img, block.msk):
            local_start(stream, model.config)
    for zero in (model.network.final.mod, model.network.final.linear):
        nn.init.zeros_(zero.weight)


def local_start(stream: layers.Stream, config: MDiTConfig):
    """Constant q and k biases on the fast half of each axis' rotations, in half of the heads.

    After rotation an image token then attends to the mask token of its own place from the first step on; the other
    heads stay free for text (bundled-model spec, section 3).
    """
    quarter = config.head_dim // 4
    bias = stream.qkv.bias.data.view(3, config.heads, 4, quarter)  # q, k, v; axis halves: rows fast, slow, cols ...
    strength = torch.linspace(0.5, 1.5, config.heads // 2).view(1, -1, 1, 1)
    bias[:2, :config.heads // 2, ::2] = strength


def pretrain_text(model: FaceModel, faces: Faces, minutes: float, generator: torch.Generator):
    """Teaches the encoder which word belongs to which noun: it predicts the known attributes from captions."""
    values = {name: sorted({str(a.get(name)) for a in faces.attributes}) for name in PROBED}
    width = model.text_config.width
    heads = nn.ModuleDict({name: nn.Linear(width, len(v)) for name, v in values.items()})
    queries = nn.Parameter(torch.randn(len(PROBED), width) * 0.02)
    optimiser = torch.optim.AdamW([*model.text_encoder.parameters(), *heads.parameters(), queries], lr=1.5e-3)
    end, bar = time.monotonic() + minutes * 60, tqdm(desc="text", unit="step")
    while time.monotonic() < end:
        index = torch.randint(len(faces), (128,), generator=generator).tolist()
        tokens, _ = model.text_encoder(model.tokenize([faces.captions[i] for i in index]))  # (B, L, d)
        read = (queries @ tokens.transpose(1, 2)).softmax(-1) @ tokens  # (B, attributes, d)
        losses = [F.cross_entropy(heads[name](read[:, n]), torch.tensor(
            [values[name].index(str(faces.attributes[i].get(name))) for i in index]))
            for n, name in enumerate(PROBED)]
        loss = sum(losses)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        bar.update()
        bar.set_postfix({name: f"{x.item():.2f}" for name, x in zip(PROBED[:3], losses)})


def flow_loss(model: FaceModel, images: Tensor, ids: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Squared velocity error with sigma held at 0.15 or above (bundled-model spec, section 3)."""
    batch = len(images)
    sigma = torch.sigmoid(torch.randn(batch, generator=generator) + 0.5)  # 1 - t, t = sigmoid(normal(-0.5, 1))
    s = sigma.view(-1, 1, 1, 1)
    x = s * torch.randn(images.shape, generator=generator) + (1 - s) * images
    ids = torch.where(torch.rand(batch, 1, generator=generator) < DROP, PAD, ids)
    keep_mask = torch.rand(batch, generator=generator) >= DROP
    clean = x - model(x, sigma, ids, labels, keep_mask) * s.clamp(min=MIN_SIGMA)
    return ((clean - images) / s.clamp(min=LOSS_MIN_SIGMA)).square().mean()


def optimisers(model: FaceModel) -> list[torch.optim.Optimizer]:
    """Muon on the matrices inside the blocks, AdamW on everything else."""
    matrices = [weight for name, weight in model.network.blocks.named_parameters()
                if weight.ndim == 2 and ".mod." not in name]
    rest = [weight for weight in model.parameters() if all(weight is not m for m in matrices)]
    return [torch.optim.Muon(matrices, lr=0.01, weight_decay=0.0),
            torch.optim.AdamW(rest, lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.0)]


def rate(step: int, progress: float) -> float:
    """Warm-up over 100 steps, flat, then linear to zero over the last 40 % of the time."""
    return min(1.0, (step + 1) / 100, max(0.0, (1 - progress) / 0.4))


@torch.no_grad()
def update_average(average: FaceModel, model: FaceModel, step: int):
    decay = min(0.998, (step + 1) / (step + 10))
    for mean, weight in zip(average.parameters(), model.parameters()):
        mean.lerp_(weight, 1 - decay)


@torch.no_grad()
def generate(model: FaceModel, labels: Tensor, captions: list[str], steps: int = 20, mask_scale: float = 1.5,
             text_scale: float = 3.0, seed: int = 0) -> Tensor:
    """Euler sampling with both guidances: pictures (B, S, S, 3) uint8."""
    batch, side = labels.shape[:2]
    x = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))
    ids = torch.cat([torch.full_like(model.tokenize(captions), PAD)] * 2 + [model.tokenize(captions)])
    keep_mask = torch.tensor([False, True, True]).repeat_interleave(batch)
    sigmas = torch.linspace(1, 0, steps + 1)
    for sigma, following in zip(sigmas[:-1], sigmas[1:]):
        v = model(x.repeat(3, 1, 1, 1), sigma.expand(3 * batch), ids, labels.repeat(3, 1, 1), keep_mask)
        none, mask, both = v.chunk(3)
        x = x + (following - sigma) * (none + mask_scale * (mask - none) + text_scale * (both - mask))
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def sheet(rows: list[Tensor]) -> Image.Image:
    """Rows of pictures (n, S, S, 3) uint8 under each other."""
    return Image.fromarray(torch.cat([row.transpose(0, 1).flatten(1, 2) for row in rows]).numpy())


def sample_sheet(model: FaceModel, heldout: Faces, count: int = 10) -> Image.Image:
    images, labels, captions = heldout.take(torch.arange(count))
    true = ((images.permute(0, 2, 3, 1) + 1) * 127.5).to(torch.uint8)
    maps = (to_image(labels) * 255).to(torch.uint8)
    return sheet([maps, generate(model, labels, captions), true])


class Run:
    """One training run in a folder: checkpoint, log, sample sheets. Continues where the folder's checkpoint stands."""

    def __init__(self, config: dict):
        self.config, self.folder = config, Path(config["run"])
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = self.folder / "checkpoint.pt"
        self.faces, self.heldout = Faces(Path(config["data"])), Faces(Path(config["heldout"]))
        torch.manual_seed(config["seed"])
        self.generator = torch.Generator().manual_seed(config["seed"])
        self.model = FaceModel(MDiTConfig(**config["model"], palette=PALETTE), TextConfig(VOCABULARY, SYNONYMS))
        self.optimisers = optimisers(self.model)
        self.step, self.seconds = 0, 0.0
        if self.checkpoint.exists():
            self.restore()
        else:
            initialise(self.model)
            pretrain_text(self.model, self.faces, config["text_minutes"], self.generator)
            self.average = copy.deepcopy(self.model)

    def restore(self):
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average = copy.deepcopy(self.model)
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]

    def store(self):
        draft = self.checkpoint.with_suffix(".draft")
        torch.save({"model": self.model.state_dict(), "average": self.average.state_dict(),
                    "optimisers": [o.state_dict() for o in self.optimisers], "generator": self.generator.get_state(),
                    "step": self.step, "seconds": self.seconds}, draft)
        draft.replace(self.checkpoint)
        self.average.save(Path(self.config["out"]))

    def train_step(self) -> float:
        index = torch.randint(len(self.faces), (self.config["batch"],), generator=self.generator)
        images, labels, captions = self.faces.take(index)
        images, labels = augment(images, labels, self.generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.get("bf16", True)):
            loss = flow_loss(self.model, images, self.model.tokenize(captions), labels, self.generator)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        scale = rate(self.step, self.seconds / (60 * self.config["minutes"]))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * scale
            optimiser.step()
            optimiser.zero_grad()
        update_average(self.average, self.model, self.step)
        return loss.item()

    def __call__(self):
        limit = 60 * self.config["minutes"]
        bar = tqdm(total=int(limit), initial=int(self.seconds), unit="s", desc="train")
        with (self.folder / "log.csv").open("a", newline="") as file:
            log, losses = csv.writer(file), []
            while self.seconds < limit:
                start = time.monotonic()
                losses.append(self.train_step())
                self.step += 1
                self.seconds += time.monotonic() - start
                bar.update(int(self.seconds) - bar.n)
                if self.step % 50 == 0:
                    bar.set_postfix(step=self.step, loss=sum(losses) / len(losses))
                    log.writerow([self.step, f"{self.seconds:.0f}", f"{sum(losses) / len(losses):.4f}"])
                    file.flush()
                    losses = []
                if self.step % 200 == 0:
                    self.faces.refresh()
                    self.store()
                if self.step % 400 == 0:
                    sample_sheet(self.average, self.heldout).save(self.folder / f"sheet-{self.step:06d}.png")
        self.store()
        sample_sheet(self.average, self.heldout).save(self.folder / "sheet-final.png")


def main():
    parser = argparse.ArgumentParser(prog="python -m mdit.training.train", description=__doc__)
    parser.add_argument("config", type=Path)
    options = parser.parse_args()
    comfy.model_management.in_training = True  # the host's plain, differentiable rotation
    layers.optimized_attention = text.optimized_attention = attention_basic  # fused kernels: slow CPU backward
    Run(yaml.safe_load(options.config.read_text()))()


if __name__ == "__main__":
    main()
