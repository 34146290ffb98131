"""A host model with a mask on it, read in each way that the pack has, and what a user would pick instead."""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mditface.mdit import labelmap
from mditface.mdit.mditface.adapter.reader import AdapterReader
from mditface.mdit.mditface.adapter.config import AdapterConfig
from mditface.mdit.mditface.adapter.families import FAMILIES, MODULATION
from mditface.mdit.mditface.adapter.terms import Adapter
from mditface.mdit.mditface.attention import MaskRows
from mditface.mdit.mditface.entries import make_key_bias
from mditface.mdit.mditface.mask import BoundMask, MaskInput, MaskReference
from mditface.mdit.mditface.reader import OPTIONS_KEY, CacheOptions
from mditface.mdit.mditface.reductions import REDUCTIONS
from mditface.mdit.mditface.tokens import MaskTokens, find_flat_regions

from .hosts import BACKBONES, TEXT_WIDTH, Control, Sizes
from .joint import Joint
from .measure import Meter

LABEL_MAP = "woman.png"
RANK = 16
RADIUS = 3
NAMES = {"off": "exact", "half, merged": "half_merge"}
MODES = {NAMES.get(name, name): name for name in REDUCTIONS} | {"window": "off"}  # to the reduction of the mask
BF16 = 2  # bytes


class Model:
    """What an adapter's reader needs of the host's base model; as the reader's executor it is the model call.

    conds: of all rows; a call with fewer rows takes the first ones.
    """
    current_patcher = None

    def __init__(self, network, latent_format, conds: dict):
        self.diffusion_model = network
        self.latent_format = latent_format
        self.conds = conds

    @property
    def class_obj(self) -> Model:
        return self

    def process_latent_in(self, latent: Tensor) -> Tensor:
        return latent

    def get_dtype_inference(self) -> torch.dtype:
        return self.diffusion_model.dtype

    def __call__(self, x, t, c_concat, c_crossattn, control, transformer_options, **conds) -> Tensor:
        conds |= {name: cond[:x.shape[0]] for name, cond in self.conds.items()}
        return self.diffusion_model(x, t, context=c_crossattn, control=control,
                                    transformer_options=transformer_options, **conds)


class ImageVAE:
    """Replaces the VAE of a latent format: equal pixels become equal cells."""

    def __init__(self, latent_format):
        self.channels = latent_format.latent_channels
        self.cell = latent_format.spacial_downscale_ratio

    def encode(self, image: Tensor) -> Tensor:
        """(b, H, W, 3) -> (b, C, h, w)."""
        mix = torch.randn(3, self.channels, generator=torch.Generator().manual_seed(1))
        return F.avg_pool2d((2 * image - 1).matmul(mix).movedim(-1, 1), self.cell)


class MeteredReader(AdapterReader):
    """Tells a meter where the static pass begins a block."""

    def __init__(self, adapter: Adapter, meter: Meter, counts: list[int]):
        super().__init__(adapter, weight=1.0, condition=0)
        self.meter = meter
        self.counts = counts

    def make_stream(self, model):
        stream = super().make_stream(model)
        inputs = stream.make_inputs

        def begin(i: int, *args):
            self.meter.stand_for(self.counts[i])
            return inputs(i, *args)
        stream.make_inputs = begin
        return stream


def make_terms(sizes: Sizes, doubles: int, singles: int) -> dict[str, dict[str, Tensor]]:
    """Low-rank terms of all layers but the modulation."""
    terms = {}
    depth = {"double": doubles, "single": singles}
    for kind, blocks in FAMILIES[sizes.family].blocks.items():
        for name, layer in blocks.layers.items():
            if name == MODULATION:
                continue
            n_in = int(layer.n_in * sizes.width)
            n_out = int(layer.n_out[0] * sizes.width)
            for i in range(depth[kind]):
                terms[f"{kind}.{i}.{name}"] = {"down": torch.randn(RANK, n_in) * n_in ** -0.5,
                                               "up": torch.randn(n_out, RANK) * RANK ** -0.5}
    return terms


def read_labels(size: int) -> Tensor:
    """A bundled label map, (1, size, size)."""
    folder = labelmap.__path__[0]
    with Image.open(f"{folder}/examples/{LABEL_MAP}") as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).float()[None] / 255
    return labelmap.resize_nearest(labelmap.to_indices(pixels), size, size)


class Case:
    """One backbone at one size, with the inputs of a step and a way of reading the mask for each mode."""

    def __init__(self, name: str, size: int, rows: int, text_tokens: int | None, whole: bool, dtype: torch.dtype,
                 device: torch.device):
        torch.manual_seed(0)
        self.sizes = BACKBONES[name]
        self.size = size
        self.rows = rows
        self.dtype = dtype
        self.device = device
        self.text_tokens = text_tokens or self.sizes.text_tokens
        self.text_tokens += -self.text_tokens % self.sizes.text_multiple
        self.whole = whole
        self.counts, self.doubles = self.sizes.count_blocks(whole)
        network = self.sizes.make_network(size, whole, dtype, device)
        self.meter = Meter(dict(zip(self.sizes.list_modules(network), self.counts)))
        latent_format = self.sizes.latent_format()
        side = size // latent_format.spacial_downscale_ratio
        frames = (1,) * (latent_format.latent_dimensions - 2)
        self.x = self.draw_normal(latent_format.latent_channels, *frames, side, side)  # (B, C, h, w) or (B, C, 1, h, w)
        self.t = self.draw_normal().sigmoid()
        self.context = self.draw_normal(self.text_tokens, TEXT_WIDTH)
        values = {"y": self.draw_normal(self.sizes.pooled),
                  "guidance": torch.full((rows,), 3.5, dtype=dtype, device=device),
                  "num_tokens": torch.full((rows,), self.text_tokens)}  # asked for by Z-Image's class, and not read
        conds = {name: values[name] for name in FAMILIES[self.sizes.family].list_prompt_inputs(network)}
        self.model = Model(network, latent_format, conds)
        self.terms = make_terms(self.sizes, self.doubles, len(self.counts) - self.doubles)
        self.readers = {mode: self.make_reader(mode) for mode in MODES}
        self.masks = {mode: self.bind_mask(mode) for mode in MODES}
        self.entries = {}

    def draw_normal(self, *shape: int) -> Tensor:
        return torch.randn(self.rows, *shape).to(self.device, self.dtype)

    def make_reader(self, mode: str) -> MeteredReader:
        window = {"window": RADIUS, "text_reads_mask": False} if mode == "window" else {}
        config = AdapterConfig(self.sizes.family, self.sizes.width, (self.doubles, len(self.counts) - self.doubles),
                               RANK, RANK, **window)
        adapter = Adapter(config, self.terms)
        adapter.terms.to(self.device)
        return MeteredReader(adapter, self.meter, self.counts)

    def bind_mask(self, mode: str) -> BoundMask:
        mask = MaskInput(read_labels(self.size), torch.ones(len(labelmap.CLASSES)), MODES[mode],
                         ImageVAE(self.model.latent_format))
        return BoundMask(MaskReference(mask), self.x.shape, self.model, self.readers[mode].get_layout(self.model))

    def get_tokens(self, mode: str) -> MaskTokens:
        return self.masks[mode].get_tokens(None)[0]

    def run_static(self, mode: str):
        self.entries[mode] = self.readers[mode].find_entry(self.model, self.masks[mode], None, None, (), self.device,
                                                           {OPTIONS_KEY: CacheOptions("off")})

    def run_base(self, rows: int | None = None, transformer_options: dict = {}, **conds) -> Tensor:
        """The model call without a mask, of all rows or the first ones."""
        return self.model(self.x[:rows], self.t[:rows], None, self.context[:rows], None, transformer_options, **conds)

    def run_joint(self, rows: int | None = None, decoupled: bool = False) -> Tensor:
        stream = AdapterReader.make_stream(self.readers["exact"], self.model)
        return self.run_base(rows, Joint(stream, self.get_tokens("exact"), decoupled).options)

    def run_cached(self, mode: str) -> Tensor:
        entry = self.entries[mode]
        rows = (MaskRows(slice(0, self.rows), entry, make_key_bias(entry, 1.0)),)
        return self.readers[mode].call_model(self.model, rows, self.x, self.t, None, self.context, None, {})

    def run_reference_latents(self) -> Tensor:
        return self.run_base(ref_latents=[self.x])

    def run_controlled(self, control: Control) -> dict:
        return control.module(self.x, self.t, context=self.context, hint=self.x, **self.model.conds,
                              **control.arguments)

    def count_cache_bytes(self, mode: str) -> int:
        """Of an entry in bf16 at full depth."""
        blocks = zip(self.counts, self.entries[mode].blocks)
        return sum(count * BF16 * x.numel() for count, block in blocks for x in block)

    def count_leaves(self) -> int:
        tokens = self.get_tokens("merge")
        return int(find_flat_regions(tokens.classes, tokens.grid).max()) + 1

    def count_adapter_bytes(self) -> int:
        """Of the adapter's terms in bf16 at full depth."""
        total = 0
        for name, halves in self.terms.items():
            kind, i, _ = name.split(".")
            count = self.counts[int(i) + (self.doubles if kind == "single" else 0)]
            total += count * BF16 * sum(x.numel() for x in halves.values())
        return total
